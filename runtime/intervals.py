"""Confidence intervals without assumptions about a distribution: bootstrap and order statistics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.figure import Figure

RESAMPLES: Final = 1000


def bootstrap_interval(
    n: int,
    statistic: Callable[[NDArray[np.int64]], float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the 95% percentile bootstrap interval (Efron, 1979) of a statistic over ``n`` samples.

    ``statistic`` takes int64 indices ``[n]``, drawn with replacement from ``range(n)``; resamples on
    which it is NaN (it isn't defined there) are left out. The same seed gives the same interval.
    None when n < 2 or no resample is defined.
    """
    if n < 2:
        return None
    generator = np.random.default_rng(seed)
    values = np.array([statistic(generator.integers(n, size=n)) for _ in range(resamples)])
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


Combine = Callable[[NDArray[np.float64]], float]
"""A metric as a function of statistics ``[k]`` that were summed over rows; nan where it isn't defined."""


def paired_difference(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], combine: Combine, unit: str, source: str
) -> Figure:
    """Return metric(ours) - metric(theirs) over the same rows, with a bootstrap that keeps rows paired.

    ``ours`` and ``theirs`` are statistics ``[rows, k]``.
    """
    return _paired(ours, theirs, lambda a, b: combine(a) - combine(b), unit, source)


def paired_ratio(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], combine: Combine, source: str, *, inverse: bool = False
) -> Figure:
    """Return metric(ours) / metric(theirs) over the same rows (``inverse``: theirs by ours), paired as above.

    Without a value when the lower one is 0.
    """

    def ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        above, below = (combine(b), combine(a)) if inverse else (combine(a), combine(b))
        return above / below if below else math.nan

    return _paired(ours, theirs, ratio, "fraction", source)


def _paired(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    compare: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    unit: str,
    source: str,
) -> Figure:
    def over(rows: NDArray[np.int64]) -> float:
        return compare(ours[rows].sum(axis=0), theirs[rows].sum(axis=0))

    n = len(ours)
    value = over(np.arange(n)) if n else math.nan
    if math.isnan(value):
        return Figure.missing(unit, source)
    return Figure(value=value, unit=unit, n=n, ci95=bootstrap_interval(n, over), source=source)


def quantile_ranks(n: int, quantile: float) -> tuple[int, int] | None:
    """Return the 0-based ranks of the two order statistics that enclose a quantile with at least 95% coverage.

    Equal tails of the binomial distribution (Conover, Practical Nonparametric Statistics, 3.2); None
    when n is too small for any to exist (n < 6 for the median, n < 36 for the 90th percentile).
    """
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(quantile) + (n - k) * math.log1p(-quantile)
        for k in range(n + 1)
    ]  # fmt: skip
    below = np.cumsum(np.exp(logs))
    above = np.cumsum(np.exp(logs[::-1]))[::-1]
    lower = int(np.searchsorted(below, 0.025, side="right")) - 1
    upper_ranks = np.flatnonzero(above <= 0.025)
    if lower < 0 or not len(upper_ranks):
        return None
    return lower, int(upper_ranks[0]) - 1


def quantile_figure(samples: Sequence[float], quantile: float, unit: str, source: str) -> Figure:
    """Return a quantile of samples (linear interpolation) with its order-statistic 95% interval."""
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    if not len(ordered):
        return Figure.missing(unit, source)
    ranks = quantile_ranks(len(ordered), quantile)
    interval = None if ranks is None else (float(ordered[ranks[0]]), float(ordered[ranks[1]]))
    value = float(np.quantile(ordered, quantile))
    return Figure(value=value, unit=unit, n=len(ordered), ci95=interval, source=source)


def mean_figure(samples: Sequence[float], unit: str, source: str) -> Figure:
    """Return the mean of samples with its bootstrap 95% interval."""
    values = np.asarray(samples, dtype=np.float64)
    if not len(values):
        return Figure.missing(unit, source)
    interval = bootstrap_interval(len(values), lambda rows: float(values[rows].mean()))
    return Figure(value=float(values.mean()), unit=unit, n=len(values), ci95=interval, source=source)


def outliers(samples: Sequence[float]) -> tuple[int, ...]:
    """Return the places of samples more than 1.5 interquartile ranges outside the quartiles (Tukey's fences, 1977)."""
    if len(samples) < 4:
        return ()
    values = np.asarray(samples, dtype=np.float64)
    first, third = np.quantile(values, (0.25, 0.75))
    reach = 1.5 * (third - first)
    return tuple(int(at) for at in np.flatnonzero((values < first - reach) | (values > third + reach)))


def tail_samples(quantile: float) -> int:
    """Return how many samples MLPerf's rule asks for before a latency percentile is stated.

    99% confidence that the percentile lies within a margin of a twentieth of the tail, rounded up to a multiple of
    2^13: 24,576 for the 90th, 270,336 for the 99th (MLPerf Inference rules, "Number of queries").
    """
    margin = (1 - quantile) / 20
    z = statistics.NormalDist().inv_cdf(0.995)
    needed = z * z * quantile * (1 - quantile) / margin**2
    return math.ceil(needed / 2**13) * 2**13


def tail_figure(samples: Sequence[float], quantile: float, unit: str, source: str) -> Figure:
    """Return a high quantile with its interval; null where the samples are too few for the interval to exist."""
    needed = tail_samples(quantile)
    if quantile_ranks(len(samples), quantile) is None:
        return Figure.missing(unit, f"{len(samples)} samples can't tell it; MLPerf's rule asks for {needed:,}")
    if len(samples) < needed:
        source = f"{source}; MLPerf's rule would ask for {needed:,} samples"
    return quantile_figure(samples, quantile, unit, source)
