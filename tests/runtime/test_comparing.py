"""Models side by side: each scored in its own process, compared on the same rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgestill.artifact import Checkpoint
from edgestill.cli.evaluate import _short
from edgestill.dataset import Example, Message
from edgestill.errors import InputError, StageError
from edgestill.export import export_checkpoint
from edgestill.runtime import comparing
from edgestill.runtime.comparing import Asked, compare_models
from edgestill.runtime.evaluate import evaluate
from edgestill.runtime.session import Session
from edgestill.runtime.tasks import get_task
from edgestill.threads import measuring_environment


def rows(count: int = 6) -> list[Example]:
    return [
        Example((Message("user", f"dim the lights to {n}"), Message("assistant", "yes")), None, f"rows:{n}", ("no",))
        for n in range(count)
    ]


def test_another_process_scores_what_this_one_scores(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f32", tmp_path / "gguf").model_path
    compared = compare_models(
        [str(tiny_checkpoint), str(file)], Asked("qa", examples=rows()), predictions=tmp_path / "answers"
    )
    first, second = compared.records
    with Session.open(tiny_checkpoint) as session:
        here = evaluate(session, get_task("qa"), rows(), model_name="here")
    written = [json.loads(line) for line in (tmp_path / "answers" / "1.jsonl").read_text().splitlines()]
    assert [row["text"] for row in written] == [row.text for row in here.predictions]
    assert [row["gold"] for row in written] == [["yes", "no"]] * 6
    assert first.metrics["f1"].value == here.record.metrics["f1"].value
    assert (compared.primary_metric, first.engine, second.engine) == ("f1", "torch", "llama.cpp")
    assert first.retention is None
    assert second.difference is not None
    assert second.difference.value == 0
    for record, path in ((first, tiny_checkpoint), (second, file)):
        assert record.size_bytes is not None
        files = path.rglob("*") if path.is_dir() else [path]
        assert 0 < record.size_bytes <= sum(one.stat().st_size for one in files)
        assert record.peak_rss_bytes is not None
        assert (record.peak_rss_bytes.value or 0) > (record.size_bytes or 0)
        assert record.peak_pss_bytes is not None
        assert (record.peak_pss_bytes.value or 0) <= (record.peak_rss_bytes.value or 0)


def test_a_process_that_dies_is_named_with_what_it_had_done(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying_worker.py").write_text(
        "import json, os, signal, sys\n"
        "json.load(sys.stdin)\n"
        'for event in ({"event": "task", "label": "x", "total": 6, "unit": "answers"},\n'
        '              {"event": "advance", "amount": 2, "fields": {}}):\n'
        "    print(json.dumps(event), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(comparing, "_WORKER", "dying_worker")
    with pytest.raises(StageError, match=r"evaluating .*: the worker was killed by SIGKILL .*after 2 finished answers"):
        compare_models([str(tiny_checkpoint)], Asked("qa", examples=rows()))
    with pytest.raises(InputError, match="nowhere: no such model"):
        compare_models([str(tiny_checkpoint), "nowhere"], Asked("qa", examples=rows()))


def test_the_command_prints_all_models_in_one_table(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"dim {n}", "completion": "yes"}) + "\n" for n in range(4)))
    command = [sys.executable, "-m", "edgestill.cli", "eval", str(tiny_checkpoint), str(tiny_checkpoint)]
    command += ["--task", "classification", "--data", str(data)]
    ran = subprocess.run(command, capture_output=True, text=True, env=dict(measuring_environment()))
    assert ran.returncode == 0, ran.stderr
    head, first, second = [line for line in ran.stdout.splitlines() if line.strip("─ ")]
    assert [word in head for word in ("accuracy", "answer_seconds", "accuracy kept", "peak RSS", "size")] == [True] * 5
    assert "points" not in first
    assert "+0.0 points" in second


@pytest.mark.parametrize(
    ("models", "short"),
    [
        (["out/teacher", "out/student"], ["teacher", "student"]),
        (["/a/b/c.gguf", "/a/d/c.gguf"], ["b/c.gguf", "d/c.gguf"]),
        (["/a/x", "/b/x"], ["/a/x", "/b/x"]),
        (["out/x", "out/x"], ["x", "x"]),
        (["out/x"], ["out/x"]),
        (["out", "out/x"], ["out", "out/x"]),
    ],
)
def test_models_are_named_without_the_folders_they_share(models: list[str], short: list[str]) -> None:
    assert _short(models) == short
