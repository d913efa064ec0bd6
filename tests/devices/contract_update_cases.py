"""Cases of the contract that every driver keeps which stages: updates, and what is left when one fails or is cut."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from edgestill.devices.contract import DeviceGone, DriverError, Job, JobCancelled
from edgestill.devices.deploy import deploy
from edgestill.errors import GateError
from tests.devices.contract_ground import Ground, Watch, one_line, some_bytes
from tests.devices.contract_ground import case as plain_case
from tests.devices.contract_job_cases import nothing_runs, with_other_answers


def case(function: Callable[[Ground], None]) -> None:
    """Add a case for drivers that stage."""

    def only_where_staged(ground: Ground) -> None:
        if not ground.driver.stages:
            pytest.skip(f"{ground.driver.kind} has no second place for a new version")
        function(ground)

    only_where_staged.__name__ = function.__name__
    plain_case(only_where_staged)


def deployed(ground: Ground) -> str:
    """Deploy the bundle; returns its folder."""
    return deploy(ground.bundle, ground.driver, runner=ground.target.runner_program).folder


def works(ground: Ground, folder: str) -> None:
    """See that a bundle there is whole and computes."""
    assert ground.driver.run(Job("selftest", folder)).document is not None


@case
def a_failed_update_leaves_the_version_before(ground: Ground) -> None:
    folder = deployed(ground)
    before = ground.there(folder)
    with pytest.raises(GateError, match="the version before is as it was") as error:
        deploy(with_other_answers(ground), ground.driver, runner=ground.target.runner_program)
    one_line(error.value)
    assert ground.there(folder) == before
    assert not (ground.target.root / "staged").exists()
    works(ground, folder)
    nothing_runs(ground)


@case
def an_update_that_passes_takes_the_place_of_the_version_before(ground: Ground) -> None:
    folder = deployed(ground)
    before = ground.there(folder)
    (ground.target.root / folder / "golden.jsonl").write_bytes(b"of an older version")
    (ground.target.root / folder / "stale").write_bytes(b"x")
    done = deploy(ground.bundle, ground.driver)
    assert (done.push.files_sent, done.push.files_kept, done.push.files_removed) == (2, len(before) - 2, 1)
    assert done.push.sent_bytes == len(before["golden.jsonl"]) + len(before["manifest.json"])
    assert ground.there(done.folder) == before
    kept = {path.name for path in ground.target.root.iterdir() if path.name[0] != "."}
    assert kept == {"bundles", *(["runner"] if ground.driver.uses_runner else [])}


@case
def a_runner_that_fails_leaves_the_one_before(ground: Ground) -> None:
    folder = deployed(ground)
    broken = ground.folder / "edgestill-run"
    broken.write_text("#!/bin/sh\necho 'error: I am broken' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(GateError, match="the bundle there is left as it was"):
        deploy(ground.bundle, ground.driver, runner=broken)
    works(ground, folder)


@case
def a_cut_update_leaves_the_version_before_and_goes_on(ground: Ground) -> None:
    contents = {"manifest.json": b"1", "a": some_bytes(300_000, 1), "b": b"small"}
    ground.push(contents)
    newer = {"manifest.json": b"2", "a": some_bytes(300_000, 1), "c": some_bytes(8_000_000, 2)}
    files = ground.local(newer)
    with pytest.raises(DeviceGone):
        ground.driver.stage(files, "box", progress=Watch(ground.target.cut, 6_000_000))
    assert ground.there() == contents
    ground.driver.close()
    with ground.target.driver() as other:
        staged = other.stage(files, "box")
        assert staged.report.resumed_bytes > 0
        assert staged.report.sent_bytes + staged.report.resumed_bytes == 8_000_001
        assert (staged.folder, staged.older) == ("staged/box", True)
        assert ground.there() == contents
        other.replace({staged.folder: "box"})
    assert ground.there() == newer
    assert [path.name for path in ground.target.root.iterdir() if path.name[0] != "."] == ["box"]


@case
def what_has_not_changed_is_not_staged(ground: Ground) -> None:
    contents = {"manifest.json": b"1", "a": b"x"}
    ground.push(contents)
    stale = ground.target.root / "staged" / "box"
    stale.mkdir(parents=True)
    (stale / "left").write_bytes(b"of a cut update")
    staged = ground.driver.stage(ground.local(contents), "box")
    assert (staged.folder, staged.report.files_kept, staged.report.sent_bytes) == ("box", 2, 0)
    assert not stale.exists()


@case
def a_replacement_that_was_cut_is_taken_back_by_the_next_command(ground: Ground) -> None:
    folder = deployed(ground)
    before = ground.there(folder)
    away = ground.target.root / "replaced" / folder

    def cut() -> None:
        """As a power cut leaves it between the two renames."""
        away.parent.mkdir(parents=True, exist_ok=True)
        (ground.target.root / folder).rename(away)

    cut()
    works(ground, folder)
    assert ground.there(folder) == before
    cut()
    assert deploy(ground.bundle, ground.driver).push.sent_bytes == 0
    assert ground.there(folder) == before
    assert not (ground.target.root / "replaced").exists()


@case
def what_was_replaced_and_not_yet_deleted_is_deleted_by_the_next_update(ground: Ground) -> None:
    ground.push({"manifest.json": b"1"})
    left = ground.target.root / "replaced" / "box"
    left.mkdir(parents=True)
    (left / "manifest.json").write_bytes(b"0")
    staged = ground.driver.stage(ground.local({"manifest.json": b"2"}), "box")
    ground.driver.replace({staged.folder: "box"})
    assert ground.there() == {"manifest.json": b"2"}
    assert not (ground.target.root / "replaced").exists()


@case
def what_another_command_removed_is_not_put_in_place(ground: Ground) -> None:
    ground.push({"manifest.json": b"1"})
    staged = ground.driver.stage(ground.local({"manifest.json": b"2"}), "box")
    ground.driver.remove(staged.folder)
    with pytest.raises(DriverError, match="another command removed") as error:
        ground.driver.replace({staged.folder: "box"})
    one_line(error.value)
    assert ground.there() == {"manifest.json": b"1"}


@case
def an_update_in_place_needs_no_second_version(ground: Ground) -> None:
    folder = deployed(ground)
    with pytest.raises(GateError, match="nothing of the bundle is left there"):
        deploy(with_other_answers(ground), ground.driver, in_place=True)
    assert ground.there(folder) == {}
    assert not (ground.target.root / "staged").exists()
    assert deploy(ground.bundle, ground.driver, in_place=True).push.files_sent > 0
    works(ground, folder)


@case
def a_cancelled_self_test_leaves_the_version_before_and_is_taken_up_again(ground: Ground) -> None:
    folder = deployed(ground)
    (ground.target.root / folder / "golden.jsonl").write_bytes(b"of an older version")
    before = ground.there(folder)
    stop = threading.Event()
    run = ground.driver.run

    def cancelled(job: Job, **options: object) -> object:
        stop.set()
        return run(job, **options)  # type: ignore[arg-type]

    ground.driver.run = cancelled  # type: ignore[method-assign, assignment]
    with pytest.raises(JobCancelled):
        deploy(ground.bundle, ground.driver, cancelled=stop)
    del ground.driver.run
    assert ground.there(folder) == before
    assert deploy(ground.bundle, ground.driver).push.sent_bytes == 0
    assert ground.there(folder)["golden.jsonl"] != before["golden.jsonl"]


@case
def small_files_need_few_exchanges(ground: Ground) -> None:
    contents = {f"folder {number % 5}/'file' {number}": b"%d" % number * (number % 3) for number in range(250)}
    ground.push({"first": b"x"})
    start, scripts = ground.driver.start, []  # type: ignore[attr-defined]

    def counted(script: str) -> object:
        scripts.append(script)
        return start(script)

    ground.driver.start = counted  # type: ignore[attr-defined]
    report = ground.push(contents | {"manifest.json": b"{}"})
    assert ground.there() == contents | {"manifest.json": b"{}"}
    assert (report.files_sent, report.sent_bytes) == (251, sum(map(len, contents.values())) + 2)
    assert len(scripts) < 20
    assert max(map(len, scripts)) < 64 << 10


@case
def small_files_that_change_on_the_way_are_refused(ground: Ground) -> None:
    from edgestill.devices.push import Stored

    good = Stored(3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")  # of "abc"
    sent: list[int] = []
    ground.push({"first": b"x"}, "other")
    with pytest.raises(DriverError, match="another sha256") as error:
        ground.driver.files.send_small(  # type: ignore[attr-defined]
            "box", [("a", good, b"abc"), ("b", good, b"xyz")], cancelled=None, on_sent=sent.append
        )
    one_line(error.value)
    assert ground.there() == {}
    ground.push({"a": b"abc", "b": b"xyz"})
    assert ground.there() == {"a": b"abc", "b": b"xyz"}
