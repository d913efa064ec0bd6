"""Beside the repetitions: sessions at once, the bundle's own prompts, and what failed of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgestill.artifact import Checkpoint
from edgestill.bench_results import BenchDocument
from edgestill.cli import app
from edgestill.errors import InputError
from edgestill.export.onnx import export_onnx
from edgestill.progress import SILENT
from edgestill.runtime.bench_more import measure_more, own_prompts
from edgestill.runtime.bench_options import BenchOptions


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    model = export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", folder).folder
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"dim lamp {n}", "completion": "on"}) + "\n" for n in range(4)))
    words = ["bundle", "pack", tiny_checkpoint, model, "--prompts", rows, "--out", folder / "bundle"]
    words += ["--golden-prompts", "3", "--max-new-tokens", "5"]
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == 0, found.output
    return folder / "bundle"


def test_a_bundle_is_measured_with_its_loads_sessions_and_own_prompts(bundle: Path) -> None:
    words = ["bench", bundle, "--prompt-tokens", "8", "--new-tokens", "4,6", "--repetitions", "3", "--loads", "1"]
    words += ["--sessions", "1,2", "--task-prompts", "2", "--threads", "1", "--width", "0", "--json"]
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == 0, found.output
    first, second = BenchDocument.model_validate_json(found.stdout).results
    assert (first.new_tokens, second.new_tokens) == (4, 6)
    assert first.loads is not None
    assert first.loads.warm_seconds.n == 1
    assert second.loads is None  # a grid doesn't load each of its points again
    assert [one.sessions for one in first.concurrent] == [1, 2]
    assert [len(one.raw["answer_seconds"]) for one in first.concurrent] == [3, 6]
    for one in first.concurrent:
        assert one.failure is None
        assert one.tokens_per_second.value == pytest.approx(
            sorted(4 * one.sessions / seconds for seconds in one.raw["round_seconds"])[1]
        )
    assert first.task_answers is not None
    assert first.task_answers.prompts == 2
    assert first.task_answers.answer_seconds.n == 6
    assert max(first.task_answers.raw["new_tokens"]) <= 5
    assert first.phases is not None
    assert first.phases.engine_decode.value


def test_a_model_outside_of_a_bundle_has_no_prompts_of_its_own(bundle: Path) -> None:
    assert len(own_prompts(f"{bundle}#onnx-fp32")) == 3
    assert own_prompts(str(bundle / "artifacts" / "onnx-fp32")) == []
    assert own_prompts("nowhere#onnx-fp32") == []


def test_parts_that_fail_say_why_and_leave_the_others(bundle: Path) -> None:
    options = BenchOptions(loads=1, sessions=(2,), task_prompts=1, context_length=12, new_tokens=20, repetitions=1)
    found = measure_more(f"{bundle}#onnx-fp32", options, SILENT)
    assert set(found) == {"loads", "concurrent", "task_answers"}
    (one,) = found["concurrent"]  # type: ignore[misc]
    assert "20 new tokens leave no room" in one.failure
    assert one.tokens_per_second.value is None
    assert one.pss_bytes.source == one.failure


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"sessions": (0,)}, "sessions 0"), ({"task_prompts": -1}, "task_prompts -1"), ({"width": 0.0}, "width")],
)
def test_impossible_counts_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        BenchOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt-tokens", "8,x"], "whole numbers with commas"),
        (["--threads", "0"], "--threads 0 is too small"),
        (["--new-tokens", "4,1"], "--new-tokens 1 is too small"),
        (["--width", "-3%"], "is not a fraction"),
    ],
)
def test_wrong_lists_are_named(bundle: Path, words: list[str], said: str) -> None:
    found = CliRunner().invoke(app, ["bench", str(bundle), *words])
    assert found.exit_code == 2 or isinstance(found.exception, InputError)
    assert said in f"{found.output} {found.exception}"
