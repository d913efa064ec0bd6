"""How fast this device reads memory, measured; and how much its last cache holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from edgestill.errors import StageError
from edgestill.figure import Figure
from edgestill.runtime.worker import Event, run_in_worker

_LEAST_BYTES: Final = 64 << 20
_PASSES: Final = 7
_KERNELS: Final = {"gemv": "float32 matrix by vector, numpy's BLAS", "sum": "numpy's sum of 64-bit words"}
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
    cache (and 64 MiB) size makes no difference any more, and there it ends; also at an eighth of the memory. The value
    is the best of seven passes by either of two kernels (see :mod:`edgestill.runtime.bandwidth_worker`), as what is
    wanted is a ceiling. It is measured in a process of its own; a missing figure says why it isn't.
    """
    size = int(min(read_bytes, max(_LEAST_BYTES, 4 * (cache_bytes or 0))))
    if memory_bytes:
        size = min(size, max(memory_bytes // 8, 1 << 20))
    rates: dict[str, list[float]] = {}

    def take(event: Event) -> None:
        rates.update(event.get("rates", {}))

    try:
        run_in_worker(
            "edgestill.runtime.bandwidth_worker",
            {"threads": threads, "size": size, "passes": _PASSES},
            take,
            what="measuring read bandwidth",
            reached=lambda: "nothing",
            timeout_seconds=120,
        )
    except StageError as error:
        return Figure.missing("bytes/s", str(error))
    best = max(rates, key=lambda kernel: max(rates[kernel]))
    source = f"best of {_PASSES} passes over {size / 1e6:.0f} MB by {threads} threads ({_KERNELS[best]})"
    return Figure(value=max(rates[best]), unit="bytes/s", n=_PASSES, ci95=None, source=source)
