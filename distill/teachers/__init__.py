"""Teachers that are asked: each kind in one file, registered by the class of its recipe section.

A teacher answers questions into a :class:`edgestill.distill.ledger.Ledger`; what is there already is never
asked again. ``open_teacher`` finds the kind.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from edgestill.distill.ledger import Asking, Ledger, Question, Reply
from edgestill.errors import UnsupportedError
from edgestill.progress import Progress
from edgestill.sections import Asked


@dataclass(frozen=True)
class Limits:
    """How hard a teacher may be asked: requests at once, prompts in a batch, and what all may cost together.

    ``spent`` of ``max_cost`` is gone already: for other teachers, and for what was judged.
    """

    concurrency: int = 16
    batch_size: int = 64
    max_cost: float | None = None
    spent: float = 0.0

    def after(self, replies: Iterable[Reply]) -> Limits:
        """Return the limits once ``replies`` are paid."""
        return replace(self, spent=self.spent + sum(reply.cost or 0.0 for reply in replies))


class Teacher(Protocol):
    """Somebody who answers. ``identity`` changes when the answers may; ``name`` is for people.

    ``paid`` tells whether answers cost money or somebody else's machine.
    """

    name: str
    identity: str
    paid: bool

    def answer(
        self, questions: Sequence[Question], asking: Asking, ledger: Ledger, limits: Limits, progress: Progress
    ) -> dict[str, Reply]:
        """Return question key -> reply for all questions; those new to the ledger are asked and recorded.

        Raises StageError when the teacher can't be reached or the cost would exceed ``limits``; what was
        answered until then is in the ledger.
        """


SectionType = TypeVar("SectionType", bound=Asked)
_KINDS: Final[dict[type[Asked], Callable[[Any], Teacher]]] = {}


def register(section: type[SectionType]) -> Callable[[Callable[[SectionType], Teacher]], Callable[..., Teacher]]:
    """Register a function as the opener of the teachers that ``section`` describes."""

    def keep(opener: Callable[[SectionType], Teacher]) -> Callable[..., Teacher]:
        _KINDS[section] = opener
        return opener

    return keep


def open_teacher(section: Asked) -> Teacher:
    """Return the teacher of a recipe's section, ready to be asked."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    opener = _KINDS.get(type(section))
    if opener is None:
        raise UnsupportedError(f"a teacher of {type(section).__name__} can't be asked")
    return opener(section)
