"""Bad input: one line that names the thing, the right exit status, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RECIPE = """\
version: 1
name: demo
task: json
data: {train: train.jsonl}
teachers:
  - {kind: transformers, model: teacher}
student: {kind: pruned, layers: 1}
"""


def edgestill(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgestill.cli", *map(str, words)], capture_output=True, text=True, timeout=300
    )


def refused(result: subprocess.CompletedProcess[str], status: int, *named: str) -> None:
    """The last line of stderr is the error; nothing on stdout, no traceback."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    line = result.stderr.rstrip("\n").splitlines()[-1]
    assert line.startswith("error: ")
    for name in named:
        assert name in line


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "teacher").symlink_to(tiny_checkpoint)
    rows = [{"prompt": f"turn on lamp {n}", "completion": '{"action":"on"}'} for n in range(40)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


def test_a_misspelt_recipe_key(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE + "quantise: [onnx-int4]\n")
    refused(edgestill("run", recipe, "--out", tmp_path / "out"), 2, "'quantise'", "did you mean 'quantize'?")
    assert not (tmp_path / "out").exists()


def test_a_missing_data_file(recipe: Path, tmp_path: Path) -> None:
    (recipe.parent / "train.jsonl").unlink()
    refused(edgestill("run", recipe, "--out", tmp_path / "out"), 2, "train.jsonl", "no such data file")
    assert not (tmp_path / "out" / "data").exists()


def test_a_line_that_is_not_json_is_named_by_file_and_line(recipe: Path, tmp_path: Path) -> None:
    data = recipe.parent / "train.jsonl"
    lines = data.read_text().splitlines()
    lines[16] = '{"prompt": "oops'
    data.write_text("\n".join(lines))
    refused(edgestill("run", recipe, "--out", tmp_path / "out"), 2, f"{data}:17", "not JSON")
    assert not (tmp_path / "out" / "data").exists()


def test_a_wrong_option_of_the_task_is_refused_before_any_work(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("task: json", "task: math\ntask_options: {chain_of_though: true}"))
    refused(edgestill("run", recipe, "--out", tmp_path / "out"), 2, "'math'", "chain_of_though")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_an_unsupported_architecture(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["MambaForCausalLM"]}))
    for format in ("onnx", "gguf"):
        result = edgestill("export", folder, "--format", format, "--out", tmp_path / "out")
        refused(result, 2, "MambaForCausalLM", "GraniteForCausalLM, LlamaForCausalLM, MistralForCausalLM")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("command", ["export", "eval", "bench"])
def test_a_truncated_safetensors_file(tiny_checkpoint: Path, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    (tmp_path / "rows.jsonl").write_text('{"text": "hello there"}\n')
    options = {"export": ["--out", tmp_path / "out"], "eval": ["--data", tmp_path / "rows.jsonl"], "bench": []}
    refused(edgestill(command, folder, *options[command]), 2, "model.safetensors", "truncated")
    assert not (tmp_path / "out").exists()


def test_a_truncated_gguf_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert edgestill("export", tiny_checkpoint, "--out", tmp_path, "--no-parity").returncode == 0
    file = tmp_path / "gguf-f16" / "model.gguf"
    os.truncate(file, file.stat().st_size - 100)
    refused(edgestill("bench", file), 2, "model.gguf")
    refused(edgestill("quantize", file, "--to", "q4_0", "--out", tmp_path / "out"), 2, "model.gguf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["export", "nowhere", "--out", "out"], "nowhere"),
        (["bench", "nowhere.gguf"], "nowhere.gguf"),
        (["eval", "nowhere", "--data", "none.jsonl"], "none.jsonl"),
        (["bundle", "verify", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["quantize", "nowhere", "--to", "q4_0", "--out", "out"], "nowhere"),
        (["frobnicate"], "frobnicate"),
        (["bench"], "models"),
        (["quantize", "nowhere", "--to", "q4_0", "--out", "out", "--min-top1", "2"], "--min-top1"),
    ],
)
def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], named: str) -> None:
    monkeypatch.chdir(tmp_path)
    refused(edgestill(*words), 2, named)
    assert not list(tmp_path.iterdir())


def test_an_unknown_precision_names_those_there_are(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = edgestill("export", tiny_checkpoint, "--precision", "q2", "--out", tmp_path / "out")
    refused(result, 2, "'q2'", "f32, f16")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small tmpfs can be mounted by root only")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("format", ["onnx", "gguf"])
def test_a_full_disk_in_export(tiny_checkpoint: Path, small_disk: Path, format: str) -> None:
    precision = {"onnx": "fp32", "gguf": "f32"}[format]
    words = ("export", tiny_checkpoint, "--format", format, "--precision", precision, "--out", small_disk / "out")
    refused(edgestill(*words), 1, "disk full")
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_a_full_disk_in_quantize(tiny_checkpoint: Path, small_disk: Path, tmp_path: Path) -> None:
    words = ("--format", "gguf", "--precision", "f32", "--out", tmp_path / "made", "--no-parity")
    assert edgestill("export", tiny_checkpoint, *words).returncode == 0
    (small_disk / "filler").write_bytes(bytes(250_000))
    source = tmp_path / "made" / "gguf-f32"
    refused(edgestill("quantize", source, "--to", "q8_0", "--out", small_disk / "out"), 1, "disk full")
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["filler"]


def test_a_full_disk_in_a_run(recipe: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(290_000))
    refused(edgestill("run", recipe, "--out", small_disk / "out"), 1, "disk full")
    assert not [path for path in small_disk.rglob("*.partial*")]


def test_the_quickstart_leaves_a_folder_of_someone_elses_alone(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "mine.txt").write_text("mine")
    refused(edgestill("quickstart", "--out", tmp_path), 2, "'input'", "no run's folder")
    assert [path.name for path in tmp_path.rglob("*")] == ["input", "mine.txt"]


def test_modules_in_the_working_folder_are_not_imported(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may keep a random.py where the command runs; its own processes must not find it."""
    for name in ("random", "gguf", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working folder')\n")
    monkeypatch.chdir(tmp_path)
    command = Path(sys.executable).with_name("edgestill")
    for words in (
        ["export", str(tiny_checkpoint), "--out", "out", "--no-parity"],
        ["quantize", "out/gguf-f16", "--to", "q4_0", "--out", "out", "--no-parity"],
        ["bench", "out/gguf-q4_0", "--prompt-tokens", "4", "--new-tokens", "2", "--repetitions", "3"],
    ):
        result = subprocess.run([command, *words], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_a_command_alone_prints_its_help_as_it_is() -> None:
    for words in ([], ["bundle"]):
        result = edgestill(*words)
        assert result.returncode == 2
        assert (result.stdout + result.stderr).startswith("Usage: edgestill")
        assert "\n" in result.stdout + result.stderr


def test_a_preview_marks_what_is_learnt_and_trains_nothing(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = edgestill("distill", recipe, "--out", out, "--preview", "2", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert [len(row["pieces"]) for row in document["rows"]] == [2, 2]
    text, learnt = document["rows"][0]["pieces"][1]
    assert learnt
    assert text.startswith('{"action":"on"}')
    assert sorted(path.name for path in out.iterdir()) == ["data", "steps"]
    shown = edgestill("distill", recipe, "--out", out, "--preview", "1").stdout
    assert '⟦{"action":"on"}' in shown
