"""Task: what a model is asked, what the right answer is, and how answers are scored.

Each kind of task lives in one file of this folder and registers itself with :func:`register`; a task
either generates (:class:`GenerationTask`) or only reads probabilities (:class:`LikelihoodTask`).
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgestill.dataset import Example, Message, Row
from edgestill.errors import DataError, InputError, UnsupportedError
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress

if TYPE_CHECKING:
    from edgestill.runtime.session import GenerationOptions, Session

_TASKS: Final[dict[str, Task]] = {}


References = Sequence[str]
"""The right answers of one example, the first of them the one that is trained on; never empty."""


class Task(ABC):
    """One kind of task; ``primary_metric`` is the one by which models are compared and gated.

    Rows that have all of ``fields`` are the task's own: :meth:`build` writes them as a conversation. Each
    row gives *statistics* (a few numbers); the primary metric is a function of their sums, so that two
    models can be compared on the same rows.
    """

    name: ClassVar[str]
    primary_metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    fields: ClassVar[tuple[str, ...]] = ()

    def configured(self, options: Mapping[str, object]) -> Task:
        """Return the task with its options set. Raises InputError for an option that it doesn't have."""
        for option in options:
            raise InputError(f"task {self.name!r} has no option {option!r}")
        return self

    def build(self, row: Row, source: str) -> Example:
        """Return the example of a row that has all ``fields``."""
        raise DataError(f"{source}: task {self.name!r} has no columns of its own")

    def questions(self, example: Example) -> Sequence[Example]:
        """Return what is asked of a row in a test, or of a teacher: the row itself, or a question for each turn."""
        return (example,)

    def prompt(self, example: Example) -> Sequence[Message]:
        """Return the messages that the model is shown."""
        return example.prompt

    @abstractmethod
    def check(self, example: Example) -> None:
        """Raise DataError, naming the row, when the example can't be scored."""

    def combine(self, sums: NDArray[np.float64]) -> float:
        """Return the primary metric of summed statistics ``[k]``; nan where it isn't defined."""
        return float(sums[0] / sums[1]) if sums[1] else math.nan


class GenerationTask(Task):
    """A task whose answers the model writes, greedily."""

    def check(self, example: Example) -> None:
        """Raise DataError unless the example has a gold answer that can be scored."""
        self.gold(example)

    def gold(self, example: Example) -> References:
        """Return the right answers. Raises DataError, naming the row, when the example has none."""
        if example.completion is None:
            raise DataError(f"{example.source}: no answer in it; task {self.name!r} needs a final assistant message")
        return (example.completion, *example.references)

    def teacher_prompt(self, example: Example) -> Sequence[Message]:
        """Return what a teacher is asked, where that isn't what the student will be shown."""
        return self.prompt(example)

    def from_teacher(self, answer: str) -> str:
        """Return the part of a teacher's answer that the student learns."""
        return answer

    def fault(self, answer: str, example: Example) -> str | None:
        """Return why an answer is no good whatever the right one is (the same few words each time), or None."""
        return None

    def same(self, answer: str) -> str:
        """Return an answer in a form in which answers that say the same are equal."""
        return " ".join(answer.split())

    def options(self, session: Session, golds: Sequence[References]) -> GenerationOptions:
        """Return greedy options that leave room for the longest gold answer, a quarter of it, and 8 tokens more."""
        from edgestill.runtime.session import GenerationOptions

        lengths = (len(session.tokenizer.encode(text, add_special=False)) for gold in golds for text in gold)
        longest = max(lengths, default=0)
        return GenerationOptions(max_new_tokens=longest + longest // 4 + 8)

    @abstractmethod
    def score(self, predictions: Sequence[str], golds: Sequence[References]) -> dict[str, Figure]:
        """Return metric name -> Figure; ``predictions[i]`` answers what ``golds[i]`` are right for."""

    def score_rows(self, predictions: Sequence[str], golds: Sequence[References]) -> list[float]:
        """Return each answer's own score; where the primary metric is their mean, this is all it takes."""
        raise NotImplementedError(f"task {self.name!r} must define score_rows or statistics")

    def statistics(self, predictions: Sequence[str], golds: Sequence[References]) -> NDArray[np.float64]:
        """Return the statistics of each answer ``[answers, k]``; see :meth:`Task.combine`."""
        return np.array([[score, 1.0] for score in self.score_rows(predictions, golds)]).reshape(-1, 2)

    def measure(
        self, session: Session, examples: Sequence[Example], *, progress: Progress = SILENT
    ) -> dict[str, Figure]:
        """Return what the task asks of the model beside its answers, such as the probability of gold ones."""
        return {}


class LikelihoodTask(Task):
    """A task that asks how probable the model finds given texts, and generates nothing."""

    @abstractmethod
    def measure(
        self, session: Session, examples: Sequence[Example], *, progress: Progress = SILENT
    ) -> tuple[dict[str, Figure], NDArray[np.float64]]:
        """Return metric name -> Figure over all examples, and each example's statistics ``[examples, k]``."""


TaskType = TypeVar("TaskType", bound=Task)


def register(kind: type[TaskType]) -> type[TaskType]:
    """Make a task class known by its ``name`` (a class decorator)."""
    _TASKS[kind.name] = kind()
    return kind


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks, sorted."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted(_TASKS))


def get_task(name: str, options: Mapping[str, object] | None = None) -> Task:
    """Return the task called ``name``, with ``options`` of its own.

    Raises UnsupportedError that lists the tasks there are, InputError for a wrong option.
    """
    known = task_names()
    if name not in known:
        raise UnsupportedError(f"task {name!r} is not one of {', '.join(known)}; choose one of these")
    return _TASKS[name].configured(options or {})
