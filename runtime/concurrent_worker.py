"""A process that answers with several sessions of one model at the same time, a thread each.

Started by :mod:`edgestill.runtime.bench_more` (see :mod:`edgestill.runtime.worker`). Engines let go of Python's lock
while they compute, so the sessions' engines really run side by side; each has its own threads and its own KV cache.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edgestill.errors import InputError
from edgestill.runtime.bench_worker import import_packages, prompt_ids
from edgestill.runtime.engine_options import EngineOptions
from edgestill.runtime.memory import read_memory
from edgestill.runtime.model_source import locate_model
from edgestill.runtime.worker import Emit, serve_request


def serve(request: Mapping[str, Any], emit: Emit) -> None:
    """Open ``sessions`` sessions and answer in rounds: all begin together, and a round ends with the last."""
    from edgestill.runtime.session import GenerationOptions, Session

    source = locate_model(str(request["model"]))
    import_packages(source)
    count, new_tokens = int(request["sessions"]), int(request["new_tokens"])
    options = GenerationOptions(max_new_tokens=new_tokens, ignore_eos=True)
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(
                Session.open(
                    source,
                    engine=request["engine"],
                    threads=request["threads"],
                    context_length=request["context_length"],
                    options=EngineOptions(**request["options"]),
                )
            )
            for _ in range(count)
        ]
        engine = sessions[0].engine
        room = engine.context_length - new_tokens
        if room < 1:
            raise InputError(f"{new_tokens} new tokens leave no room for a prompt in {engine.context_length}")
        ids = prompt_ids(sessions[0], min(int(request["prompt_tokens"]), room))
        together = threading.Barrier(count)

        def answer(session: Session) -> float:
            session.reset()
            together.wait()
            started = time.perf_counter()
            session.generate(ids, options)
            return time.perf_counter() - started

        pool = stack.enter_context(ThreadPoolExecutor(count))
        for number in range(int(request["warmup"]) + int(request["repetitions"])):
            begun = time.perf_counter()
            answers = list(pool.map(answer, sessions))
            seconds = time.perf_counter() - begun
            if number >= int(request["warmup"]):
                emit({"event": "round", "seconds": seconds, "answers": answers})
        emit({"event": "finished", "pss": read_memory().pss, "threads": engine.threads, "prompt_tokens": len(ids)})


if __name__ == "__main__":
    sys.exit(serve_request(serve))
