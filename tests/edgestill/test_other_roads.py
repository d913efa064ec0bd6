"""Roads beside the main one: a teacher that no format can hold, a text task, a refused file that was to be shipped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgestill.bundle import open_bundle
from edgestill.errors import GateError, UnsupportedError
from edgestill.pipeline import run_recipe
from edgestill.progress import SILENT

WORDS = ("the lamp", "a fan", "is on", "is off", "in the hall", "in the attic", "and", "then", "was dim")
RECIPE = """\
version: 1
name: story
task: text
data: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
teachers: [{kind: transformers, model: teacher}]
student:
  kind: config
  architecture: {hidden_size: 32, intermediate_size: 64, layers: 1, heads: 2, kv_heads: 1, context: 128}
distill: {learning_rate: 4.0e-3, batch_size: 16, epochs: 1, max_length: 96}
export: [onnx]
quantize: [onnx-int8]
gates: {min_top1_agreement: 0.3, max_kl: 2}
bench: {repetitions: 3, prompt_tokens: 8, new_tokens: 4}
bundle: {golden_prompts: 2}
"""


def write_story(folder: Path) -> Path:
    """A recipe of plain text whose teacher is a GPT-NeoX, which no format of ours holds."""
    import transformers

    from edgestill.distill.tokenizer import train_tokenizer

    folder.mkdir()
    texts = [
        " ".join(WORDS[(number * step + step) % len(WORDS)] for step in range(1, 12)) + f" {number} times"
        for number in range(120)
    ]
    for split, rows in (("train", texts[:80]), ("validation", texts[80:100]), ("test", texts[100:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    teacher = folder / "teacher"
    teacher.mkdir()
    train_tokenizer(texts, 320, teacher, max_length=128)
    vocab = len(json.loads((teacher / "tokenizer.json").read_text())["model"]["vocab"])
    config = transformers.GPTNeoXConfig(
        vocab_size=vocab + 8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
    )
    transformers.set_seed(0)
    transformers.logging.disable_progress_bar()
    transformers.GPTNeoXForCausalLM(config).save_pretrained(teacher)
    (teacher / "LICENSE").write_text("Be kind to lamps.\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


def test_a_teacher_that_cannot_be_exported_is_served_by_torch(tmp_path: Path) -> None:
    document = run_recipe(write_story(tmp_path / "input"), tmp_path / "out", progress=SILENT).document
    by_name = {model.name: model for model in document.models}
    assert sorted(by_name) == ["onnx-fp32", "onnx-int8", "student", "teacher-torch"]
    teacher, student = by_name["teacher-torch"], by_name["student"]
    assert any("GPTNeoXForCausalLM" in note for note in teacher.notes)
    assert teacher.bench is not None
    assert teacher.bench.engine == "torch"
    assert document.headline is not None
    assert document.headline.teacher == "teacher-torch"
    kept, shipped = document.headline.accuracy_retention.value, by_name[document.headline.artifact]
    bits = [model.metrics["bits_per_byte"].value for model in (teacher, shipped, student)]
    assert kept is not None
    assert None not in bits
    assert kept == pytest.approx(bits[0] / bits[1])  # type: ignore[operator]
    assert kept > 1  # the student has learnt the texts, the teacher nothing: fewer bits are better
    assert open_bundle(tmp_path / "out" / "bundle").manifest.task == "text"
    assert [path.read_text() for path in (tmp_path / "out" / "bundle").rglob("LICENSE")] == ["Be kind to lamps.\n"]


def test_a_student_that_cannot_be_exported_is_refused_before_any_answer(tmp_path: Path) -> None:
    recipe = write_story(tmp_path / "input")
    shutil.copytree(recipe.parent / "teacher", recipe.parent / "student")
    text = recipe.read_text()
    start = text.index("student:")
    recipe.write_text(text[:start] + "student: {kind: pretrained, model: student}\n" + text[text.index("distill:") :])
    with pytest.raises(UnsupportedError, match="GPTNeoXForCausalLM"):
        run_recipe(recipe, tmp_path / "out", progress=SILENT)
    assert not (tmp_path / "out" / "signal").exists()


def test_a_refused_file_that_was_to_be_shipped_stops_the_run(tmp_path: Path) -> None:
    recipe = write_story(tmp_path / "input")
    strict = recipe.read_text().replace("max_kl: 2", "max_kl: 1.0e-9").replace("golden_prompts: 2", "ship: onnx-int8")
    recipe.write_text(strict)
    with pytest.raises(GateError, match=r"refused onnx-int8, which bundle.ship asks for \(mean KL"):
        run_recipe(recipe, tmp_path / "out", progress=SILENT)
    assert not (tmp_path / "out" / "bundle").exists()


ASKED = """\
version: 1
name: asked
task: conversation
data: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
teachers:
  - {kind: openai, name: echo, model: echo, base_url: URL, api_key_env: EDGESTILL_TEST_KEY, price: PRICE}
  - {kind: gguf, name: near, model: near.gguf, weight: 0.2}
