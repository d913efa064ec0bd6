"""The losses of distillation, one file each, found by the ``kind`` of their recipe section.

A loss is a function of student logits, targets and what the teacher says at the same positions; it
returns one value (nats) per position. A new loss is one file in this folder that calls :func:`register`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgestill.errors import UnsupportedError

if TYPE_CHECKING:
    import torch

    from edgestill.distill.signals import TeacherChunk

    # (student logits [n, vocab] float32, targets [n] int64, teacher or None, recipe section) -> [n] float32
    LossFunction = Callable[[torch.Tensor, torch.Tensor, TeacherChunk | None, Any], torch.Tensor]

__all__ = ["RegisteredLoss", "find", "register"]


@dataclass(frozen=True)
class RegisteredLoss:
    """A loss by its kind; ``needs_teacher`` when it reads the teacher's distribution."""

    kind: str
    function: LossFunction
    needs_teacher: bool


_LOSSES: dict[str, RegisteredLoss] = {}


def register(kind: str, *, needs_teacher: bool) -> Callable[[LossFunction], LossFunction]:
    """Register the decorated function as the loss of ``kind``."""

    def keep(function: LossFunction) -> LossFunction:
        _LOSSES[kind] = RegisteredLoss(kind, function, needs_teacher)
        return function

    return keep


def find(kind: str) -> RegisteredLoss:
    """Return the loss of ``kind``. Raises UnsupportedError when no file registers it."""
    if kind not in _LOSSES:
        for module in pkgutil.iter_modules(__path__):
            importlib.import_module(f"{__name__}.{module.name}")
    if kind not in _LOSSES:
        raise UnsupportedError(f"loss kind {kind!r} is not one of {', '.join(sorted(_LOSSES))}")
    return _LOSSES[kind]
