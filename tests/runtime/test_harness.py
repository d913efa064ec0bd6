"""lm-evaluation-harness through a session: the same numbers as its own model for transformers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from edgestill.artifact import Checkpoint
from edgestill.errors import UnsupportedError
from edgestill.export import export_checkpoint
from edgestill.runtime.harness import HarnessTask, _likelihood, _worth_reading, check_harness, score_harness
from edgestill.runtime.session import Session
from edgestill.threads import measuring_environment

TASKS = {
    "tiny_choice": """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: label
doc_to_choice: choices
num_fewshot: 1
fewshot_split: test
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "tiny_text": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: bits_per_byte}
""",
    "tiny_answer": """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: ["\\n", "e"], max_gen_toks: 12}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    words = ["lights", "kitchen", "percent", "model", "time", "o'clock", "tiny", "eight", "naïve", "東京"]
    rows = [
        {
            "question": f"dim the {word} to {number * 7}",
            "choices": [
                " percent",
                f" {word} at eight",
                " Once upon a time there was a tiny model and it was naïve",
                "",
            ][:3],
            "label": number % 3,
            "text": f"Once upon a {word} there was {number}. " * (1 + 20 * (number % 2)),
            "target": "x",
        }
        for number, word in enumerate(words)
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, body in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(head + body + "metadata: {version: 1.0}\ntag: tiny_tag\n")
    aggregate = "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]"
    (folder / "tiny_group.yaml").write_text(
        f"group: tiny_group\ntask: [tiny_choice]\n{aggregate}\nmetadata: {{version: 2.0}}\n"
    )
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path, tasks: Path) -> dict[str, Any]:
    """What lm-evaluation-harness says of the checkpoint, on transformers."""
    import transformers

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    model = HFLM(
        pretrained=transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint),
        tokenizer=transformers.AutoTokenizer.from_pretrained(tiny_checkpoint),
        batch_size=1,
    )
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0
    )
    return found


@pytest.fixture(scope="module", params=["transformers", "onnx", "gguf"])
def session(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = tiny_checkpoint
    if request.param != "transformers":
        precision = {"onnx": "fp32", "gguf": "f32"}[request.param]
        folder = tmp_path_factory.mktemp(request.param)
        model = export_checkpoint(Checkpoint.open(tiny_checkpoint), request.param, precision, folder).model_path
    with Session.open(model) as opened:
        yield opened


@pytest.mark.parametrize("name", list(TASKS))
def test_every_engine_scores_what_the_harness_scores(
    session: Session, reference: dict[str, Any], tasks: Path, name: str
) -> None:
    ours = score_harness(session, HarnessTask(name, folder=tasks))
    theirs = reference["results"][name]
    assert ours.metrics
    for metric, figure in ours.metrics.items():
        assert figure.value == pytest.approx(theirs[f"{metric},none"], rel=1e-4)
        assert math.isfinite(figure.value or 0.0)
    assert (ours.higher_is_better, ours.primary_metric) == {
        "tiny_choice": (True, "acc"),
        "tiny_text": (False, "word_perplexity"),
        "tiny_answer": (True, "exact_match"),
    }[name]


def test_each_likelihood_and_each_answer_is_the_harness_own(
    session: Session, reference: dict[str, Any], tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the scores alone, which ten rows could reach by chance."""
    seen: dict[str, Any] = {}
    real = lm_eval.simple_evaluate

    def kept(**options: Any) -> Any:
        seen.update(real(**options)["samples"])
        return real(**options)

    monkeypatch.setattr(lm_eval, "simple_evaluate", kept)
    score_harness(session, HarnessTask("tiny_choice", folder=tasks))
    score_harness(session, HarnessTask("tiny_answer", folder=tasks))
    for name, samples in seen.items():
        for ours, theirs in zip(samples, reference["samples"][name], strict=True):
            assert ours["arguments"] == theirs["arguments"]
            if name == "tiny_answer":
                assert ours["resps"] == theirs["resps"]
                continue
            for (mine, greedy), (expected, likewise) in zip(_pairs(ours), _pairs(theirs), strict=True):
                assert mine == pytest.approx(expected, abs=2e-3)
                assert greedy == likewise


def _pairs(sample: dict[str, Any]) -> list[tuple[float, bool]]:
    return [(float(response[0][0]), bool(response[0][1])) for response in sample["resps"]]


def test_what_is_compared_is_the_mean_over_rows(session: Session, tasks: Path) -> None:
    found = score_harness(session, HarnessTask("tiny_choice", folder=tasks, limit=7))
    assert found.statistics.shape == (7, 2)
    assert np.mean(found.statistics[:, 0]) == pytest.approx(found.metrics["acc"].value)
    assert found.metrics["acc"].n == 7


def test_an_unknown_task_is_named(tasks: Path) -> None:
    with pytest.raises(UnsupportedError, match="has no task 'tiny_chioce'"):
        check_harness(HarnessTask("tiny_chioce", folder=tasks))


def test_a_tag_has_no_score_and_its_tasks_are_named(tasks: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"tiny_tag.*tiny_answer, tiny_choice, tiny_text"):
        check_harness(HarnessTask("tiny_tag", folder=tasks))


def test_a_group_counts_the_rows_of_its_tasks(session: Session, reference: dict[str, Any], tasks: Path) -> None:
    found = score_harness(session, HarnessTask("tiny_group", folder=tasks))
    assert found.metrics["acc"].value == reference["results"]["tiny_choice"]["acc,none"]
    assert found.metrics["acc"].n == 10


def test_choices_share_their_context_or_are_run_whole_with_the_same_result(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = session.tokenizer.encode("Once upon a time there was a tiny model")
    choices = [session.tokenizer.encode(text, add_special=False) for text in (" and", " at eight", " percent and time")]
    session.reset()
    found = [
        [_likelihood(session, context, choice, session.engine.context_length, reading) for choice in choices]
        for reading in (True, False)
    ]
    for read, whole in zip(*found, strict=True):
        assert read[0] == pytest.approx(whole[0], abs=2e-3)
        assert read[1] == whole[1]
    session.reset()
    assert _worth_reading(session, [1] * 100, [[1] * 5] * 4, ())
    assert not _worth_reading(session, [1] * 10, [[1] * 50], ())
    assert not _worth_reading(session, [1] * 100, [[1] * 5], ())
    assert _worth_reading(session, [1] * 100, [[1] * 5], [1] * 90)  # the next one goes on from here


def test_the_command_compares_models_on_a_task_of_the_harness(tiny_checkpoint: Path, tasks: Path) -> None:
    command = [sys.executable, "-m", "edgestill.cli", "eval", str(tiny_checkpoint), str(tiny_checkpoint)]
    command += ["--task", "tiny_choice", "--task-folder", str(tasks), "--limit", "4", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, env=dict(measuring_environment()))
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    first, second = document["results"]
    assert document["primary_metric"] == "acc"
    assert first["retention"] is None
    assert second["difference"]["value"] == 0
    assert second["peak_rss_bytes"]["value"] > 0
