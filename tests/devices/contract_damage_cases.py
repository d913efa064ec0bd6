"""Cases of the contract that every driver keeps: pushes that are cut, spoilt, or have no room."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time

import pytest

from edgestill.devices.contract import (
    DeviceBusy,
    DeviceGone,
    DriverError,
    JobCancelled,
    NoRoom,
    PushReport,
    WrongHash,
)
from tests.devices.contract_ground import Ground, Watch, case, one_line, some_bytes
from tests.devices.contract_targets import SMALL_DISK_BYTES


def arrived(ground: Ground) -> int:
    """Return how many bytes of a cut push lie there, once what was under way has arrived."""
    sizes = [-1]
    while len(sizes) < 3 or len(set(sizes[-3:])) > 1:
        time.sleep(0.2)
        sizes.append(sum(len(content) for name, content in ground.there().items() if name.startswith(".partial/")))
    return sizes[-1]


@case
def the_manifest_goes_last(ground: Ground) -> None:
    watch = Watch(ground.target.cut, 300_000)
    with pytest.raises(DriverError):
        ground.push({"manifest.json": b"new", "z": some_bytes(4_000_000)}, progress=watch)
    assert "manifest.json" not in ground.there()


@case
def a_cut_push_goes_on_where_it_was(ground: Ground) -> None:
    contents = {"manifest.json": b"{}", "a": some_bytes(500_000, 1), "b": some_bytes(8_000_000, 2)}
    with pytest.raises(DeviceGone) as error:
        ground.push(contents, progress=Watch(ground.target.cut, 6_000_000))
    one_line(error.value)
    there = arrived(ground)
    assert there > 0
    report = ground.push(contents)
    assert report.resumed_bytes == there
    assert report.sent_bytes == 8_000_002 - there
    assert report.files_kept == 1
    assert ground.there() == contents


@case
def a_cut_push_goes_on_with_another_driver(ground: Ground) -> None:
    with pytest.raises(DeviceGone):
        ground.push({"b": some_bytes(8_000_000)}, progress=Watch(ground.target.cut, 6_000_000))
    ground.driver.close()
    arrived(ground)
    with ground.target.driver() as other:
        report = other.push(ground.local({"b": some_bytes(8_000_000)}), "box")
    assert report.resumed_bytes > 0
    assert report.sent_bytes + report.resumed_bytes == 8_000_000


@case
def a_cancelled_push_goes_on_where_it_was(ground: Ground) -> None:
    stop = threading.Event()
    contents = {"b": some_bytes(8_000_000)}
    with pytest.raises(JobCancelled):
        ground.push(contents, progress=Watch(stop.set, 6_000_000), cancelled=stop)
    arrived(ground)
    report = ground.push(contents)
    assert report.sent_bytes + report.resumed_bytes == 8_000_000
    assert report.resumed_bytes > 0
    assert ground.there() == contents


@case
def a_damaged_partial_is_dropped(ground: Ground) -> None:
    content = some_bytes(200_000)
    partial = ground.target.root / "box" / ".partial" / hashlib.sha256(content).hexdigest()
    ground.push({"first": b"x"})
    for damaged in (b"x" * 100_000, content + b"more", content[:1000] + b"x" + content[1001:]):
        partial.parent.mkdir(exist_ok=True)
        partial.write_bytes(damaged)
        report = ground.push({"a": content})
        assert (report.sent_bytes, report.resumed_bytes) == (200_000, 0)
        assert ground.there() == {"a": content}
        ground.push({})


@case
def a_whole_partial_is_only_renamed(ground: Ground) -> None:
    content = some_bytes(200_000)
    ground.push({"first": b"x"})
    partial = ground.target.root / "box" / ".partial" / hashlib.sha256(content).hexdigest()
    partial.parent.mkdir()
    partial.write_bytes(content)
    assert ground.push({"a": content}) == PushReport(0, 200_000, 1, 0, 1)
    assert ground.there() == {"a": content}


@case
def a_partial_that_nothing_wants_is_removed(ground: Ground) -> None:
    ground.push({"a": b"x"})
    partials = ground.target.root / "box" / ".partial"
    partials.mkdir()
    (partials / hashlib.sha256(b"x").hexdigest()).write_bytes(b"")
    (partials / "0123").write_bytes(b"left")
    ground.push({"a": b"x"})
    assert ground.there() == {"a": b"x"}
    assert not partials.exists()


@case
def a_file_that_changed_there_is_sent_again(ground: Ground) -> None:
    content = some_bytes(100_000)
    ground.push({"a": content, "b": b"x"})
    (ground.target.root / "box" / "a").write_bytes(content[:-1] + b"!")
    assert ground.push({"a": content, "b": b"x"}) == PushReport(100_000, 0, 1, 1, 0)
    assert ground.there() == {"a": content, "b": b"x"}


@case
def bytes_that_change_on_the_way_are_refused(ground: Ground) -> None:
    files = ground.local({"a": some_bytes(3_000_000)})

    def spoil() -> None:
        with files["a"].open("r+b") as file:
            file.seek(2_900_000)
            file.write(b"spoilt")

    with pytest.raises(WrongHash) as error:
        ground.driver.push(files, "box", progress=Watch(spoil, 1))
    one_line(error.value)
    assert ground.there() == {}
    ground.driver.push(files, "box")
    assert ground.there() == {"a": files["a"].read_bytes()}


@case
def links_there_lead_nowhere(ground: Ground) -> None:
    outside = ground.folder / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"mine")
    ground.push({"manifest.json": b"1"})
    (ground.target.root / "box" / "sub").symlink_to(outside)
    (ground.target.root / "box" / "manifest.json").unlink()
    (ground.target.root / "box" / "manifest.json").symlink_to(outside / "a")
    ground.push({"manifest.json": b"2", "sub/a": b"theirs", "sub/b": b"theirs"})
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"a": b"mine"}
    assert ground.there() == {"manifest.json": b"2", "sub/a": b"theirs", "sub/b": b"theirs"}


@case
def a_link_in_place_of_the_folder_leads_nowhere(ground: Ground) -> None:
    outside = ground.folder / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"mine")
    ground.push({"first": b"1"}, "bundles/one")
    (ground.target.root / "bundles" / "two").symlink_to(outside)
    ground.push({"a": b"theirs"}, "bundles/two")
    assert (outside / "a").read_bytes() == b"mine"
    (ground.target.root / "bundles" / "three").symlink_to(outside)
    ground.driver.remove("bundles/three")
    assert (outside / "a").read_bytes() == b"mine"
    assert sorted(path.name for path in (ground.target.root / "bundles").iterdir()) == ["one", "two"]


@case
def too_little_room_is_said_before_anything_is_sent(ground: Ground) -> None:
    with ground.target.small_disk() as disk, ground.target.driver(disk / "root") as driver:
        driver.push(ground.local({"small": b"x"}), "box")
        with pytest.raises(NoRoom) as error:
            driver.push(ground.local({"small": b"x", "big": some_bytes(SMALL_DISK_BYTES)}), "box")
        one_line(error.value)
        assert "free" in str(error.value)
        assert [path.name for path in (disk / "root" / "box").rglob("*")] == ["small"]


@case
def a_disk_that_fills_in_the_middle_keeps_what_arrived(ground: Ground) -> None:
    with ground.target.small_disk() as disk, ground.target.driver(disk / "root") as driver:
        files = ground.local({"big": some_bytes(5_000_000)})

        def fill() -> None:
            with contextlib.suppress(OSError):
                (disk / "other").write_bytes(b"\0" * SMALL_DISK_BYTES)

        with pytest.raises(NoRoom) as error:
            driver.push(files, "box", progress=Watch(fill, 4_000_000))
        one_line(error.value)
        (disk / "other").unlink()
        report = driver.push(files, "box")
        assert report.resumed_bytes > 0
        assert report.sent_bytes + report.resumed_bytes == 5_000_000
        assert (disk / "root" / "box" / "big").read_bytes() == some_bytes(5_000_000)


@case
def a_second_push_at_once_is_refused(ground: Ground) -> None:
    refused: list[BaseException] = []

    def second() -> None:
        with ground.target.driver() as other, pytest.raises(DeviceBusy) as error:
            other.push(ground.local({"b": b"x"}), "box")
        refused.append(error.value)

    ground.push({"a": some_bytes(1_000_000)}, progress=Watch(second, 1))
    one_line(refused[0])
    assert ground.there() == {"a": some_bytes(1_000_000)}
    ground.push({"b": b"x"})
