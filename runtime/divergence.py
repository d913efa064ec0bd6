"""Kullback-Leibler divergence between two models' next-token distributions, from their logits."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_PIECE_FLOATS: Final = 4 << 20


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log-probabilities over the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def kl_divergence(reference: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return KL(reference || other) of each position in nats, ``[time]`` float64.

    Both are logits ``[time, vocab]``; positions go in pieces, so that float64 copies stay small.
    """
    result = np.empty(len(reference), np.float64)
    step = max(1, _PIECE_FLOATS // reference.shape[1])
    for start in range(0, len(reference), step):
        p, q = log_softmax(reference[start : start + step]), log_softmax(other[start : start + step])
        result[start : start + step] = (np.exp(p) * (p - q)).sum(axis=-1)
    return result
