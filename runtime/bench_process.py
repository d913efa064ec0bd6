"""The benchmark's side of the worker process: start it, read its lines, say why it died."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from edgestill import errors
from edgestill.child import module_command
from edgestill.errors import EdgestillError, StageError
from edgestill.progress import SILENT, Progress
from edgestill.threads import measuring_environment

_WORKER: Final = "edgestill.runtime.bench_worker"
_STDERR_TAIL: Final = 4096


@dataclass
class WorkerRun:
    """What a worker said: how it loaded, PSS in bytes after each round, the times of each repetition, its last line."""

    loaded: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    pss: list[float | None] = field(default_factory=list)
    times: list[Mapping[str, Any]] = field(default_factory=list)
    finished: Mapping[str, Any] | None = None

    def column(self, name: str) -> list[float]:
        """Return one time of every repetition."""
        return [float(times[name]) for times in self.times]


def run_worker(
    request: Mapping[str, object], *, rounds: int, timeout_seconds: float, progress: Progress = SILENT
) -> WorkerRun:
    """Start a worker, give it ``request``, and return what it said.

    ``rounds`` is how many warm-ups and repetitions to expect, for the progress bar. Raises StageError when
    the worker dies or runs past ``timeout_seconds``, naming the signal and the finished repetitions, and
    the worker's own error when it reports one.
    """
    model = request["model"]
    run = WorkerRun()
    with (
        tempfile.TemporaryFile() as chatter,
        progress.task(f"bench {model}", rounds, "repetitions") as under_way,
        subprocess.Popen(
            module_command(_WORKER),
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

        timer = threading.Timer(timeout_seconds, expire)
        timer.start()
        try:
            _converse(process, request, run, under_way.advance)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
        if expired.is_set():
            raise StageError(
                f"bench of {model}: stopped after {timeout_seconds:g} s with {len(run.times)} repetitions "
                "finished; give a longer timeout or fewer repetitions"
            )
        if status != 0 or run.finished is None:
            raise StageError(f"bench of {model}: {_death(status, len(run.times))}{_last_line(chatter)}")
    return run


def _converse(
    process: subprocess.Popen[bytes], request: Mapping[str, object], run: WorkerRun, advance: Callable[[], None]
) -> None:
    """Send the request and collect the worker's lines until it closes its stdout; raise the error it reports."""
    if process.stdin is None or process.stdout is None:
        raise StageError("the bench worker has no pipes")
    try:
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
    except BrokenPipeError:
        return  # it died before reading: its exit status says why
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a line cut short by a kill
        match event["event"]:
            case "error":
                raise _worker_error(event)
            case "loaded":
                run.loaded = event
                run.pss.append(event["pss"])
            case "prompt":
                run.prompt_tokens = event["tokens"]
            case "warm":
                run.pss.append(event["pss"])
                advance()
            case "repetition":
                run.pss.append(event["pss"])
                run.times.append(event["times"])
                advance()
            case "finished":
                run.pss.append(event["pss"])
                run.finished = event


def _worker_error(event: Mapping[str, Any]) -> EdgestillError:
    kind = getattr(errors, str(event["type"]), StageError)
    return kind(str(event["message"])) if issubclass(kind, EdgestillError) else StageError(str(event["message"]))


def _death(status: int, finished: int) -> str:
    if status >= 0:
        return f"the worker ended with status {status} after {finished} finished repetitions"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    hint = " (often: out of memory)" if name == "SIGKILL" else ""
    return f"the worker was killed by {name}{hint} after {finished} finished repetitions"


def _last_line(chatter: IO[bytes]) -> str:
    chatter.seek(0, 2)
    chatter.seek(max(0, chatter.tell() - _STDERR_TAIL))
    lines = [line.strip() for line in chatter.read().decode(errors="replace").splitlines() if line.strip()]
    return f"; its last line: {lines[-1]}" if lines else ""
