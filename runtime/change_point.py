"""Where a series falls for good: a one-sided test for a change point by permutation, allowing for neighbours alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_PERMUTATIONS: Final = 1_999
_SEED: Final = 0
_FAR: Final = 3.0
"""Standard deviations from the falling curve beyond which a value counts as one that far: an outlier has one vote."""


@dataclass(frozen=True)
class ChangePoint:
    """``at`` is the first place after the change, ``p`` the chance of one as clear in a series without change."""

    at: int
    p: float


def find_fall(values: Floats, *, before: int, after: int) -> ChangePoint:
    """Return the place in ``values [n]`` after which they are lowest against before it, and its one-sided p-value.

    At least ``before`` places lie on its left and ``after`` from it on. The statistic is the largest two-sample t over
    all places (Hawkins, Testing a sequence of observations for a shift in location, JASA 72, 1977), here for a fall
    only. Its distribution is that over 1,999 orders of the values, so that none is assumed of them and short series
    are allowed (Antoch and Huskova, Permutation tests in change point analysis, 2001). Outliers are drawn in before.
    Where neighbours are alike beyond chance, t is divided by the factor by which that widens the spread of a mean,
    sqrt((1 + r) / (1 - r)) with r their correlation (Bayley and Hammersley, 1946). Without room for a change p is 1.
    """
    n = len(values)
    if n < max(3, before + after):
        return ChangePoint(n, 1.0)
    curve = falling_curve(values)
    rest = values - curve
    spread = 1.4826 * float(np.median(np.abs(rest)))
    if spread > 0:
        values = curve + np.clip(rest, -_FAR * spread, _FAR * spread)
    places = slice(before - 1, n - after)
    shares = _explained(values[None, :])[0, places]
    at = before + int(shares.argmax())
    clear = float(_as_t(shares.max(), n)) / _widening(values - curve)
    orders = np.random.default_rng(_SEED).permuted(np.tile(values, (_PERMUTATIONS, 1)), axis=1)
    by_chance = _as_t(_explained(orders)[:, places].max(axis=1), n)
    return ChangePoint(at, (1 + int((by_chance >= clear - 1e-9).sum())) / (1 + _PERMUTATIONS))


def falling_curve(values: Floats) -> Floats:
    """Return the nearest curve that never rises, in least squares (pooling adjacent violators, Ayer et al., 1955)."""
    means: list[float] = []
    counts: list[int] = []
    for value in values:
        means.append(float(value))
        counts.append(1)
        while len(means) > 1 and means[-2] < means[-1]:
            mean, count = means.pop(), counts.pop()
            means[-1] = (means[-1] * counts[-1] + mean * count) / (counts[-1] + count)
            counts[-1] += count
    return np.repeat(np.asarray(means, np.float64), counts)


def _explained(values: Floats) -> Floats:
    """Return the correlation of ``[m, n]`` with a fall after each place, ``[m, n - 1]``; 0 where all are equal."""
    n = values.shape[1]
    centred = values - values.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    places = np.arange(1, n)
    fallen: Floats = np.cumsum(centred, axis=1)[:, :-1] * np.sqrt(n / (places * (n - places)))
    shares: Floats = np.divide(fallen, norms, out=np.zeros_like(fallen), where=norms > 0)
    return shares


def _as_t(correlation: Floats | float, n: int) -> Floats:
    """Return the two-sample t of n values whose correlation with belonging to the first sample this is."""
    # Rounding may leave a correlation beyond one by the last bit.
    r: Floats = np.clip(np.asarray(correlation, np.float64), 1e-12 - 1, 1 - 1e-12)
    t: Floats = r * np.sqrt((n - 2) / (1 - r**2))
    return t


def _widening(rest: Floats) -> float:
    """Return the factor by which neighbours that are alike widen the spread of a mean; 1 where they aren't.

    ``rest`` is what the nearest falling curve leaves: a fall in steps isn't held against itself.
    """
    total = float(rest @ rest)
    if total <= 0:
        return 1.0
    alike = float(rest[1:] @ rest[:-1]) / total
    # Below this a correlation is one that chance gives: correcting for it would cost power in short series.
    if alike < 1.645 / math.sqrt(len(rest)):
        return 1.0
    alike = min(alike, 0.9)
    return math.sqrt((1 + alike) / (1 - alike))
