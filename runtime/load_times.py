"""How long a model takes to load, from the disk and from the page cache: a fresh process for every load."""

from __future__ import annotations

from typing import Any, Final

from edgestill.bench_results import LoadTimes
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress
from edgestill.runtime.bench_options import options_json
from edgestill.runtime.engine_options import DEFAULTS, EngineOptions
from edgestill.runtime.worker import Event, run_in_worker

COLD_SHARE: Final = 0.02
"""More of the files in the page cache than this isn't a cold load."""

_WORKER: Final = "edgestill.runtime.load_worker"


def load_times(
    model: str,
    *,
    repetitions: int,
    engine: str | None = None,
    threads: int | None = None,
    context_length: int | None = None,
    engine_options: EngineOptions = DEFAULTS,
    timeout_seconds: float = 600.0,
    progress: Progress = SILENT,
) -> LoadTimes:
    """Load ``model`` ``repetitions`` times cold and as often warm, in turn, and compute one token each time.

    Cold: the kernel was asked to drop the model's files from its page cache, and looking afterwards found none of
    them there; a disk's or a hypervisor's own cache may hold them still. Raises as
    :func:`edgestill.runtime.worker.run_in_worker`.
    """
    found: dict[bool, list[Event]] = {True: [], False: []}
    with progress.task(f"loads of {model}", 2 * repetitions, "loads") as task:
        for _ in range(repetitions):
            for cold, events in found.items():
                request: dict[str, Any] = {
                    "model": model,
                    "cold": cold,
                    "engine": engine,
                    "threads": threads,
                    "context_length": context_length,
                    "options": options_json(engine_options),
                }
                run_in_worker(
                    _WORKER,
                    request,
                    events.append,
                    what=f"load of {model}",
                    reached=lambda: "no load",
                    timeout_seconds=timeout_seconds,
                )
                task.advance()
    return summarise(found[True], found[False])


def summarise(cold: list[Event], warm: list[Event]) -> LoadTimes:
    """Return the figures of what the workers said; a cold load that wasn't one is null."""
    shares = [event["cached_share"] for event in cold]
    reason = None
    if any(share is None for share in shares):
        reason = "this system doesn't say what its page cache holds"
    elif shares and max(shares) > COLD_SHARE:
        reason = (
            f"{max(shares):.0%} of the files stayed in the page cache: someone has them mapped, or it is their disk"
        )
    return LoadTimes(
        cold_seconds=_figure(cold, "load_seconds", "files dropped from the page cache", reason),
        cold_first_token_seconds=_figure(cold, "first_token_seconds", "after a cold load", reason),
        warm_seconds=_figure(warm, "load_seconds", "files in the page cache"),
        warm_first_token_seconds=_figure(warm, "first_token_seconds", "after a warm load"),
        raw={
            f"{kind}_{name}": [float(event[name]) for event in events]
            for kind, events in (("cold", cold), ("warm", warm))
            for name in ("load_seconds", "first_token_seconds")
        },
    )


def no_load_times(why: str) -> LoadTimes:
    """Return nulls that say why."""
    missing = Figure.missing("seconds", why)
    return LoadTimes(
        cold_seconds=missing,
        cold_first_token_seconds=missing,
        warm_seconds=missing,
        warm_first_token_seconds=missing,
        raw={},
    )


def _figure(events: list[Event], name: str, state: str, missing: str | None = None) -> Figure:
    if missing is not None:
        return Figure.missing("seconds", missing)
    source = f"median of {len(events)} fresh processes, {state}; Python imports left out"
    return Figure.median([float(event[name]) for event in events], "seconds", source)
