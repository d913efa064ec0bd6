"""Choosing the next token among those that a constraint allows.

The result is that of masking the whole vocabulary and sampling from what is left. Where a mask is dear (llama.cpp's
grammar, inside a JSON string), no more tokens are asked about than the choice needs:

- greedy: the best token of all, when it is allowed, is the best allowed one; else the best 64 and 256 are asked;
- top-k: the k best allowed tokens are among the n best of all as soon as k of those n are allowed;
- no filter: tokens are drawn from the whole distribution p until one is allowed. A drawn token is a with p(a), so
  the first allowed one is a with p(a) / (the sum of p over the allowed), which is p masked and normalised. After 32
  vain draws the mask is computed and one drawn from just that distribution: whether it comes to that says nothing of
  which token follows;
- top-p and min-p without top-k need the sum or the best of all allowed tokens: the mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import StageError
from edgestill.runtime.constraint import ConstraintOutcome, Matcher
from edgestill.runtime.sampling import Sampler, Sampling, most_likely, penalised

_LOOKS: Final = (64, 256)
_DRAWS: Final = 32


class ConstrainedSampler:
    """Draws the tokens of one answer under one sampling and one matcher, which it keeps informed.

    ``ends`` are the ids that end an answer: allowed where the constraint is complete. ``enforced_by`` and ``note``
    go into the outcome.
    """

    def __init__(
        self, sampling: Sampling, matcher: Matcher, ends: Sequence[int], enforced_by: str, note: str | None = None
    ) -> None:
        self._matcher = matcher
        self._ends = np.array(sorted(ends), np.int64)
        self._enforced_by = enforced_by
        self._note = note
        self._sampling = sampling
        # The penalty reads the history by token id, so it comes before the allowed tokens are taken out.
        self._sampler = Sampler(dataclasses.replace(sampling, repetition_penalty=1.0))
        self._unfiltered = sampling.top_k == 0 and sampling.top_p == 1.0 and sampling.min_p == 0.0
        self._taken = 0

    def pick(self, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        """Return the next token's id from ``logits`` ``[vocab]``, which stay unchanged.

        Raises StageError when a logit isn't a number, or no token of the vocabulary goes on with the constraint.
        """
        scores = logits
        if self._sampling.repetition_penalty != 1.0:
            scores = penalised(scores, history, self._sampling.repetition_penalty)
        token = self._greedy(scores) if self._sampling.temperature == 0.0 else self._drawn(scores)
        if token not in self._ends:
            self._matcher.accept(token)
        self._taken += 1
        return token

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        return self._matcher.finished

    def outcome(self, *, cut: bool) -> ConstraintOutcome:
        """Return what became of the constraint; ``cut`` says that not all that was drawn is in the text."""
        return ConstraintOutcome(self._enforced_by, self._matcher.complete and not cut, self._note)

    def _greedy(self, scores: NDArray[np.float32]) -> int:
        best = self._sampler.pick(scores, ())
        if self._allows(np.array([best]))[0]:
            return best
        return self._among(scores, self._best_allowed(scores, 1))

    def _drawn(self, scores: NDArray[np.float32]) -> int:
        if self._unfiltered and not self._matcher.few():
            drawn = self._sampler.draw(scores, _DRAWS)
            allowed = np.flatnonzero(self._allows(drawn))
            if len(allowed):
                return int(drawn[allowed[0]])
        return self._among(scores, self._best_allowed(scores, self._sampling.top_k))

    def _best_allowed(self, scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Return allowed ids, in order, with all of the best ``count`` among them (0: all allowed)."""
        if count and not self._matcher.few():
            for look in _LOOKS:
                if count <= look < len(scores):
                    ids = most_likely(scores, look)
                    ids = ids[self._allows(ids)]
                    if len(ids) >= count:
                        return ids
        allowed = self._matcher.allowed()
        return np.union1d(allowed, self._ends) if self._ends_allowed else allowed

    def _among(self, scores: NDArray[np.float32], ids: NDArray[np.int64]) -> int:
        if not len(ids):
            raise StageError(
                f"after {self._taken} tokens no token of the vocabulary goes on with the constraint; "
                "it asks for a character that this vocabulary can't spell here"
            )
        return int(ids[0]) if len(ids) == 1 else int(ids[self._sampler.pick(scores[ids], ())])

    @property
    def _ends_allowed(self) -> bool:
        return len(self._ends) > 0 and self._matcher.complete

    def _allows(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        allowed = self._matcher.allows(ids)
        if self._ends_allowed:
            allowed = allowed | np.isin(ids, self._ends)
        return allowed
