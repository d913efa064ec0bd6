"""Cases of the contract that every driver keeps: files pushed, pulled and removed."""

from __future__ import annotations

import os
from typing import Final

import pytest

from edgestill.devices.contract import (
    DriverError,
    JobFailed,
    PushReport,
)
from edgestill.errors import InputError
from tests.devices.contract_ground import Ground, case, one_line, some_bytes

HOSTILE_NAMES: Final = (
    "a b/c  d.bin",
    'it\'s/"quoted".bin',
    "$HOME/`id`/$(id).bin",
    "line\nbreak.bin",
    "-rf",
    "--help/x",
    "naïve/東京 \U0001f600.bin",
    "*?[a].bin",
    "back\\slash.bin",
    ".hidden/;ls&.bin",
)


@case
def a_push_sends_everything(ground: Ground) -> None:
    contents = {"manifest.json": b"{}", "artifacts/a/model.gguf": some_bytes(300_000), "tokenizer/x.json": b"x"}
    report = ground.push(contents)
    assert ground.there() == contents
    assert report == PushReport(sum(map(len, contents.values())), 0, 3, 0, 0)


@case
def a_second_push_sends_nothing(ground: Ground) -> None:
    contents = {"manifest.json": b"{}", "a": some_bytes(100_000)}
    ground.push(contents)
    assert ground.push(contents) == PushReport(0, 0, 0, 2, 0)


@case
def a_third_push_sends_only_what_changed(ground: Ground) -> None:
    ground.push({"manifest.json": b"1", "a": some_bytes(100_000), "b": b"same"})
    changed = {"manifest.json": b"2", "a": some_bytes(100_000, seed=1), "b": b"same"}
    assert ground.push(changed) == PushReport(100_001, 0, 2, 1, 0)
    assert ground.there() == changed


@case
def stale_files_are_removed(ground: Ground) -> None:
    ground.push({"manifest.json": b"1", "old/deep/file": b"x", "old name": b"y"})
    report = ground.push({"manifest.json": b"1"})
    assert (report.files_removed, report.files_kept) == (2, 1)
    assert ground.there() == {"manifest.json": b"1"}
    assert not (ground.target.root / "box" / "old").exists()


@case
def any_name_arrives_as_itself(ground: Ground) -> None:
    contents = {name: name.encode() for name in HOSTILE_NAMES}
    ground.push(contents, "folder of 'all' $kinds \U0001f600")
    assert ground.there("folder of 'all' $kinds \U0001f600") == contents
    assert ground.push(contents, "folder of 'all' $kinds \U0001f600").files_kept == len(contents)
    assert ground.push({}, "folder of 'all' $kinds \U0001f600").files_removed == len(contents)


@case
def an_empty_file_arrives(ground: Ground) -> None:
    assert ground.push({"empty": b"", "manifest.json": b""}).files_sent == 2
    assert ground.there() == {"empty": b"", "manifest.json": b""}
    assert ground.push({"empty": b"", "manifest.json": b""}).files_kept == 2


@case
def many_small_files_arrive(ground: Ground) -> None:
    contents = {f"folder {number % 7}/file {number} {'x' * 200}": bytes([number]) for number in range(100)}
    few = {name: contents[name] for name in list(contents)[:12]}
    assert ground.push(few).files_sent == 12
    everything = dict.fromkeys(contents, b"the same")
    base = ground.target.root / "box"
    for name, content in everything.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(content)
    assert ground.push(everything) == PushReport(0, 0, 0, 100, 0)


@case
def a_file_that_grew_or_shrank_is_sent(ground: Ground) -> None:
    for size in (50_000, 90_000, 10):
        content = some_bytes(90_000)[:size]
        assert ground.push({"a": content}).sent_bytes == size
        assert ground.there() == {"a": content}


@case
def two_names_may_hold_the_same_bytes(ground: Ground) -> None:
    contents = {"a": b"same", "b/c": b"same", "manifest.json": b"same"}
    ground.push(contents)
    assert ground.there() == contents


