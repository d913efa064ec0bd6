"""The contract's one case that Android needs in its own form: adb takes megabytes before it sends the first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgestill.devices.contract import NoRoom
from edgestill.runtime.native.build import NativeBuild
from tests.devices.adb_target import AdbTarget
from tests.devices.contract_ground import Watch, some_bytes
from tests.devices.contract_targets import SMALL_DISK_BYTES


@pytest.fixture
def target(tmp_path_factory: pytest.TempPathFactory, native_build: NativeBuild) -> Iterator[AdbTarget]:
    made = AdbTarget(tmp_path_factory.mktemp("adb"), native_build)
    yield made
    made.close()


def test_a_disk_that_fills_once_bytes_arrive_keeps_them(target: AdbTarget, tmp_path: Path) -> None:
    with target.small_disk() as disk, target.driver(disk / "root") as driver:
        big = tmp_path / "big"
        big.write_bytes(some_bytes(5_000_000))

        def fill() -> None:
            while not target.has_begun(disk / "root"):
                time.sleep(0.01)
            with contextlib.suppress(OSError):
                (disk / "other").write_bytes(bytes(SMALL_DISK_BYTES))

        with pytest.raises(NoRoom, match="the device's disk is full"):
            driver.push({"big": big}, "box", progress=Watch(fill, 1_000_000))
        (disk / "other").unlink()
        report = driver.push({"big": big}, "box")
        assert report.resumed_bytes > 0
        assert report.sent_bytes + report.resumed_bytes == 5_000_000
        assert (disk / "root" / "box" / "big").read_bytes() == big.read_bytes()
