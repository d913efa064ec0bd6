"""A process that measures how fast memory is read: BLAS takes its number of threads only when it is loaded.

Started by :mod:`edgestill.runtime.bandwidth` (see :mod:`edgestill.runtime.worker`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from edgestill.runtime.arithmetic_worker import BLAS_THREADS
from edgestill.runtime.worker import Emit, serve_request

_WIDTH: Final = 2048
"""Floats of a row: eight KiB, so that the rows that gemv reads side by side lie in pages of their own."""


def serve(request: Mapping[str, Any], emit: Emit) -> None:
    """Read ``size`` bytes with ``threads`` threads, ``passes`` times by either kernel; say each pass's bytes a second.

    Each thread reads its own part, BLAS in one thread. ``gemv`` is the product of a float32 matrix and a vector, which
    reads several rows side by side as an engine does, ``sum`` that of 64-bit words, which reads one stream.
    """
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    import numpy as np

    threads, size = int(request["threads"]), int(request["size"])
    rows = max(threads, size // (4 * _WIDTH))
    parts = np.array_split(np.ones((rows, _WIDTH), np.float32), threads)
    vector = np.ones(_WIDTH, np.float32)
    kernels = {
        "gemv": lambda part: np.dot(part, vector),
        "sum": lambda part: np.sum(part.view(np.uint64)),
    }
    rates: dict[str, list[float]] = {name: [] for name in kernels}
    with ThreadPoolExecutor(threads) as pool:
        for name, kernel in kernels.items():
            list(pool.map(kernel, parts))
            for _ in range(int(request["passes"])):
                begun = time.perf_counter()
                list(pool.map(kernel, parts))
                rates[name].append(4 * _WIDTH * rows / (time.perf_counter() - begun))
    emit({"event": "finished", "rates": rates})


if __name__ == "__main__":
    sys.exit(serve_request(serve))
