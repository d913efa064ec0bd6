"""Cross-entropy on the completion's tokens. Imports torch: it is found through the registry."""

from __future__ import annotations

import torch  # noqa: TID253

from edgestill.distill.losses import register
from edgestill.distill.signals import TeacherChunk
from edgestill.recipe import SftLoss


@register("sft", needs_teacher=False)
def sft(logits: torch.Tensor, targets: torch.Tensor, teacher: TeacherChunk | None, section: SftLoss) -> torch.Tensor:
    """Return -log p(target) per position: ``[n, vocab]`` float32, ``[n]`` int64 -> ``[n]`` nats."""
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
