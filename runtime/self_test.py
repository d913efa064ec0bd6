"""The self-test of a bundle on a machine: does it compute here what it computed where it was packed?

Kernels for another processor round differently, and choose otherwise between tokens that are nearly as likely: an
answer that takes the other one goes on elsewhere. So the golden answers are gone along, whatever this machine would
have said, and each of their tokens must be its own choice, or nearly. ``libedgestill`` does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from edgestill.bundle import Bundle
from edgestill.errors import GateError
from edgestill.figure import Document
from edgestill.progress import SILENT, Progress
from edgestill.runtime.engine import Logits
from edgestill.runtime.golden import GoldenPrompt, read_golden
from edgestill.runtime.session import Session

MOST_GAP: Final = 0.05
"""How far a golden token's logit may lie below the largest, as a share of that one's height over the mean."""


class SelfTest(Document):
    """What a self-test found: ``close_tokens`` of ``tokens`` aren't this machine's choice, but nearly."""

    schema_: Annotated[Literal["edgestill.selftest/1"], Field(alias="schema")] = "edgestill.selftest/1"
    artifact: str
    prompts: int
    tokens: int
    close_tokens: int
    largest_gap: float


def self_test(session: Session, bundle: Bundle, artifact: str, *, progress: Progress = SILENT) -> SelfTest:
    """Go along every golden answer of an artifact that ``session`` has open.

    Raises GateError that names the prompt and the token where this machine differs by more than :data:`MOST_GAP`, or
    the prompt that is tokenised differently, and BundleError for damaged golden answers.
    """
    prompts = read_golden(bundle)
    gaps: list[float] = []
    with progress.task("self-test", len(prompts), "answers") as task:
        for number, golden in enumerate(prompts, 1):
            gaps += _gaps(session, golden, artifact, f"{artifact}: golden answer {number}")
            task.advance()
    session.reset()
    return SelfTest(
        artifact=artifact,
        prompts=len(prompts),
        tokens=len(gaps),
        close_tokens=sum(gap > 0 for gap in gaps),
        largest_gap=max(gaps, default=0.0),
    )


def _gaps(session: Session, golden: GoldenPrompt, artifact: str, where: str) -> list[float]:
    """Return how far each token of an answer is from being this machine's choice."""
    answer = golden.token_ids.get(artifact)
    if not answer:
        raise GateError(f"{where}: the bundle has none for this artifact")
    if tuple(session.prompt_ids(golden.prompt)) != golden.prompt_ids:
        raise GateError(f"{where}: its prompt is tokenised differently from when it was packed")
    vocab, room = session.engine.vocab_size, session.engine.context_length
    if (
        max(*answer, *golden.prompt_ids) >= vocab
        or min(*answer, *golden.prompt_ids) < 0
        or len(golden.prompt_ids) > room
    ):
        raise GateError(f"{where}: it has tokens that the model hasn't, or more than its context of {room}")
    _check_end(answer, session.tokenizer.eos_ids, min(golden.max_new_tokens, room - len(golden.prompt_ids) + 1), where)
    session.reset()
    logits = session.engine.append(golden.prompt_ids)
    gaps = []
    for at, token in enumerate(answer):
        if at:
            logits = session.engine.append((answer[at - 1],))
        gap, best = _gap(logits, token)
        if not gap <= MOST_GAP:
            raise GateError(f"{where} differs at token {at}: {best} not {token}, by {gap:.3f} of its logit's height")
        gaps.append(gap)
    return gaps


def _check_end(answer: Sequence[int], ends: frozenset[int] | set[int], limit: int, where: str) -> None:
    """See that the answer ends where it would end here."""
    if len(answer) > limit:
        raise GateError(f"{where} differs at token {limit}: here it ends by its length")
    for at, token in enumerate(answer):
        last = at == len(answer) - 1
        if token in ends and not last:
            raise GateError(f"{where} differs at token {at}: {token} ends an answer here")
        if token not in ends and last and len(answer) < limit:
            raise GateError(f"{where} differs at token {at}: {token} doesn't end an answer here")


def _gap(logits: Logits, token: int) -> tuple[float, int]:
    """Return a token's gap to the largest logit as a share of that one's height over the mean, and whose that is."""
    best = int(np.argmax(logits))
    if best == token:
        return 0.0, best
    height = float(logits[best]) - float(np.mean(logits, dtype=np.float64))
    gap = float(logits[best]) - float(logits[token])
    return (gap / height if height > 0 else float("inf")), best
