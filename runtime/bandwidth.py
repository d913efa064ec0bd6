"""How fast this device reads memory, measured; and how much its last cache holds."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from edgestill.figure import Figure

_LEAST_BYTES: Final = 64 << 20
_PASSES: Final = 7
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_cache(cpu: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """Return the bytes of the largest cache that the first core reads data through; None where the system is silent."""
    sizes = []
    for index in cpu.glob("index*"):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            text = (index / "size").read_text().strip()
            sizes.append(int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text))
        except (OSError, ValueError, IndexError):
            continue
    return max(sizes, default=None)


def read_bandwidth(
    threads: int, memory_bytes: int = 0, cache_bytes: int | None = None, read_bytes: float = math.inf
) -> Figure:
    """Measure how many bytes a second ``threads`` threads read together, each its own part of one large array.

    The array is as large as what is read over and over, ``read_bytes``: of twice the last cache a part is still found
    in it at every pass, which makes no ceiling for a larger one, nor a larger one's for it. Beyond four times the last
    cache (and 64 MiB) size makes no difference any more, and there it ends; also at an eighth of the memory. The kernel
    is numpy's sum of 64-bit words, the fastest reader of those that numpy has (its maximum of bytes stays a sixth below
    it). The value is the best of seven passes, as what is wanted is a ceiling.
    """
    size = int(min(read_bytes, max(_LEAST_BYTES, 4 * (cache_bytes or 0))))
    if memory_bytes:
        size = min(size, max(memory_bytes // 8, 1 << 20))
    parts = np.array_split(np.ones(size // 8, np.uint64), threads)
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.sum, parts))
        for _ in range(_PASSES):
            begun = time.perf_counter()
            list(pool.map(np.sum, parts))
            rates.append(size / (time.perf_counter() - begun))
    source = f"best of {_PASSES} passes over {size / 1e6:.0f} MB by {threads} threads (numpy's sum of 64-bit words)"
    return Figure(value=max(rates), unit="bytes/s", n=_PASSES, ci95=None, source=source)
