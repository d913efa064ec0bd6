"""Generalised Jensen-Shannon divergence between teacher and student, temperature-scaled.

Agarwal et al., "On-Policy Distillation of Language Models" (2024), eq. 1 and 2: with M = beta P +
(1 - beta) Q, JSD = beta KL(P || M) + (1 - beta) KL(Q || M); beta 0 stands for its limit up to scale,
forward KL(P || Q), and beta 1 for reverse KL(Q || P). P is the teacher. The result is multiplied by
temperature squared, which keeps gradients of one size over temperatures (Hinton et al., 2015).

Imports torch: it is found through the registry.
"""

from __future__ import annotations

import math
from typing import Final

import torch  # noqa: TID253

from edgestill.distill.losses import register
from edgestill.distill.signals import TeacherChunk
from edgestill.errors import StageError
from edgestill.recipe import KlLoss

_NEVER: Final = -1e4
"""A log-probability whose exponential is 0, and which unlike minus infinity can be subtracted from itself."""


@register("kl", needs_teacher=True)
def kl(logits: torch.Tensor, targets: torch.Tensor, teacher: TeacherChunk | None, section: KlLoss) -> torch.Tensor:
    """Return the divergence per position: ``[n, vocab]`` float32 -> ``[n]`` nats times temperature squared.

    Where the teacher gives its top k alone, the rest of the vocabulary is one bucket on both sides: a
    lower bound of the whole divergence (data processing inequality).
    """
    if teacher is None:
        raise StageError("the kl loss needs a teacher's signal")
    log_p, log_q = distributions(logits, teacher, section.temperature)
    return divergence(log_p, log_q, section.beta) * section.temperature**2


def distributions(logits: torch.Tensor, teacher: TeacherChunk, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities of teacher and student over the same outcomes, ``[n, outcomes]``.

    Outcomes are the vocabulary, or the teacher's top k and one bucket for all others. Ids past the
    shorter of two heads (rows that pad a vocabulary to a round size) are no tokens and left out.
    """
    scaled = logits / temperature
    if teacher.ids is None:
        width = min(scaled.shape[-1], teacher.scores.shape[-1])
        return (
            torch.log_softmax(teacher.scores[..., :width] / temperature, dim=-1),
            torch.log_softmax(scaled[..., :width], dim=-1),
        )
    ids, said = teacher.ids, teacher.scores / temperature
    tail = teacher.tail_at(temperature).unsqueeze(-1)
    vocab = scaled.shape[-1]
    if int(ids.max()) >= vocab:
        # One column more stands for all ids that the student's head doesn't have.
        scaled = torch.cat((scaled, scaled.new_full((*scaled.shape[:-1], 1), -math.inf)), -1)
        ids = ids.clamp(max=vocab)
    absent = ids == vocab
    chosen = scaled.gather(-1, ids).masked_fill(absent, _NEVER)
    others = scaled.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    log_p = torch.log_softmax(torch.cat((said.masked_fill(absent, _NEVER), tail), -1), dim=-1)
    return log_p, torch.log_softmax(torch.cat((chosen, others), -1), dim=-1)


def divergence(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the generalised JSD of two log-distributions over the last dimension."""
    if beta == 0:
        return _kl(log_p, log_q)
    if beta == 1:
        return _kl(log_q, log_p)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)
