"""Steps: done once, again only when something they depend on changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgestill.errors import InputError, StageError
from edgestill.progress import SILENT
from edgestill.steps import Steps


def test_a_step_is_done_once_and_its_value_is_kept(tmp_path: Path) -> None:
    calls = []

    def work() -> object:
        calls.append(1)
        (tmp_path / "made").write_text("x")
        return {"answer": 42}

    for _ in range(3):
        steps = Steps(tmp_path, SILENT)
        assert steps.run("one", {"a": 1}, work, outputs=[tmp_path / "made"]).value == {"answer": 42}
    assert len(calls) == 1
    assert steps.skipped == ["one"]


def test_a_changed_input_or_output_does_it_again(tmp_path: Path) -> None:
    calls = []

    def work() -> object:
        calls.append(1)
        (tmp_path / "made").write_text("x")
        return None

    def run(depends: object) -> None:
        Steps(tmp_path, SILENT).run("one", depends, work, outputs=[tmp_path / "made"])

    run(1)
    run(2)
    (tmp_path / "made").write_text("tampered")
    run(2)
    (tmp_path / "made").unlink()
    run(2)
    assert len(calls) == 4


def test_an_output_rewritten_with_the_same_bytes_is_not_done_again(tmp_path: Path) -> None:
    calls = []

    def work() -> object:
        calls.append(1)
        (tmp_path / "made").write_text("x")
        return None

    for _ in range(2):
        Steps(tmp_path, SILENT).run("one", 1, work, outputs=[tmp_path / "made", tmp_path / "absent"])
        (tmp_path / "made").write_text("x")
    assert len(calls) == 1


def test_a_failed_step_leaves_no_record(tmp_path: Path) -> None:
    def fail() -> object:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Steps(tmp_path, SILENT).run("one", 1, fail)
    assert Steps(tmp_path, SILENT).run("one", 1, lambda: "good").value == "good"


def test_two_runs_never_write_into_one_folder(tmp_path: Path) -> None:
    second = Steps(tmp_path, SILENT).locked()
    with Steps(tmp_path, SILENT).locked(), pytest.raises(StageError, match="another run"):
        second.__enter__()


def test_a_folder_of_someone_elses_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="holds 'data' and is no run's folder"), Steps(tmp_path, SILENT).locked():
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mine.jsonl"]
