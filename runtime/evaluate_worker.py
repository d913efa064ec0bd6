"""The process that an evaluation runs in: one model, one task; started by :mod:`edgestill.runtime.comparing`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.dataset import Example, Message
from edgestill.progress import Progress, Task
from edgestill.runtime.memory import read_memory
from edgestill.runtime.worker import Emit, serve_request

if TYPE_CHECKING:
    from edgestill.runtime.session import Session

_SAMPLE_SECONDS: Final = 0.5


def serve(request: Mapping[str, Any], emit: Emit) -> None:
    """Score the model on the rows of ``request["rows"]`` (JSONL), or on a task of the harness; say what came of it."""
    from edgestill.runtime.session import Session

    with Session.open(request["model"], threads=request["threads"], context_length=request["context"]) as session:
        events = _Events(emit)
        scored = _on_harness(session, request, events) if request["harness"] else _on_own(session, request, events)
        events.sample()
        emit(
            {
                "event": "finished",
                **scored,
                "engine": session.engine.name,
                "weights_bytes": session.engine.weights_bytes,
                "peak_pss": events.peak_pss,
                "peak_rss": read_memory().peak_rss,
            }
        )


def _on_own(session: Session, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    from edgestill.runtime.evaluate import evaluate, write_predictions
    from edgestill.runtime.tasks import get_task

    task = get_task(request["task"], request["task_options"])
    with Path(request["rows"]).open(encoding="utf-8", newline="\n") as file:
        examples = [_example(json.loads(line)) for line in file]
    result = evaluate(session, task, examples, model_name=request["model"], progress=progress)
    write_predictions(Path(request["predictions"]), result.predictions)
    return {
        "metrics": result.record.model_dump(mode="json")["metrics"],
        "primary_metric": task.primary_metric,
        "higher_is_better": task.higher_is_better,
        "statistics": result.statistics.tolist(),
    }


def _on_harness(session: Session, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    from edgestill.runtime.harness import HarnessTask, score_harness

    asked = request["harness"]
    folder = None if asked["folder"] is None else Path(asked["folder"])
    found = score_harness(session, HarnessTask(**{**asked, "folder": folder}), progress=progress)
    return {
        "metrics": {name: figure.model_dump(mode="json") for name, figure in found.metrics.items()},
        "primary_metric": found.primary_metric,
        "higher_is_better": found.higher_is_better,
        "statistics": found.statistics.tolist(),
    }


def _example(row: Mapping[str, Any]) -> Example:
    turns = tuple(Message(role, content) for role, content in row["messages"])
    return Example(turns, row["text"], row["source"], tuple(row["references"]))


class _Events:
    """Progress that is told to the other process, and reads the memory now and then."""

    def __init__(self, emit: Emit) -> None:
        self.peak_pss: int | None = None
        self._emit = emit
        self._sampled = time.monotonic()

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        self._emit({"event": "task", "label": label, "total": total, "unit": unit})
        self.sample()
        yield self

    def note(self, text: str) -> None:
        self._emit({"event": "note", "text": text})

    def advance(self, amount: float = 1, **fields: str) -> None:
        self._emit({"event": "advance", "amount": amount, "fields": fields})
        # Reading PSS walks the page tables: not after every answer.
        if time.monotonic() - self._sampled > _SAMPLE_SECONDS:
            self.sample()

    def set_total(self, total: float) -> None:
        self._emit({"event": "total", "total": total})

    def sample(self) -> None:
        """Read the memory."""
        self._sampled = time.monotonic()
        pss = read_memory().pss
        if pss is not None:
            self.peak_pss = max(pss, self.peak_pss or 0)


if __name__ == "__main__":
    sys.exit(serve_request(serve))
