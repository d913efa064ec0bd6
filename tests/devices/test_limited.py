"""The limited device: what doesn't fit is said, and limits are really held."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgestill.devices import limits
from edgestill.devices.contract import DeviceError, Job, JobFailed
from edgestill.devices.drivers.limited import Limited, LimitedSettings

RUNNER = """#!/bin/sh
{body}
echo '{{"schema": "edgestill.bench/1"}}'
"""


def limited(tmp_path: Path, body: str, **settings: object) -> Limited:
    table = {"driver": "limited", "root": str(tmp_path / "root"), "memory_bytes": 48 << 20}
    driver = Limited("small", LimitedSettings.model_validate(table | settings))
    program = tmp_path / "edgestill-run"
    program.write_text(RUNNER.format(body=body))
    program.chmod(0o755)
    driver.push({"edgestill-run": program}, "runner")
    driver.push({"manifest.json": program}, "bundle")
    return driver


@pytest.fixture
def _groups() -> None:
    made = limits.make_group(64 << 20, 0.5)
    if made is None:
        pytest.skip("no control group may be made here")
    made.remove()


@pytest.mark.usefixtures("_groups")
def test_what_needs_more_memory_does_not_fit(tmp_path: Path) -> None:
    with (
        limited(tmp_path, "tail /dev/zero || exit 137") as driver,
        pytest.raises(JobFailed, match="doesn't fit: killed for want of memory at the limit of 50 MB"),
    ):
        driver.run(Job("bench", "bundle"), timeout_seconds=60)


@pytest.mark.usefixtures("_groups")
def test_what_fits_says_what_it_took(tmp_path: Path) -> None:
    with limited(tmp_path, "head -c 8000000 /dev/zero | tail -c 8000000 >/dev/null") as driver:
        facts = driver.run(Job("bench", "bundle")).facts
    assert facts["held_by"] == "control group"
    assert (facts["fits"], facts["thrashes"], facts["kills"]) == (True, False, 0)
    assert 4_000_000 < int(facts["peak_bytes"] or 0) <= 48 << 20


@pytest.mark.usefixtures("_groups")
def test_no_group_is_left(tmp_path: Path) -> None:
    group = limits.make_group(64 << 20, 0.5)
    assert group is not None
    above = group.memory.parent
    with limited(tmp_path, "exit 0", cpu_share=0.5) as driver:
        driver.run(Job("bench", "bundle"))
    with limited(tmp_path, "kill -9 $$") as driver, pytest.raises(JobFailed, match="signal 9"):
        driver.run(Job("bench", "bundle"))
    group.remove()
    assert not list(above.glob("edgestill-*"))


@pytest.mark.usefixtures("_groups")
def test_a_group_of_a_maker_that_is_gone_is_swept(tmp_path: Path) -> None:
    group = limits.make_group(64 << 20, None)
    assert group is not None
    left = group.memory.with_name("edgestill-4194305-0")
    left.mkdir()
    group.remove()
    limits.sweep(left.parent)
    assert not left.exists()


def test_without_groups_the_address_space_is_held_and_it_says_so(tmp_path: Path) -> None:
    with limited(tmp_path, "ulimit -v", control_groups=False) as driver:
        result = driver.run(Job("bench", "bundle"))
        assert result.facts["held_by"] == "rlimits"
        assert result.facts["thrashes"] is None
        assert "address space" in result.notes[0]
    with (
        limited(tmp_path, "tail /dev/zero || exit 3", control_groups=False) as driver,
        pytest.raises(JobFailed, match="memory"),
    ):
        driver.run(Job("bench", "bundle"), timeout_seconds=60)


def test_cores_are_held(tmp_path: Path) -> None:
    with limited(tmp_path, "grep Cpus_allowed_list /proc/self/status; nproc", cores=1) as driver:
        seen: list[str] = []
        driver.run(Job("bench", "bundle"), on_line=seen.append)
        assert driver.probe().cores == 1
    assert seen[1] == "1"


def test_a_device_that_is_held_to_nothing_is_refused() -> None:
    with pytest.raises(DeviceError, match="memory_bytes, cpu_share or cores"):
        Limited("x", LimitedSettings(driver="limited"))
