"""Task: what a model is asked, what the right answer is, and how answers are scored.

Each kind of task lives in one file of this folder and registers itself with :func:`register`; a task
either generates (:class:`GenerationTask`) or only reads probabilities (:class:`LikelihoodTask`).
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from edgestill.dataset import Example, Message
from edgestill.errors import DataError, UnsupportedError
from edgestill.progress import SILENT, Progress
from edgestill.results import Figure

if TYPE_CHECKING:
    from edgestill.runtime.session import GenerationOptions, Session

_TASKS: Final[dict[str, Task]] = {}


class Task(ABC):
    """One kind of task; ``primary_metric`` is the one by which models are compared and gated."""

    name: ClassVar[str]
    primary_metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    def prompt(self, example: Example) -> Sequence[Message]:
        """Return the messages that the model is shown."""
        return example.prompt

    def gold(self, example: Example) -> str:
        """Return the right answer. Raises DataError, naming the row, when the example has none."""
        if example.completion is None:
            raise DataError(f"{example.source}: no answer in it; task {self.name!r} needs a final assistant message")
        return example.completion


class GenerationTask(Task):
    """A task whose answers the model writes, greedily."""

    def options(self, session: Session, golds: Sequence[str]) -> GenerationOptions:
        """Return greedy options that leave room for the longest gold answer, a quarter of it, and 8 tokens more."""
        from edgestill.runtime.session import GenerationOptions

        longest = max((len(session.tokenizer.encode(gold, add_special=False)) for gold in golds), default=0)
        return GenerationOptions(max_new_tokens=longest + longest // 4 + 8)

    @abstractmethod
    def score(self, predictions: Sequence[str], golds: Sequence[str]) -> dict[str, Figure]:
        """Return metric name -> Figure; ``predictions[i]`` answers what ``golds[i]`` is right for."""

    @abstractmethod
    def score_rows(self, predictions: Sequence[str], golds: Sequence[str]) -> list[float]:
        """Return each answer's own score; their mean is the primary metric."""


class LikelihoodTask(Task):
    """A task that asks how probable the model finds given texts, and generates nothing."""

    @abstractmethod
    def measure(
        self, session: Session, examples: Sequence[Example], *, progress: Progress = SILENT
    ) -> dict[str, Figure]:
        """Return metric name -> Figure over all examples."""


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


def get_task(name: str) -> Task:
    """Return the task called ``name``. Raises UnsupportedError that lists the tasks there are."""
    known = task_names()
    if name not in known:
        raise UnsupportedError(f"task {name!r} is not one of {', '.join(known)}; choose one of these")
    return _TASKS[name]
