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
    from edgestill.runtime.evaluate import Evaluation
    from edgestill.runtime.session import Session
    from edgestill.runtime.tasks import Task as AnyTask

_SAMPLE_SECONDS: Final = 0.5


def serve(request: Mapping[str, Any], emit: Emit) -> None:
    """Score the model on the rows of ``request["rows"]`` (JSONL), or on a task of the harness; say what came of it."""
    from edgestill.runtime.classifier import is_classifier
    from edgestill.runtime.model_source import locate_model
    from edgestill.runtime.session import Session

    if is_classifier(locate_model(request["model"])):
        _serve_classifier(request, emit)
        return
    with Session.open(request["model"], threads=request["threads"], context_length=request["context"]) as session:
        events = _Events(emit)
        scored = _on_harness(session, request, events) if request["harness"] else _on_own(session, request, events)
        _finish(events, emit, scored, session.engine.name, session.engine.weights_bytes)


def _serve_classifier(request: Mapping[str, Any], emit: Emit) -> None:
    from edgestill.runtime.classifier import Classifier
    from edgestill.runtime.evaluate_classifier import check_task, evaluate_classifier
    from edgestill.runtime.tasks import get_task

    named = request["harness"]["name"] if request["harness"] else request["task"]
    task = None if request["harness"] else get_task(request["task"], request["task_options"])
    classifies = check_task(request["model"], named, task)
    with Classifier.open(request["model"], threads=request["threads"], context_length=request["context"]) as classifier:
        events = _Events(emit)
        rows = _rows(request)
        result = evaluate_classifier(classifier, classifies, rows, model_name=request["model"], progress=events)
        scored = _scored(request, classifies, result)
        _finish(events, emit, scored, classifier.network.name, classifier.network.weights_bytes)


def _finish(events: _Events, emit: Emit, scored: Mapping[str, Any], engine: str, weights_bytes: int | None) -> None:
    events.sample()
    emit(
        {
            "event": "finished",
            **scored,
            "engine": engine,
            "weights_bytes": weights_bytes,
            "peak_pss": events.peak_pss,
            "peak_rss": read_memory().peak_rss,
        }
    )


def _on_own(session: Session, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    from edgestill.runtime.evaluate import evaluate
    from edgestill.runtime.tasks import get_task

    task = get_task(request["task"], request["task_options"])
    result = evaluate(session, task, _rows(request), model_name=request["model"], progress=progress)
    return _scored(request, task, result)


def _rows(request: Mapping[str, Any]) -> list[Example]:
    with Path(request["rows"]).open(encoding="utf-8", newline="\n") as file:
        return [_example(json.loads(line)) for line in file]


def _scored(request: Mapping[str, Any], task: AnyTask, result: Evaluation) -> dict[str, Any]:
    from edgestill.runtime.evaluate import write_predictions

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
