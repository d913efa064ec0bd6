"""Evaluate a model on a task: run every example through the session, score, keep every prediction."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgestill.dataset import Example
from edgestill.errors import ContextFullError, DataError, UnsupportedError
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress
from edgestill.results import EvalRecord
from edgestill.runtime.tasks import GenerationTask, LikelihoodTask, Task
from edgestill.storage import write_text

if TYPE_CHECKING:
    from edgestill.runtime.session import Session


@dataclass(frozen=True)
class Prediction:
    """One answer beside the right ones; ``seconds`` is the wall time from messages to text."""

    source: str
    text: str
    gold: tuple[str, ...]
    seconds: float
    prompt_tokens: int
    new_tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Evaluation:
    """One model's metrics, and what is behind them.

    ``predictions`` are none for a task that generates nothing; ``statistics`` ``[examples, k]`` are those
    of :meth:`edgestill.runtime.tasks.Task.combine`.
    """

    record: EvalRecord
    statistics: NDArray[np.float64]
    predictions: tuple[Prediction, ...] = ()


def evaluate(
    session: Session,
    task: Task,
    examples: Iterable[Example],
    *,
    model_name: str,
    progress: Progress = SILENT,
    limit: int | None = None,
) -> Evaluation:
    """Run ``task`` over the first ``limit`` examples (None: all) and score the answers.

    Generation tasks also get ``answer_seconds`` (median wall seconds per answer) and ``new_tokens``
    (mean). Raises DataError when there are no examples or one has no gold answer, ContextFullError,
    naming the row, when a prompt doesn't fit the context.
    """
    rows = list(itertools.islice(examples, limit))
    if not rows:
        raise DataError(f"no examples to evaluate {model_name} on; give a data file with rows in it")
    if isinstance(task, LikelihoodTask):
        metrics, statistics = task.measure(session, rows, progress=progress)
        return Evaluation(EvalRecord(model=model_name, metrics=metrics), statistics)
    if not isinstance(task, GenerationTask):
        raise UnsupportedError(f"task {task.name!r} neither generates nor scores text; derive it from one that does")
    predictions = _answer(session, task, rows, model_name, progress)
    texts, golds = [row.text for row in predictions], [row.gold for row in predictions]
    metrics = {**task.score(texts, golds), **task.measure(session, rows, progress=progress), **_cost(predictions)}
    return Evaluation(EvalRecord(model=model_name, metrics=metrics), task.statistics(texts, golds), predictions)


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions as JSONL, one a line, whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in predictions))


def read_predictions(path: Path) -> list[Prediction]:
    """Read back what :func:`write_predictions` wrote."""
    # Not splitlines(): an answer may hold U+2028, which ends no line of a JSONL file.
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line)
    return [Prediction(**{**row, "gold": tuple(row["gold"])}) for row in rows]


def _answer(
    session: Session, task: GenerationTask, rows: Sequence[Example], model_name: str, progress: Progress
) -> tuple[Prediction, ...]:
    golds = [task.gold(row) for row in rows]
    options = task.options(session, golds)
    predictions = []
    with progress.task(f"evaluating {model_name}", len(rows), "answers") as under_way:
        for row, gold in zip(rows, golds, strict=True):
            started = time.perf_counter()
            try:
                answer = session.generate(task.prompt(row), options)
            except ContextFullError as error:
                raise ContextFullError(f"{row.source}: {error}") from error
            seconds = time.perf_counter() - started
            new_tokens = len(answer.token_ids)
            predictions.append(
                Prediction(
                    row.source,
                    answer.text,
                    tuple(gold),
                    seconds,
                    answer.prompt_tokens,
                    new_tokens,
                    str(answer.finish_reason),
                )
            )
            under_way.advance()
    return tuple(predictions)


def _cost(predictions: Sequence[Prediction]) -> dict[str, Figure]:
    counts = [row.new_tokens for row in predictions]
    return {
        "answer_seconds": Figure.median(
            [row.seconds for row in predictions], "seconds", "wall clock per answer, prompts in order on one session"
        ),
        "new_tokens": Figure(
            value=statistics.fmean(counts), unit="tokens", n=len(counts), source="mean tokens generated per answer"
        ),
    }
