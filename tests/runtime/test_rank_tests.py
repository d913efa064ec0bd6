"""Rank tests against scipy's, and what an interval promises."""

from __future__ import annotations

import numpy as np
import pytest

from edgestill.runtime.rank_tests import mann_whitney_p, signed_rank_interval, signed_rank_p

scipy_stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 4), (6, 6), (10, 25), (50, 50), (60, 12)])
def test_mann_whitney_equals_scipy(n: int, m: int) -> None:
    draw = np.random.default_rng(n * 100 + m)
    for shift in (0.0, 0.4, 2.0):
        first, second = draw.normal(0, 1, n), draw.normal(shift, 1, m)
        method = "exact" if max(n, m) <= 50 else "asymptotic"
        expected = scipy_stats.mannwhitneyu(first, second, method=method).pvalue
        assert mann_whitney_p(list(first), list(second)) == pytest.approx(expected, rel=1e-9)


def test_mann_whitney_with_ties_equals_scipy() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.integers(0, 5, 20).astype(float), draw.integers(1, 6, 30).astype(float)
    expected = scipy_stats.mannwhitneyu(first, second, method="asymptotic").pvalue
    assert mann_whitney_p(list(first), list(second)) == pytest.approx(expected, rel=1e-9)
    assert mann_whitney_p([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert mann_whitney_p([], [1.0]) is None


@pytest.mark.parametrize("n", [1, 5, 6, 12, 40])
def test_signed_ranks_equal_scipy(n: int) -> None:
    draw = np.random.default_rng(n)
    for shift in (0.0, 0.5, 1.5):
        values = draw.normal(shift, 1, n)
        assert signed_rank_p(list(values)) == pytest.approx(scipy_stats.wilcoxon(values, method="exact").pvalue)


def test_signed_ranks_without_a_difference() -> None:
    assert signed_rank_p([0.0, 0.0]) is None
    assert signed_rank_p([1.0, 1.0, 1.0, -1.0, -1.0, -1.0]) == 1.0


def test_the_interval_holds_what_the_test_does_not_reject() -> None:
    draw = np.random.default_rng(3)
    for n in (6, 7, 15, 30):
        values = list(draw.normal(0.3, 1, n))
        found = signed_rank_interval(values)
        assert found is not None
        middle, low, high = found
        assert low <= middle <= high
        for edge, inside in ((low, 1e-6), (high, -1e-6)):
            within, beyond = (
                signed_rank_p([v - edge - inside for v in values]),
                signed_rank_p([v - edge + inside for v in values]),
            )
            assert within is not None
            assert beyond is not None
            assert within > 0.05 >= beyond
    assert signed_rank_interval([1.0] * 5) is None


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        found = signed_rank_interval(list(draw.laplace(0.0, 1.0, 12)))
        assert found is not None
        held += found[1] <= 0 <= found[2]
    assert held >= 935  # at least 95%, less three standard errors
