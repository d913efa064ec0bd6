"""How many float32 operations a second this device does, measured: what sets a limit to reading a prompt."""

from __future__ import annotations

import functools

from edgestill.errors import StageError
from edgestill.figure import Figure
from edgestill.runtime.worker import Event, run_in_worker

_SIZE = 1024
_PASSES = 9


@functools.cache
def float32_rate(threads: int) -> Figure:
    """Return the operations a second (a multiplication and an addition are two) of ``threads`` threads.

    The kernel is numpy's product of two matrices of 1,024 x 1,024 (its BLAS's sgemm), the value the best of nine, as
    what is wanted is a ceiling. It is measured in a process of its own, once in a run for each number of threads; a
    missing figure says why it isn't.
    """
    rates: list[float] = []

    def take(event: Event) -> None:
        rates.extend(float(rate) for rate in event.get("rates", ()))

    request = {"threads": threads, "size": _SIZE, "passes": _PASSES}
    try:
        run_in_worker(
            "edgestill.runtime.arithmetic_worker",
            request,
            take,
            what="measuring arithmetic",
            reached=lambda: f"{len(rates)} products",
            timeout_seconds=60,
        )
    except StageError as error:
        return Figure.missing("operations/s", str(error))
    source = f"best of {_PASSES} float32 products of {_SIZE} x {_SIZE} by {threads} threads (numpy's BLAS)"
    return Figure(value=max(rates), unit="operations/s", n=_PASSES, source=source)