@case
def a_folder_may_become_a_file_and_a_file_a_folder(ground: Ground) -> None:
    ground.push({"a/b": b"1", "c": b"2"})
    ground.push({"a": b"3", "c/d": b"4"})
    assert ground.there() == {"a": b"3", "c/d": b"4"}


@case
def an_executable_file_stays_one(ground: Ground) -> None:
    files = ground.local({"program": b"#!/bin/sh\n", "text": b"x"})
    files["program"].chmod(0o755)
    ground.driver.push(files, "box")
    assert os.access(ground.target.root / "box" / "program", os.X_OK)
    assert not (ground.target.root / "box" / "text").stat().st_mode & 0o111
    assert ground.driver.push(files, "box").files_kept == 2


@case
def an_update_of_one_artifact_of_five_sends_that_one(ground: Ground) -> None:
    contents = {f"artifacts/a{number}/model.gguf": some_bytes(1_000_000, number) for number in range(5)}
    contents["manifest.json"] = some_bytes(10_000, 77)
    ground.push(contents)
    contents |= {"artifacts/a3/model.gguf": some_bytes(1_000_000, 33), "manifest.json": some_bytes(10_000, 78)}
    before = ground.target.wire_bytes()
    report = ground.push(contents)
    after = ground.target.wire_bytes()
    assert report.sent_bytes <= 1_050_000
    if before is not None and after is not None:
        assert 1_000_000 < after - before <= 1_050_000
    assert ground.there() == contents


@case
def a_missing_file_here_is_said_before_anything_is_sent(ground: Ground) -> None:
    with pytest.raises(InputError, match="no such file"):
        ground.driver.push({**ground.local({"a": b"x"}), "b": ground.folder / "none"}, "box")
    assert ground.there() == {}


@case
def a_path_that_leaves_the_folder_is_refused(ground: Ground) -> None:
    for path in ("..", "../x", "a/../../x", "/etc/passwd", "", "a\0b"):
        for act in (ground.driver.pull, ground.driver.remove, lambda path: ground.push({}, path)):
            with pytest.raises(ValueError, match="below the device's folder"):
                act(path)
        with pytest.raises(ValueError, match="below the device's folder"):
            ground.push({path: b"x"})


@case
def what_was_pushed_is_pulled_equal(ground: Ground) -> None:
    contents = {"a b/'c'\n": some_bytes(1_000_000), "lines": b"a\r\nb\n\0\xff", "empty": b""}
    ground.push(contents)
    assert {name: ground.driver.pull(f"box/{name}") for name in contents} == contents


@case
def a_pull_of_nothing_is_an_error(ground: Ground) -> None:
    ground.push({"a": b"x"})
    for path in ("box/none", "box", "none/at/all"):
        with pytest.raises(JobFailed) as error:
            ground.driver.pull(path)
        one_line(error.value)


@case
def a_removal_leaves_nothing(ground: Ground) -> None:
    ground.push({"a": b"x", "b/c/d": b"y", "-x": b"z"}, "deep/er/box")
    ground.push({"a": b"x"}, "other")
    ground.driver.remove("deep/er/box")
    assert sorted(path.name for path in ground.target.root.iterdir() if path.name[0] != ".") == ["other"]
    ground.driver.remove("other")
    assert not ground.target.root.exists()


@case
def a_removal_of_nothing_does_nothing(ground: Ground) -> None:
    ground.driver.remove("never/was")
    ground.driver.remove(".")
    assert not ground.target.root.exists()


@case
def a_removal_of_all_spares_a_folder_that_is_not_ours(ground: Ground) -> None:
    ground.target.root.mkdir(parents=True)
    (ground.target.root / "photos").write_bytes(b"dear")
    ground.driver.remove(".")
    with pytest.raises(DriverError, match="aren't ours"):
        ground.push({"a": b"x"})
    assert [path.name for path in ground.target.root.iterdir()] == ["photos"]
    (ground.target.root / "photos").unlink()
    ground.push({"a": b"x"})
    ground.driver.remove(".")
    assert not ground.target.root.exists()
