"""The change-point test: exact where it can be counted out, right where there is nothing to find."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgestill.runtime.change_point import falling_curve, find_fall


def test_the_place_of_a_clear_fall_is_found() -> None:
    values = np.concatenate([np.full(12, 10.0), np.full(18, 8.0)]) + np.random.default_rng(0).normal(0, 0.1, 30)
    change = find_fall(values, before=2, after=5)
    assert change.at == 12
    assert change.p < 0.001


def test_a_rise_is_no_fall() -> None:
    values = np.concatenate([np.full(12, 8.0), np.full(18, 10.0)]) + np.random.default_rng(0).normal(0, 0.1, 30)
    assert find_fall(values, before=2, after=5).p > 0.5


def test_p_is_the_share_of_orders_that_fall_as_clearly() -> None:
    values = np.array([6.1, 5.2, 5.9, 2.2, 3.1, 1.3, 2.7])

    def clearest(order: tuple[float, ...]) -> float:
        return max(float(stats.ttest_ind(order[:at], order[at:]).statistic) for at in range(2, 6))

    observed = clearest(tuple(values))
    clear = [clearest(order) >= observed - 1e-9 for order in itertools.permutations(values)]
    assert find_fall(values, before=2, after=2).p == pytest.approx(np.mean(clear), abs=0.01)


@pytest.mark.parametrize("alike", [0.0, 0.4])
def test_steady_noise_seldom_falls_even_where_neighbours_are_alike(alike: float) -> None:
    draw = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        values = draw.normal(0, 1, 40)
        for at in range(1, 40):
            values[at] += alike * values[at - 1]
        found += find_fall(values, before=2, after=6).p <= 0.05
    # 5% of 200 and three standard errors; alike neighbours are allowed for, not modelled.
    assert found <= (20 if alike == 0 else 30)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12))
def test_the_falling_curve_is_what_the_min_max_formula_gives(values: list[float]) -> None:
    n = len(values)
    expected = [
        min(max(float(np.mean(values[first : last + 1])) for last in range(at, n)) for first in range(at + 1))
        for at in range(n)
    ]
    assert falling_curve(np.array(values)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=40), st.integers(1, 5), st.integers(1, 8))
def test_every_series_gives_a_place_and_a_probability(values: list[float], before: int, after: int) -> None:
    change = find_fall(np.array(values, np.float64), before=before, after=after)
    assert 0 < change.p <= 1
    assert change.at == len(values) or before <= change.at <= len(values) - after
