"""A process that measures float32 arithmetic: BLAS takes its number of threads only when it is loaded.

Started by :mod:`edgestill.runtime.arithmetic` (see :mod:`edgestill.runtime.worker`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from edgestill.runtime.worker import Emit, serve_request

BLAS_THREADS: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def serve(request: Mapping[str, Any], emit: Emit) -> None:
    """Multiply square matrices of ``size`` with ``threads``, ``passes`` times; say each one's operations a second."""
    os.environ.update(dict.fromkeys(BLAS_THREADS, str(request["threads"])))
    import numpy as np

    size = int(request["size"])
    one = np.random.default_rng(0).standard_normal((size, size), np.float32)
    product = one @ one
    rates = []
    for _ in range(int(request["passes"])):
        begun = time.perf_counter()
        np.matmul(one, one, out=product)
        rates.append(2 * size**3 / (time.perf_counter() - begun))
    emit({"event": "finished", "rates": rates})


if __name__ == "__main__":
    sys.exit(serve_request(serve))
