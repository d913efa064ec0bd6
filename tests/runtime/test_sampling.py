"""Sampling against transformers' own logits processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from edgestill.errors import InputError, StageError
from edgestill.runtime.sampling import Sampler, Sampling, candidates, most_likely


def reference(logits: np.ndarray, history: list[int], sampling: Sampling) -> np.ndarray:
    """Return transformers' probabilities for one Sampling."""
    processors = transformers.LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        processors.append(transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    processors.append(transformers.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(transformers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        processors.append(transformers.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0.0:
        processors.append(transformers.MinPLogitsWarper(sampling.min_p))
    scores = processors(torch.tensor([history]), torch.from_numpy(logits.astype(np.float64))[None])
    return torch.softmax(scores[0], -1).numpy()


def dense(logits: np.ndarray, history: list[int], sampling: Sampling) -> np.ndarray:
    ids, probabilities = candidates(logits, history, sampling)
    result = np.zeros(len(logits))
    result[ids] = probabilities
    return result


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([5, 64, 3000]),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 40, 10_000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    penalty=st.sampled_from([1.0, 1.2, 0.8]),
)
@settings(max_examples=120, deadline=None)
def test_probabilities_equal_transformers(
    seed: int, size: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(size) * 4).astype(np.float32)
    history = random.integers(0, size, 7).tolist()
    sampling = Sampling(temperature, top_k, top_p, min_p, penalty)
    np.testing.assert_allclose(dense(logits, history, sampling), reference(logits, history, sampling), atol=1e-6)


def test_a_flat_distribution_has_a_nucleus_larger_than_the_first_look() -> None:
    logits = np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * 0.01
    sampling = Sampling(temperature=1.0, top_p=0.9)
    np.testing.assert_allclose(dense(logits, [], sampling), reference(logits, [0], sampling), atol=1e-9)


def test_greedy_is_the_argmax_and_the_default() -> None:
    logits = np.array([0.5, 3.0, -1.0, 2.9], np.float32)
    assert Sampler(Sampling()).pick(logits, []) == 1
    assert Sampler(Sampling(repetition_penalty=1.5)).pick(logits, [0, 1, 1]) == 3


def test_the_same_seed_gives_the_same_tokens_and_another_gives_others() -> None:
    logits = np.random.default_rng(1).standard_normal(1000).astype(np.float32)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, top_p=0.9, seed=seed))
        return [sampler.pick(logits, []) for _ in range(50)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, seed=0))
    counts = np.bincount([sampler.pick(logits, []) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.015)


def test_picking_leaves_the_engines_buffer_unchanged() -> None:
    logits = np.random.default_rng(2).standard_normal(200).astype(np.float32)
    before = logits.copy()
    logits.flags.writeable = False
    for sampling in (Sampling(), Sampling(0.7, 20, 0.9, 0.05, 1.3, 1), Sampling(repetition_penalty=2.0)):
        Sampler(sampling).pick(logits, [1, 2, 3])
    assert (logits == before).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_an_error(temperature: float) -> None:
    logits = np.array([1.0, np.nan, 2.0], np.float32)
    with pytest.raises(StageError, match="NaN"):
        Sampler(Sampling(temperature=temperature, seed=0)).pick(logits, [])


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_a_value_out_of_range_is_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        Sampling(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 63, 64, 300, 5000, 32_000, 151_936])
@pytest.mark.parametrize("kind", ["normal", "few values", "sorted", "mostly -inf"])
def test_the_most_likely_are_those_of_a_whole_sort(size: int, kind: str) -> None:
    draw = np.random.default_rng(size)
    scores = draw.standard_normal(size).astype(np.float32)
    if kind == "few values":
        scores = draw.integers(0, 7, size).astype(np.float32)
    elif kind == "sorted":
        scores.sort()
    elif kind == "mostly -inf":
        scores[draw.random(size) < 0.99] = -np.inf
    for count in {1, 2, 40, size // 3, size - 1} - {0}:
        if count < size:
            last = np.sort(scores)[size - count]
            assert np.array_equal(most_likely(scores, count), np.flatnonzero(scores >= last))


@pytest.mark.parametrize("place", [0, 70_000, 151_935, 151_936])
def test_a_logit_that_is_not_a_number_is_found_anywhere(place: int) -> None:
    scores = np.zeros(151_937, np.float32)
    scores[place] = np.nan
    with pytest.raises(StageError, match="NaN"):
        Sampler(Sampling(temperature=1.0, top_k=40)).pick(scores, [])
