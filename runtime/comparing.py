"""Models side by side on one task: each scored in a process of its own, then compared on the same rows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.dataset import Example
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress, Task
from edgestill.results import EvalRecord
from edgestill.runtime.harness import HarnessTask
from edgestill.runtime.intervals import paired_difference, paired_ratio
from edgestill.runtime.model_source import locate_model
from edgestill.runtime.tasks import get_task
from edgestill.runtime.worker import Event, run_in_worker

_WORKER: Final = "edgestill.runtime.evaluate_worker"


@dataclass(frozen=True)
class Asked:
    """What every model is asked: rows of one of our tasks, or a task of the harness; with how many threads.

    ``context_length`` is the room in tokens (None: the session's own choice).
    """

    task: str
    options: Mapping[str, object] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    harness: HarnessTask | None = None
    threads: int | None = None
    context_length: int | None = None


@dataclass(frozen=True)
class Compared:
    """Each model's record, the first the one that the others are compared with, and by which metric."""

    records: tuple[EvalRecord, ...]
    primary_metric: str


def compare_models(
    models: Sequence[str], asked: Asked, *, predictions: Path | None = None, progress: Progress = SILENT
) -> Compared:
    """Score each model in a fresh process, and compare all with the first on the same rows.

    ``predictions``, a folder, gets each model's answers as ``<number>.jsonl``. Raises StageError when a
    process dies, and whatever an evaluation raises.
    """
    for model in models:
        locate_model(model)  # a misspelt one is found before the first is scored
    scored: list[Event] = []
    records: list[EvalRecord] = []
    with tempfile.TemporaryDirectory(prefix="edgestill-eval-") as temporary:
        rows = Path(temporary) / "rows.jsonl"
        with rows.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(_row(example)) + "\n" for example in asked.examples)
        for number, model in enumerate(models, 1):
            answers = Path(temporary) / "answers.jsonl" if predictions is None else predictions / f"{number}.jsonl"
            scored.append(_score(model, asked, rows, answers, progress))
            record = _record(model, scored[-1])
            records.append(record if number == 1 else _beside(record, scored[-1], scored[0], models[0], asked))
    return Compared(tuple(records), str(scored[0]["primary_metric"]))


def _score(model: str, asked: Asked, rows: Path, answers: Path, progress: Progress) -> Event:
    request = {
        "model": model,
        "task": asked.task,
        "task_options": dict(asked.options),
        "harness": None if asked.harness is None else _harness(asked.harness),
        "rows": str(rows),
        "predictions": str(answers),
        "threads": asked.threads,
        "context": asked.context_length,
    }
    finished: list[Event] = []
    answered = 0.0
    with contextlib.ExitStack() as shown:
        under_way: list[Task] = []

        def take(event: Event) -> None:
            nonlocal answered
            kind = event["event"]
            if kind == "task":
                shown.pop_all().close()
                under_way[:] = [
                    shown.enter_context(progress.task(str(event["label"]), event["total"], str(event["unit"])))
                ]
            elif kind == "advance":
                answered += event["amount"]
                under_way[0].advance(event["amount"], **event["fields"])
            elif kind == "note":
                progress.note(str(event["text"]))
            elif kind == "finished":
                finished.append(event)

        run_in_worker(
            _WORKER, request, take, what=f"evaluating {model}", reached=lambda: f"{answered:,.0f} finished answers"
        )
    return finished[0]


def _harness(task: HarnessTask) -> dict[str, Any]:
    return {**dataclasses.asdict(task), "folder": None if task.folder is None else str(task.folder)}


def _row(example: Example) -> dict[str, Any]:
    turns = [[message.role, message.content] for message in example.messages]
    return {
        "messages": turns,
        "text": example.text,
        "source": example.source,
        "references": list(example.references),
    }


def _record(model: str, finished: Event) -> EvalRecord:
    def size(value: float | None, source: str) -> Figure:
        if value is None:
            return Figure.missing("bytes", f"{source}: not counted on this platform")
        return Figure(value=value, unit="bytes", n=1, source=source)

    held = finished["weights_bytes"]
    weights = Figure(value=held, unit="bytes", n=1, basis="derived", source="weights as the engine holds them")
    return EvalRecord(
        model=model,
        metrics={name: Figure.model_validate(figure) for name, figure in finished["metrics"].items()},
        engine=str(finished["engine"]),
        size_bytes=locate_model(model).size_bytes,
        weights_bytes=weights if held is not None else Figure.missing("bytes", "the engine can't say"),
        peak_pss_bytes=size(finished["peak_pss"], "highest PSS seen while scoring, in a process of its own"),
        peak_rss_bytes=size(finished["peak_rss"], "highest RSS of the process that scored"),
    )


def _beside(record: EvalRecord, ours: Event, theirs: Event, reference: str, asked: Asked) -> EvalRecord:
    metric, higher = str(ours["primary_metric"]), bool(ours["higher_is_better"])
    rows, others = np.array(ours["statistics"], np.float64), np.array(theirs["statistics"], np.float64)
    if not len(rows) or rows.shape != others.shape:
        return record  # a metric that is no function of sums over rows
    combine = _mean if asked.harness is not None else get_task(asked.task, asked.options).combine
    pair = f"{metric} / {metric} of {reference}" if higher else f"{metric} of {reference} / {metric} (lower is better)"
    source = "same rows; paired bootstrap"
    kept = paired_ratio(rows, others, combine, f"{pair}, {source}", inverse=not higher)
    unit = record.metrics[metric].unit
    more = paired_difference(rows, others, combine, unit, f"{metric} - {metric} of {reference}, {source}")
    return record.model_copy(update={"retention": kept, "difference": more})


def _mean(sums: NDArray[np.float64]) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan
