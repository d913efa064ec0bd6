"""Two sets of samples compared by ranks: no assumption about how times are distributed.

Mann and Whitney (1947) for independent samples; Wilcoxon's signed ranks (1945) with Hodges and Lehmann's estimate
(1963) for pairs. The distributions are exact where samples are few and different, as in Conover, Practical
Nonparametric Statistics, chapter 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_EXACT_MOST: Final = 50
"""Samples on each side up to which Mann and Whitney's distribution is counted out."""

Floats = NDArray[np.float64]


def mann_whitney_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the two-sided p-value of Mann and Whitney's U; None when a side is empty.

    Exact for at most 50 samples a side without ties, else the normal approximation with corrections for ties and
    for continuity.
    """
    n, m = len(first), len(second)
    if not n or not m:
        return None
    pooled = np.concatenate([np.asarray(first, np.float64), np.asarray(second, np.float64)])
    _, places, counts = np.unique(pooled, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[places]
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    u = min(u, n * m - u)
    if counts.max() == 1 and max(n, m) <= _EXACT_MOST:
        ways = _rank_sum_ways(n, m)
        return min(1.0, 2 * float(ways[: round(u) + 1].sum() / ways.sum()))
    total = n + m
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = n * m / 12 * ((total + 1) - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    z = max(0.0, n * m / 2 - u - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def _rank_sum_ways(n: int, m: int) -> Floats:
    """Return, for every U from 0 to n * m, how many of the ``comb(n + m, n)`` orders give it, ``[n * m + 1]``."""
    # Its generating function, the Gaussian binomial: the product of (1 - x^(m + i)) / (1 - x^i) for i up to n.
    ways = np.zeros(n * m + 1)
    ways[0] = 1
    for i in range(1, n + 1):
        if m + i < len(ways):
            ways[m + i :] = ways[m + i :] - ways[: len(ways) - m - i]
        for at in range(i, len(ways)):
            ways[at] += ways[at - i]
    return ways


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed ranks, zeros dropped; None when no difference is left.

    Exact without ties, conservative with them: the statistic is rounded towards its middle.
    """
    values = np.asarray([value for value in differences if value], np.float64)
    n = len(values)
    if not n:
        return None
    sizes = np.abs(values)
    _, places, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positive = float(ranks[values > 0].sum())
    smaller = min(positive, n * (n + 1) / 2 - positive)
    return min(1.0, 2 * float(_signed_rank_shares(n)[: math.ceil(smaller) + 1].sum()))


def signed_rank_interval(differences: Sequence[float]) -> tuple[float, float, float] | None:
    """Return Hodges and Lehmann's estimate of the differences' middle, and the ends of its 95% interval.

    The interval holds the middles that Wilcoxon's signed ranks don't reject at 5%. None for fewer than 6 differences,
    where there is no such interval.
    """
    values = np.asarray(differences, np.float64)
    n = len(values)
    shares = np.cumsum(_signed_rank_shares(n)) if n else np.ones(1)
    rejected = int(np.searchsorted(shares, 0.025, side="right"))
    if n < 6 or not rejected:
        return None
    first, second = np.triu_indices(n)
    averages = np.sort((values[first] + values[second]) / 2)
    return float(np.median(averages)), float(averages[rejected - 1]), float(averages[len(averages) - rejected])


def _signed_rank_shares(n: int) -> Floats:
    """Return the probability of every sum of positive ranks of ``n`` from 0 to n (n + 1) / 2 under no difference."""
    shares = np.zeros(n * (n + 1) // 2 + 1)
    shares[0] = 1
    for rank in range(1, n + 1):
        moved = np.zeros_like(shares)
        moved[rank:] = shares[: len(shares) - rank]
        shares = (shares + moved) / 2
    return shares
