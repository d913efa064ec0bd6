"""What full precision must keep, and what rounding is allowed to do."""

from __future__ import annotations

import numpy as np

from edgestill.export.parity_comparison import Tally

RNG = np.random.default_rng(0)


def reasons(expected: np.ndarray, found: np.ndarray, first_length: int = 1) -> list[str]:
    tally = Tally()
    lengths = np.arange(first_length, first_length + len(expected))
    tally.add(expected.astype(np.float32), found.astype(np.float32), lengths)
    tally.refuse_inexact("f32")
    return tally.reasons


def test_a_difference_is_refused_past_the_limit_which_grows_past_token_512() -> None:
    expected = RNG.normal(0, 3, (4, 1000))
    found = expected.copy()
    found[2, 500] += 1.5e-3
    assert reasons(expected, found) == ["largest |logit difference| 0.0015 is above 0.001, the limit for f32"]
    assert "0.001, the limit for f32 up to token 512, in proportion past it" in reasons(expected, found, 520)[0]
    assert reasons(expected, found, 1000) == []


def test_neighbours_that_the_noise_of_all_logits_swaps_are_a_tie() -> None:
    expected = RNG.normal(0, 1, (1, 1000))
    expected[0, :2] = 6.0, 6.0 - 1e-4
    noise = RNG.normal(0, 1e-4, (1, 1000))
    noise[0, :2] = -1e-4, 1e-4
    assert reasons(expected, expected + noise) == []


def test_one_logit_that_overtakes_another_while_the_rest_agree_is_refused() -> None:
    expected = RNG.normal(0, 1, (1, 1000))
    expected[0, :2] = 6.0, 6.0 - 1e-4
    found = expected.copy()
    found[0, 1] += 2e-4
    assert reasons(expected, found) == ["1 of 1 top-1 tokens differ; in f32 none may"]
