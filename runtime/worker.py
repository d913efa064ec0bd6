"""A worker: one of our modules in a process of its own, given one request, answering in JSON lines.

Whatever a library prints there goes to stderr, whose last line is shown when the worker dies. A model that
takes the process down takes nothing else with it, and the memory of the process is the model's own.

A worker may do its work by turns (see :func:`turns_of_worker`), so that two of them share a machine in fair parts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from typing import IO, Any, Final

from edgestill import errors
from edgestill.child import module_command
from edgestill.errors import EdgestillError, StageError
from edgestill.runtime.out_of_memory import KillCount
from edgestill.threads import measuring_environment

Event = Mapping[str, Any]
Emit = Callable[[Mapping[str, object]], None]

_STDERR_TAIL: Final = 4096
_TURN: Final = "turn"


def serve_request(serve: Callable[[Mapping[str, Any], Emit], None]) -> int:
    """In the worker: read the request from stdin's first line and serve it; return the exit status."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: Mapping[str, object]) -> None:
        protocol.write(json.dumps(event) + "\n")
        protocol.flush()

    try:
        serve(json.loads(sys.stdin.readline()), emit)
    except EdgestillError as error:
        emit({"event": "error", "type": type(error).__name__, "message": str(error)})
        return error.exit_status
    except MemoryError as error:
        said = f"out of memory: the worker got none when it asked ({error or 'no more is said'})"
        emit({"event": "error", "type": "StageError", "message": said})
        return StageError.exit_status
    return 0


def end_turn(emit: Emit) -> None:
    """In the worker: let the other side work, and return when it is this one's turn again."""
    emit({"event": _TURN})
    sys.stdin.readline()


def run_in_worker(
    module: str,
    request: Mapping[str, object],
    handle: Callable[[Event], None],
    *,
    what: str,
    reached: Callable[[], str],
    timeout_seconds: float | None = None,
    cure: str = "give a longer timeout",
) -> None:
    """Start ``module`` in a process, give it ``request``, and ``handle`` each event until one is ``finished``.

    Raises StageError when the worker dies, ends without ``finished`` or runs past ``timeout_seconds``,
    naming ``what`` was done, the signal and what was ``reached``; and the worker's own error when it
    reports one.
    """
    for _ in turns_of_worker(
        module, request, handle, what=what, reached=reached, timeout_seconds=timeout_seconds, cure=cure
    ):
        pass


def turns_of_worker(
    module: str,
    request: Mapping[str, object],
    handle: Callable[[Event], None],
    *,
    what: str,
    reached: Callable[[], str],
    timeout_seconds: float | None = None,
    cure: str = "give a longer timeout",
) -> Generator[None]:
    """Do as :func:`run_in_worker`, but stop where the worker ends a turn (:func:`end_turn`) until asked to go on.

    The worker starts with the first turn; it waits, without work, from the end of one to the start of the next. It is
    ended when the generator is closed. Only a request whose ``in_turn`` is true makes it wait: any other worker's stdin
    ends with the request.
    """
    finished = False

    def take(event: Event) -> None:
        nonlocal finished
        finished = finished or event["event"] == "finished"
        handle(event)

    with (
        tempfile.TemporaryFile() as chatter,
        subprocess.Popen(
            module_command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=chatter,
            env=measuring_environment(),
        ) as process,
    ):
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = None if timeout_seconds is None else threading.Timer(timeout_seconds, expire)
        # Ctrl-C may come at any point from here on: the process dies with us, and no timer keeps ours alive.
        try:
            kills = KillCount.when_began(process.pid)
            if timer is not None:
                timer.daemon = True
                timer.start()
            yield from _converse(process, request, take, what)
            status = process.wait()
        finally:
            if timer is not None:
                timer.cancel()
            process.kill()
        if expired.is_set():
            raise StageError(f"{what}: stopped after {timeout_seconds:g} s and {reached()}; {cure}")
        if status != 0 or not finished:
            raise StageError(f"{what}: {_death(status, kills)} after {reached()}{_last_line(chatter)}")


def _converse(
    process: subprocess.Popen[bytes], request: Mapping[str, object], take: Callable[[Event], None], what: str
) -> Generator[None]:
    """Send the request and take the worker's lines until it closes its stdout, yielding at the end of its turns.

    Raises the error that it reports.
    """
    if process.stdin is None or process.stdout is None:
        raise StageError(f"{what}: the worker has no pipes")
    if not _send(process.stdin, json.dumps(request)):
        return
    if not request.get("in_turn"):
        process.stdin.close()
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a line cut short by a kill
        if event["event"] == "error":
            raise _worker_error(event)
        if event["event"] != _TURN:
            take(event)
            continue
        yield
        if request.get("in_turn") and not _send(process.stdin, ""):
            return


def _send(pipe: IO[bytes], line: str) -> bool:
    """Write a line to the worker; return False where it is dead, whose exit status says why."""
    try:
        pipe.write(f"{line}\n".encode())
        pipe.flush()
    except BrokenPipeError:
        return False
    return True


def _worker_error(event: Event) -> EdgestillError:
    kind = getattr(errors, str(event["type"]), StageError)
    return kind(str(event["message"])) if issubclass(kind, EdgestillError) else StageError(str(event["message"]))


def _death(status: int, kills: KillCount) -> str:
    if status >= 0:
        return f"the worker ended with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    why = f" ({kills.reason()})" if name == "SIGKILL" else ""
    if name == "SIGILL":
        why = " (the engine was compiled for another processor, or wrongly for this one: docs/install.md)"
    return f"the worker was killed by {name}{why}"


def _last_line(chatter: IO[bytes]) -> str:
    chatter.seek(0, 2)
    chatter.seek(max(0, chatter.tell() - _STDERR_TAIL))
    lines = [line.strip() for line in chatter.read().decode(errors="replace").splitlines() if line.strip()]
    return f"; its last line: {lines[-1]}" if lines else ""
