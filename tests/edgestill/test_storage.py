"""Writing whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgestill.errors import DiskFullError
from edgestill.storage import sha256_folder, whole_file, whole_folder, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "made") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "made").exists()
    assert names(tmp_path) == ["made"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_folder_leaves_nothing_and_keeps_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    with whole_folder(tmp_path / "made") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(error), whole_folder(tmp_path / "made") as folder:
        (folder / "a").write_text("new")
        raise error
    assert names(tmp_path) == ["made"]
    assert (tmp_path / "made" / "a").read_text() == "old"


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".made.deadbeef.partial").mkdir()
    with whole_folder(tmp_path / "made"):
        pass
    assert names(tmp_path) == ["made"]


def test_of_two_that_write_at_once_neither_removes_what_the_other_writes(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "made") as first:
        (first / "a").write_text("first")
        with whole_folder(tmp_path / "made") as second:
            (second / "a").write_text("second")
        assert (first / "a").read_text() == "first"
        assert (tmp_path / "made" / "a").read_text() == "second"
    assert (tmp_path / "made" / "a").read_text() == "first"
    assert names(tmp_path) == ["made"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / ".made.old.partial").mkdir()
    (tmp_path / ".made.old.partial" / "a").write_text("old")
    with pytest.raises(ValueError, match="stop"), whole_folder(tmp_path / "made"):
        raise ValueError("stop")
    assert (tmp_path / "made" / "a").read_text() == "old"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="disk full"), whole_file(tmp_path / "made") as partial:
        partial.write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_a_folders_hash_is_of_names_and_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_json(tmp_path / name / "a.json", {"x": 1})
    assert sha256_folder(tmp_path / "one") == sha256_folder(tmp_path / "two")
    (tmp_path / "two" / "b").touch()
    assert sha256_folder(tmp_path / "one") != sha256_folder(tmp_path / "two")
