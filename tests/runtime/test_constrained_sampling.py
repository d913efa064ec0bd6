"""Sampling under a matcher: asking about few tokens gives what masking all of them gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgestill.runtime import Sampling
from edgestill.runtime.constrained_sampling import ConstrainedSampler


class FakeMatcher:
    """Allows what it is told to, and says that finding all of it is slow."""

    complete = finished = False

    def __init__(self, allowed: Sequence[int], few: bool) -> None:
        self.ids = np.array(sorted(allowed), np.int64)
        self._few = few

    def few(self) -> bool:
        return self._few

    def allows(self, ids: np.ndarray) -> np.ndarray:
        return np.isin(ids, self.ids)

    def allowed(self) -> np.ndarray:
        return self.ids

    def accept(self, token_id: int) -> None:
        assert token_id in self.ids

    def close(self) -> None:
        return


@pytest.mark.parametrize("share", [0.5, 0.001])
def test_draws_without_a_mask_follow_the_masked_distribution(share: float) -> None:
    draw = np.random.default_rng(0)
    logits = draw.standard_normal(4000).astype(np.float32) * 2
    allowed = np.sort(draw.choice(4000, max(4, int(4000 * share)), replace=False))
    likely = np.exp(logits[allowed].astype(np.float64))
    likely /= likely.sum()
    sampler = ConstrainedSampler(Sampling(temperature=1.0, seed=5), FakeMatcher(allowed, few=False), (), "fake")
    counts = np.zeros(4000)
    for _ in range(3000):
        counts[sampler.pick(logits, ())] += 1
    np.testing.assert_allclose(counts[allowed] / 3000, likely, atol=0.04)
    assert counts.sum() == counts[allowed].sum()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(repetition_penalty=1.4),
        Sampling(0.8, top_k=20, seed=3),
        Sampling(0.8, top_k=20, top_p=0.7, min_p=0.02, repetition_penalty=1.3, seed=3),
    ],
)
@pytest.mark.parametrize("size", [30, 3000])
def test_asking_about_the_best_tokens_first_changes_nothing(sampling: Sampling, size: int) -> None:
    draw = np.random.default_rng(size)
    for _ in range(30):
        logits = draw.integers(-6, 6, 6000).astype(np.float32)  # many ties
        allowed = draw.choice(6000, size, replace=False)
        tokens = [
            ConstrainedSampler(sampling, FakeMatcher(allowed, few), (), "fake").pick(logits, [1, 2, 3])
            for few in (True, False)
        ]
        assert tokens[0] == tokens[1]
