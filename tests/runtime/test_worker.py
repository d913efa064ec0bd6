"""A worker's own end: what it says of itself reaches whoever started it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from edgestill.errors import StageError
from edgestill.runtime.worker import run_in_worker, turns_of_worker
from edgestill.turns import alternate

SHORT_OF_MEMORY = """
import sys
from edgestill.runtime.worker import serve_request

def serve(request, emit):
    raise MemoryError("for an array of 9 GB")

sys.exit(serve_request(serve))
"""


def test_a_worker_that_gets_no_memory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "short_worker.py").write_text(SHORT_OF_MEMORY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(StageError, match=r"out of memory: the worker got none when it asked \(for an array of 9 GB\)"):
        run_in_worker("short_worker", {}, lambda event: None, what="a test", reached=lambda: "nothing")


WAITING = """
import sys, time
from edgestill.runtime.worker import serve_request

sys.exit(serve_request(lambda request, emit: time.sleep(60)))
"""


def test_ctrl_c_as_the_timer_starts_leaves_neither_worker_nor_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "waiting_worker.py").write_text(WAITING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    start = threading.Timer.start

    def interrupted(timer: threading.Timer) -> None:
        start(timer)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Timer, "start", interrupted)
    before = set(threading.enumerate())
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_in_worker(
            "waiting_worker", {}, lambda event: None, what="a test", reached=lambda: "nothing", timeout_seconds=1000
        )
    assert time.monotonic() - begun < 50  # the worker was ended, not waited for
    left = [thread for thread in set(threading.enumerate()) - before if not thread.daemon]
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


ALTERNATING = """
import os, sys
from edgestill.runtime.worker import end_turn, serve_request

def serve(request, emit):
    for number in range(3):
        emit({"event": "step", "number": number})
        if number == request["dies_at"]:
            os.abort()
        end_turn(emit)
    emit({"event": "finished"})

sys.exit(serve_request(serve))
"""


def test_workers_take_turns_and_one_that_dies_takes_the_other_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alternating_worker.py").write_text(ALTERNATING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    said: list[tuple[str, int]] = []

    def steps(name: str, dies_at: int) -> Generator[None, None, None]:
        return turns_of_worker(
            "alternating_worker",
            {"dies_at": dies_at, "in_turn": True},
            lambda event: said.append((name, event.get("number", -1))),
            what=name,
            reached=lambda: "nothing",
            timeout_seconds=60,
        )

    alternate([steps("a", -1), steps("b", -1)])
    assert said == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", -1), ("b", -1)]
    with pytest.raises(StageError, match="b: the worker was killed by SIGABRT"):
        alternate([steps("a", -1), steps("b", 1)])
    said.clear()
    run_in_worker(
        "alternating_worker",
        {"dies_at": -1},
        lambda event: said.append(("c", event.get("number", -1))),
        what="c",
        reached=lambda: "nothing",
    )
    assert said == [("c", 0), ("c", 1), ("c", 2), ("c", -1)]
