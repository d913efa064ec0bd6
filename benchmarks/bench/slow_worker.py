"""A bench worker whose engine takes longer, by the fraction in the environment's EDGESTILL_SLOWDOWN: what is injected
to see whether ``compare`` finds it. Every run of the engine is followed by work for that share of its CPU time: by the
clock a burst of other work, which both suffer, would be made longer for this one only, and the slowdown no tenth."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from edgestill.runtime import session
from edgestill.runtime.bench_worker import serve
from edgestill.runtime.worker import serve_request

SLOWDOWN = float(os.environ["EDGESTILL_SLOWDOWN"])
opened = session.open_engine


def open_slow_engine(*arguments: Any, **options: Any) -> Any:
    """Open an engine and slow its ``append`` down."""
    engine = opened(*arguments, **options)
    append = engine.append

    def slow(ids: Any) -> Any:
        begun = time.thread_time()
        logits = append(ids)
        until = time.thread_time() + SLOWDOWN * (time.thread_time() - begun)
        while time.thread_time() < until:
            pass
        return logits

    engine.append = slow
    return engine


if __name__ == "__main__":
    session.open_engine = open_slow_engine
    sys.exit(serve_request(serve))
