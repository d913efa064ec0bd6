from __future__ import annotations

import sys

import numpy as np
import pytest

from edgestill.runtime import huge_pages
from edgestill.runtime.huge_pages import collapse_anonymous_memory


def _in_huge_pages() -> int:
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("AnonHugePages:"))


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux only")
def test_memory_in_use_is_moved_and_keeps_its_contents() -> None:
    values = np.random.default_rng(0).integers(0, 256, 32 << 20, np.uint8)
    untouched = np.empty(1 << 30, np.uint8)
    before = values.copy()
    resident = _resident()
    moved = collapse_anonymous_memory()
    assert np.array_equal(values, before)
    # Memory that nothing was written to stays unused.
    assert _resident() - resident < 64 << 20
    if moved == 0:
        pytest.skip("this kernel collapses no pages")
    assert moved >= 48 << 20
    assert _in_huge_pages() >= 48 << 20
    assert untouched.nbytes == 1 << 30


def _resident() -> int:
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * 4096


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages.sys, "platform", "darwin")
    assert collapse_anonymous_memory() == 0
