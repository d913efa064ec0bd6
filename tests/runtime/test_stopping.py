"""Warm-ups end when they are steady, repetitions when the interval is narrow."""

from __future__ import annotations

import numpy as np
import pytest

from edgestill.figure import Figure
from edgestill.runtime.stopping import median_known, settled


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], False),
        ([1.0, 1.0], False),
        ([1.0, 1.0, 1.0], True),
        ([9.0, 1.02, 0.99, 1.0], True),
        ([1.0, 1.1, 1.0], False),
        ([1.04, 1.02, 1.0], False),  # still getting faster
        ([1.004, 1.002, 1.0], True),  # by a thousandth
        ([1.0, 1.02, 1.04], True),  # slower isn't warming up
    ],
)
def test_warm_ups_end_when_three_agree_and_dont_fall(times: list[float], expected: bool) -> None:
    assert settled(times) is expected


def test_the_median_is_known_when_its_interval_is_narrow() -> None:
    steady = [1.0 + 0.001 * (number % 5) for number in range(12)]
    assert median_known(steady, 0.05)
    assert not median_known(steady[:5], 0.05)  # five samples have no interval
    assert not median_known([1.0, 1.2] * 6, 0.05)
    assert not median_known([0.0] * 12, 0.05)


def test_stopping_by_width_keeps_most_of_the_coverage() -> None:
    """Ten samples at least, then until 2.5% on either side: it holds the true median in at least 92% of 2,000 runs."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        samples: list[float] = []
        while len(samples) < 10 or (len(samples) < 60 and not median_known(samples, 0.025)):
            samples.append(float(np.exp(random.normal(0, 0.06))))
        low, high = Figure.median(samples, "", "").ci95 or (np.nan, np.nan)
        held += low <= 1.0 <= high
    assert held / 2000 >= 0.92
