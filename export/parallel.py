"""Jobs on all cores, their results in order: numpy lets go of the interpreter while it computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

_MAX_THREADS: Final = 8
Result = TypeVar("Result")


def in_order(jobs: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Yield what the jobs return, in their order; only a few are ahead of the caller, so that memory is bounded."""
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    waiting = iter(jobs)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in waiting:
                pending.append(pool.submit(job))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
