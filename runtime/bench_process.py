"""The benchmark's side of the worker process: what it says, collected."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edgestill.errors import EdgestillError
from edgestill.progress import SILENT, Progress
from edgestill.runtime.worker import Event, turns_of_worker

_WORKER: Final = "edgestill.runtime.bench_worker"


@dataclass
class WorkerRun:
    """What a worker said: how it loaded, PSS in bytes after each round, the times of each repetition
    and what it met (sensors, energy, waits), its last line.

    ``warm`` are the times of the warm-ups, which count in no figure. ``failure`` says how it ended when it didn't end
    well.
    """

    loaded: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    prompt_sha256: str | None = None
    pss: list[float | None] = field(default_factory=list)
    times: list[Mapping[str, Any]] = field(default_factory=list)
    warm: list[Mapping[str, Any]] = field(default_factory=list)
    phases: Mapping[str, list[float]] = field(default_factory=dict)
    met: list[Mapping[str, Any] | None] = field(default_factory=list)
    finished: Mapping[str, Any] | None = None
    failure: str | None = None
    interrupted: bool = False

    def column(self, name: str) -> list[float]:
        """Return one time of every repetition."""
        return [float(times[name]) for times in self.times]

    def take(self, event: Event) -> bool:
        """Collect an event; tell whether it ends a round."""
        kind = event["event"]
        if kind == "prompt":
            self.prompt_tokens, self.prompt_sha256 = event["tokens"], event.get("sha256")
            return False
        if kind == "phases":
            self.phases = event["samples"]
            return False
        self.pss.append(event["pss"])
        if kind == "loaded":
            self.loaded = event
        elif kind == "warm" and event.get("times") is not None:
            self.warm.append(event["times"])
        elif kind == "repetition":
            self.times.append(event["times"])
            self.met.append(event.get("met"))
        elif kind == "finished":
            self.finished = event
        return kind in ("warm", "repetition")


def turns_of_bench(
    request: Mapping[str, object],
    *,
    rounds: int,
    timeout_seconds: float,
    keep_finished: bool = False,
    progress: Progress = SILENT,
    worker: str | None = None,
) -> Generator[None, None, WorkerRun]:
    """Start a worker (None: ours), give it ``request``, and return what it said; stop at the end of each turn it takes.

    ``rounds`` is how many warm-ups and repetitions to expect, for the progress bar. Raises as
    :func:`edgestill.runtime.worker.turns_of_worker`, naming the finished repetitions; with ``keep_finished`` only when
    there are none, else the run's ``failure`` says it. Ctrl-C then ends the run too: ``interrupted`` says so.
    """
    model = request["model"]
    run = WorkerRun()
    with progress.task(f"bench {model}", rounds, "repetitions") as under_way:

        def take(event: Event) -> None:
            if run.take(event):
                under_way.advance()

        try:
            yield from turns_of_worker(
                worker or _WORKER,
                request,
                take,
                what=f"bench of {model}",
                reached=lambda: f"{len(run.times)} finished repetitions",
                timeout_seconds=timeout_seconds,
                cure="give a longer timeout or fewer repetitions",
            )
        except KeyboardInterrupt:
            if not keep_finished or not run.times:
                raise
            run.interrupted = True
            run.failure = f"stopped by Ctrl-C after {len(run.times)} finished repetitions"
        except EdgestillError as error:
            if not keep_finished or not run.times:
                raise
            run.failure = str(error)
    return run
