"""One contract, every driver: each case on each target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgestill.bundle import Bundle
from edgestill.devices.registry import driver_names
from edgestill.runtime.native.build import NativeBuild
from tests.devices.adb_target import AdbTarget
from tests.devices.browser_target import BrowserTarget
from tests.devices.contract_cases import CASES, Ground
from tests.devices.contract_targets import TARGETS, BusyBoxTarget, QemuTarget, Target

ALL = {**TARGETS, "adb": AdbTarget, "browser": BrowserTarget}


@pytest.fixture(params=ALL)
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, native_build: NativeBuild
) -> Iterator[Target]:
    made = ALL[request.param](tmp_path_factory.mktemp(request.param), native_build)
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_every_driver_keeps_the_contract(
    name: str, target: Target, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if reason := target.left_out.get(name):
        pytest.skip(f"{name} can't be made here: {reason}")
    bundle = request.getfixturevalue(target.bundle)
    assert isinstance(bundle, Bundle)
    with target.driver() as driver:
        CASES[name](Ground(target, driver, tmp_path, bundle))


def test_there_are_at_least_thirty_cases() -> None:
    assert len(CASES) >= 30


def test_what_is_left_out_is_a_case() -> None:
    for target in (BusyBoxTarget, QemuTarget, AdbTarget, BrowserTarget):
        assert target.left_out.keys() <= CASES.keys()


def test_every_driver_has_a_target() -> None:
    assert set(driver_names()) <= ALL.keys()
