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
    """Open an engine and slow its ``append`` down, and its own loop where it has one, tokens' seconds included."""
    engine = opened(*arguments, **options)
    append = engine.append

    def slow(ids: Any) -> Any:
        begun = time.thread_time()
        logits = append(ids)
        until = time.thread_time() + SLOWDOWN * (time.thread_time() - begun)
        while time.thread_time() < until:
            pass
        return logits

    def slow_loop(*asked: Any) -> tuple[list[int], list[float]]:
        begun = time.thread_time()
        tokens, seconds = decode_greedily(*asked)
        until = time.thread_time() + SLOWDOWN * (time.thread_time() - begun)
        while time.thread_time() < until:
            pass
        return tokens, [one * (1 + SLOWDOWN) for one in seconds]

    engine.append = slow
    if decode_greedily := getattr(engine, "decode_greedily", None):
        engine.decode_greedily = slow_loop
    return engine


if __name__ == "__main__":
    session.open_engine = open_slow_engine
    sys.exit(serve_request(serve))
