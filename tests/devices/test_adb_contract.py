"""The contract's cases on Android: the real adb program and a small device that speaks its protocol."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgestill.bundle import Bundle
from edgestill.devices.contract import NoRoom
from edgestill.runtime.native.build import NativeBuild
from tests.devices import contract_cases, contract_damage_cases, contract_job_cases
from tests.devices.adb_target import AdbTarget
from tests.devices.contract_ground import CASES, Ground, Watch, some_bytes
from tests.devices.contract_targets import SMALL_DISK_BYTES

for module in (contract_cases, contract_damage_cases, contract_job_cases):
    assert module.case  # each adds its cases when it is imported


@pytest.fixture
def target(tmp_path_factory: pytest.TempPathFactory, native_build: NativeBuild) -> Iterator[AdbTarget]:
    made = AdbTarget(tmp_path_factory.mktemp("adb"), native_build)
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_android_keeps_the_contract(name: str, target: AdbTarget, hostile_bundle: Bundle, tmp_path: Path) -> None:
    if reason := target.left_out.get(name):
        pytest.skip(f"{name} can't be made here: {reason}")
    with target.driver() as driver:
        CASES[name](Ground(target, driver, tmp_path, hostile_bundle))


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