synthesize: {max_new_tokens: 12, concurrency: 4, max_cost: 1.0, ledger: answers.sqlite}
student: {kind: pretrained, model: student}
distill: {learning_rate: 4.0e-3, batch_size: 16, epochs: 1, max_length: 96, baseline: false}
export: [gguf]
quantize: [gguf-q8_0]
gates: {min_top1_agreement: 0.3, max_kl: 2}
bench: {repetitions: 3, prompt_tokens: 8, new_tokens: 4}
bundle: {golden_prompts: 2}
"""


def test_teachers_that_are_asked_are_scored_and_accounted_for(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgestill.artifact import Checkpoint
    from edgestill.export import export_checkpoint

    folder = tmp_path / "input"
    folder.mkdir()
    shutil.copytree(tiny_checkpoint, folder / "student")
    near = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f32", tmp_path / "near")
    shutil.copyfile(near.model_path, folder / "near.gguf")
    for split, count in (("train", 60), ("validation", 12), ("test", 12)):
        rows = [{"prompt": f"{split} lamp {n}", "completion": f"echo {split} lamp {n}"} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = {"key": "sk-very-secret", "model": "echo"}
    port_file = tmp_path / "port"
    server = Path(__file__).parents[1] / "distill" / "fault_server.py"
    monkeypatch.setenv("EDGESTILL_TEST_KEY", "sk-very-secret")
    process = subprocess.Popen([sys.executable, server, port_file, tmp_path / "log", json.dumps(rules)])
    try:
        while not port_file.exists():
            assert process.poll() is None
            time.sleep(0.02)
        (folder / "recipe.yaml").write_text(
            ASKED.replace("URL", f"http://127.0.0.1:{port_file.read_text()}/v1").replace(
                "PRICE", "{input: 1, output: 2}"
            )
        )
        document = run_recipe(folder / "recipe.yaml", tmp_path / "out", progress=SILENT).document
    finally:
        process.kill()
        process.wait()
    models = {model.name: model for model in document.models}
    assert models["teacher-echo"].metrics["bleu"].value == pytest.approx(1.0)
    assert models["teacher-echo"].bench is None
    assert models["teacher-near"].bench is not None
    assert document.headline is not None
    assert document.headline.teacher == "teacher-echo"
    assert document.headline.latency_reduction.value is None
    assert models["gguf-q8_0"].metrics["response_bits_per_byte"].value is not None
    accounts = json.loads((tmp_path / "out" / "steps" / "answers.json").read_text())["value"]["teachers"]
    assert [(one["teacher"], one["cost"] is None) for one in accounts] == [("echo", False), ("near", True)]
    assert sum(one["answers"] for one in accounts) == 60
    for path in tmp_path.joinpath("out").rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()
