"""Work that stops at the end of each of its turns: a generator that yields there and returns its result."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def finish(work: Generator[None, None, Result]) -> Result:
    """Do all of a work's turns, one after the other, and return its result. Raises what the work raises."""
    return alternate([work])[0]


def alternate(works: Sequence[Generator[None, None, Result]]) -> list[Result]:
    """Do one turn of each work after the other until all have ended; return their results in the order given.

    Raises what a work raises; the others are closed.
    """
    results: dict[int, Result] = {}
    with contextlib.ExitStack() as opened:
        for work in works:
            opened.callback(work.close)
        while len(results) < len(works):
            for number, work in enumerate(works):
                if number in results:
                    continue
                try:
                    next(work)
                except StopIteration as ended:
                    results[number] = ended.value
    return [results[number] for number in range(len(works))]
