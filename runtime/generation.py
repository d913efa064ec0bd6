"""What is asked of a session's answer, and the answer: options, text, tokens, times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from edgestill.errors import InputError
from edgestill.runtime.constraint import Constraint, ConstraintOutcome
from edgestill.runtime.sampling import Sampling

FinishReason = Literal["eos", "complete", "stop", "length", "cancelled"]


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is made: its most tokens, the sampling, and what ends it.

    ``stop`` strings end the answer and aren't part of its text; ``ignore_eos`` goes on past the model's
    own end (for benchmarks). Under a ``constraint`` only what it allows is sampled; the answer ends where nothing
    may follow (finish reason ``complete``), or by the model's own end where the constraint lets it. Raises InputError
    for a value out of its range.
    """

    max_new_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens: {self.max_new_tokens} is out of range; at least 1 is expected")
        if "" in self.stop:
            raise InputError("stop: an empty string would end every answer; leave it out")


@dataclass(frozen=True)
class GenerationStatistics:
    """Counts and times (seconds) of one answer.

    ``reused_tokens`` of the prompt were in the KV cache already, or in the prefix state. ``ttft_seconds`` runs from
    the call to the first token, ``prefill_seconds`` is the engine's share of it (a prefix state's reading included);
    ``token_seconds`` are the gaps between the tokens after the first, without what a consumer of the stream did in
    between; text is written in them only where it is asked for piece by piece or may end the answer, else at the end.
    """

    prompt_tokens: int
    new_tokens: int
    reused_tokens: int
    ttft_seconds: float
    prefill_seconds: float
    token_seconds: tuple[float, ...]
    total_seconds: float


@dataclass(frozen=True)
class Generation:
    """One answer: ``token_ids`` are all tokens that were drawn, with the EOS token that ended it.

    ``constraint`` says whether the text satisfies the constraint (None: there was none).
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    statistics: GenerationStatistics
    constraint: ConstraintOutcome | None = None


class Chunk(NamedTuple):
    """A piece of an answer: one token and the text it completes (perhaps none).

    The last one has a ``finish_reason``; its ``token_id`` is None when the answer was cancelled.
    """

    text: str
    token_id: int | None
    finish_reason: FinishReason | None = None
