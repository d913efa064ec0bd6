"""Reading parts of a projection's weight, wherever in its tensor and whichever way round it is stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgestill.export.architectures.decoder import Linear, Norm
from edgestill.export.weights import Weights


def stored_rows(weights: Weights, linear: Linear, start: int, stop: int) -> NDArray[np.generic]:
    """Return outputs ``start:stop`` of the weight as ``[stop - start, inputs]``, as stored."""
    first, last = linear.start + start, linear.start + min(stop, linear.outputs)
    if linear.transposed:
        return np.ascontiguousarray(weights.stored(linear.weight)[:, first:last].T)
    return weights.stored(linear.weight)[first:last]


def weight_columns(weights: Weights, linear: Linear, start: int, stop: int) -> NDArray[np.float32]:
    """Return inputs ``start:stop`` of the weight as ``[outputs, stop - start]`` float32."""
    if linear.transposed:
        columns = weights.rows(linear.weight, start, stop)[:, linear.start : linear.start + linear.outputs]
        return np.ascontiguousarray(columns.T)
    return weights.columns(linear.weight, start, stop, rows=slice(linear.start, linear.start + linear.outputs))


def bias(weights: Weights, linear: Linear) -> NDArray[np.float32] | None:
    """Return the bias, ``[outputs]`` float32, None where there is none."""
    if linear.bias is None:
        return None
    return weights.rows(linear.bias, linear.start, linear.start + linear.outputs)


def norm_weight(weights: Weights, norm: Norm, offset: float) -> NDArray[np.float32]:
    """Return what a norm multiplies by, ``[size]`` float32."""
    weight = weights.float32(norm.weight)
    return weight + np.float32(offset) if offset else weight
