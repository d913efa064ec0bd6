"""Choosing the next token from logits: greedy, temperature, top-k, top-p, min-p, repetition penalty.

The filters and their order are those of Hugging Face's generation: repetition penalty (Keskar et al.,
2019, over prompt and answer), temperature, top-k (Fan et al., 2018), top-p (Holtzman et al., 2020),
min-p (Nguyen et al., 2024).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import InputError, StageError
from edgestill.runtime.engine import NOT_NUMBERS

_NUCLEUS: Final = 1024
_ROWS: Final = 64


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the default is greedy.

    ``temperature`` 0 is greedy (the filters then change nothing), ``top_k`` 0, ``top_p`` 1, ``min_p`` 0
    and ``repetition_penalty`` 1 are off. ``seed`` None draws a fresh one for each generation. Raises
    InputError for a value out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf, "at least 0 (0 is greedy)")
        _check("top_k", self.top_k, self.top_k >= 0, "at least 0 (0 is off)")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (1 is off)")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 (off) and 1")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 0 < penalty < math.inf, "above 0 (1 is off)")
        _check("seed", self.seed, self.seed is None or self.seed >= 0, "at least 0")

    @property
    def greedy(self) -> bool:
        """Whether the next token is the likeliest one, whatever came before."""
        return self.temperature == 0.0 and self.repetition_penalty == 1.0


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise InputError(f"{name}: {value} is out of range; {expected} is expected")


class Sampler:
    """Draws tokens under one :class:`Sampling`; the same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._plain = sampling.repetition_penalty == 1.0
        self._greedy = sampling.temperature == 0.0

    @functools.cached_property
    def _random(self) -> np.random.Generator:
        # Made when it is drawn from: a greedy answer would wait 20 to 100 us for it.
        return np.random.default_rng(self.sampling.seed)

    def pick(self, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        """Return the next token's id from ``logits`` ``[vocab]``, which stay unchanged.

        ``history`` are the ids so far, prompt included; only the repetition penalty reads them. Raises
        StageError when a logit isn't a number.
        """
        if self._greedy:
            if not self._plain:
                logits = penalised(logits, history, self.sampling.repetition_penalty)
            best = int(logits.argmax())
            if math.isnan(logits.item(best)):  # argmax stops at the first NaN
                raise StageError(NOT_NUMBERS)
            return best
        ids, probabilities = candidates(logits, history, self.sampling)
        cumulative = probabilities.cumsum()
        drawn = int(cumulative.searchsorted(self._random.random() * cumulative[-1], side="right"))
        return int(ids[min(drawn, len(ids) - 1)])

    def draw(self, logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Return ``count`` independent draws of the next token, for a temperature above 0 and no history."""
        ids, probabilities = candidates(logits, (), self.sampling)
        cumulative = probabilities.cumsum()
        drawn = cumulative.searchsorted(self._random.random(count) * cumulative[-1], side="right")
        chosen: NDArray[np.int64] = ids[np.minimum(drawn, len(ids) - 1)]
        return chosen


def penalised(logits: NDArray[np.float32], history: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """Return a copy of ``logits`` in which tokens of ``history`` are less likely (penalty above 1)."""
    changed: NDArray[np.float32] = logits.copy()
    seen = np.unique(np.asarray(history, dtype=np.int64))
    scores = changed[seen]
    changed[seen] = np.where(scores < 0, scores * np.float32(penalty), scores / np.float32(penalty))
    return changed


def candidates(
    logits: NDArray[np.float32], history: Sequence[int], sampling: Sampling
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ids that may be drawn and their probabilities (sum 1) for a temperature above 0.

    Raises StageError when a logit isn't a number.
    """
    scores = logits
    if sampling.repetition_penalty != 1.0:
        scores = penalised(scores, history, sampling.repetition_penalty)
    size = len(scores)
    ids: NDArray[np.int64] | None = None
    if 0 < sampling.top_k < size:
        ids = most_likely(scores, sampling.top_k)
        scores = scores[ids]
    weights = scores.astype(np.float64)
    weights -= weights.max()
    weights /= sampling.temperature
    np.exp(weights, out=weights)
    total = float(weights.sum())
    if not math.isfinite(total):
        raise StageError(NOT_NUMBERS)
    weights /= total
    if sampling.top_p < 1.0:
        kept = _nucleus(weights, sampling.top_p)
        ids = kept if ids is None else ids[kept]
        weights = weights[kept]
    if sampling.min_p > 0.0:
        kept = np.flatnonzero(weights >= sampling.min_p * weights.max())
        ids = kept if ids is None else ids[kept]
        weights = weights[kept]
    return (np.arange(size) if ids is None else ids), weights / weights.sum()


def most_likely(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the indices of the ``count`` best scores ``[vocab]`` in order of index; ties with the last of them stay.

    Raises StageError when a score isn't a number.
    """
    size = len(scores)
    columns = size // _ROWS
    if columns < 4 * count:
        return _at_least_last(scores, np.arange(size), count)
    # Partitioning a whole vocabulary takes a millisecond. Its best scores lie in the columns that have the best maxima:
    # the count-th best maximum is a bound from below for the count-th best score.
    whole = _ROWS * columns
    table = scores[:whole].reshape(_ROWS, columns)
    maxima = table.max(axis=0)
    best = np.partition(maxima, columns - count)[columns - count :]  # NaNs come last
    bound = best[0]
    _refuse_nan(best)
    chosen = (maxima >= bound).nonzero()[0]
    rows, places = divmod((table.take(chosen, axis=1) >= bound).ravel().nonzero()[0], len(chosen))
    rows *= columns
    rows += chosen[places]
    if whole < size:
        tail = scores[whole:]
        _refuse_nan(tail)
        rows = np.concatenate([rows, (tail >= bound).nonzero()[0] + whole])
    return _at_least_last(scores, rows, count)


def _at_least_last(scores: NDArray[np.float32], ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    found = scores[ids]
    if len(ids) > count:
        last = np.partition(found, len(found) - count)[len(found) - count :]
        _refuse_nan(last)
        ids = ids[found >= last[0]]
    else:
        _refuse_nan(found)
    ids.sort()
    return ids


def _refuse_nan(scores: NDArray[np.float32]) -> None:
    highest = scores.max()
    if highest != highest:
        raise StageError(NOT_NUMBERS)


def _nucleus(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Return the indices of the fewest most likely tokens whose sum reaches ``top_p``, in order of index."""
    size = len(probabilities)
    # Sorting a whole vocabulary costs milliseconds; the best 1024 nearly always hold the nucleus.
    for head in (_NUCLEUS, size):
        best = np.argpartition(probabilities, size - head)[size - head :] if head < size else np.arange(size)
        best = best[np.argsort(-probabilities[best], kind="stable")]
        cumulative = probabilities[best].cumsum()
        if cumulative[-1] >= top_p or head >= size:
            break
    count = int(cumulative.searchsorted(top_p, side="left")) + 1
    return np.sort(best[:count])
