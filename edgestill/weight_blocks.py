"""Block quantisation of weight rows for onnxruntime's MatMulNBits and GatherBlockQuantized.

A row is cut into blocks along its inputs; each block has one float32 scale. Values are unsigned with
the fixed zero point 2^(bits - 1), which both operators take when no zero points are given. Layout:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (MatMulNBits).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Grid(NamedTuple):
    """Bits of a weight, and the most weights that share a scale (the group size)."""

    bits: int
    block: int


GRIDS: Final[Mapping[str, Grid]] = MappingProxyType(
    {"int8": Grid(8, 64), "int4": Grid(4, 32), "int4_g128": Grid(4, 128)}
)
"""Precision -> how its projections are stored."""

EMBEDDING: Final = Grid(8, 64)
"""Embedding and head touch every logit: 4 bits there cost more agreement than all layers together save in size."""

_LEAST_BLOCK: Final = 32
_MOST_PADDING: Final = MappingProxyType({4: 0.125, 8: 0.0})
"""Of a row's weights, by bits: past it a smaller block costs less than the zeros that fill the last one."""

_COARSE_OFFSETS: Final = (-1.2, -0.8, -0.4, 0.0, 0.4, 0.8)
_FINE_STEP: Final = 0.2
"""Beside a block's best coarse offset. With the coarse ones eight roundings are tried, which leave no more squared
error than nine 0.2 apart and two at 0.1 beside the best did (Gaussian, Student's t and trained weights)."""


class Blocks(NamedTuple):
    """``packed`` uint8 ``[rows, blocks, block * bits / 8]``, ``scales`` float32 ``[rows, blocks]``."""

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]


def block_size(grid: Grid, inputs: int) -> int:
    """Return how many weights share a scale in rows of ``inputs``: the grid's block, halved while it pads too much."""
    block = grid.block
    while block > _LEAST_BLOCK and -inputs % block > _MOST_PADDING[grid.bits] * inputs:
        block //= 2
    return block


def quantize_rows(rows: NDArray[np.float32], bits: int, block: int) -> Blocks:
    """Quantise ``[rows, inputs]`` to ``bits`` (4 or 8); the last block of a row is padded with zeros.

    8 bits: round to nearest over ±127. 4 bits: the range is -8..7, so the scale is first set by the
    value of largest magnitude, which becomes -8; then scales around it are tried, and the least-squares
    scale for the best rounding is kept. A block with a NaN or an infinite value has a scale that isn't finite.
    """
    blocks = _cut(rows, block)
    shape = blocks.shape[:2]
    if bits == 8:
        scales = np.abs(blocks).max(axis=-1) / np.float32(127)
        return Blocks(_pack(_round(blocks, scales[..., None], bits), bits), scales)
    # A block is a column: sums over it are sums of rows, which is fast.
    columns = np.ascontiguousarray(blocks.reshape(-1, block).T)
    scales = _search_scales(columns, bits)
    packed = _pack(_round(columns, scales, bits), bits)
    return Blocks(np.ascontiguousarray(packed.T).reshape(*shape, -1), scales.reshape(shape))


def dequantize_rows(quantized: Blocks, bits: int, inputs: int) -> NDArray[np.float32]:
    """Return ``[rows, inputs]`` float32, as the operators compute it."""
    packed, scales = quantized
    if bits == 8:
        values = packed.astype(np.float32)
    else:
        values = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1).astype(np.float32)
    rows: NDArray[np.float32] = (values - np.float32(1 << (bits - 1))) * scales[..., None]
    return rows.reshape(len(rows), -1)[:, :inputs]


def _cut(rows: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    padding = -rows.shape[1] % block
    padded = np.pad(rows, ((0, 0), (0, padding))) if padding else np.ascontiguousarray(rows)
    return padded.reshape(len(rows), -1, block)


def _round(values: NDArray[np.float32], scales: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Return the signed values, -2^(bits-1) .. 2^(bits-1) - 1, as float32; ``scales`` broadcast to them."""
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    half = 1 << (bits - 1)
    rounded = values * inverse
    np.rint(rounded, out=rounded)
    np.clip(rounded, -half, half - 1, out=rounded)
    return rounded


def _search_scales(columns: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Return the scales ``[blocks]`` of least squared error among those tried, for ``[block, blocks]``.

    For rounded values r of a block b the best scale is (r.b) / (r.r), and it leaves an error of
    b.b - (r.b)^2 / (r.r): the largest second term wins. Rounding is tried with the largest value at -half plus
    offsets, coarse ones first, then those beside each block's best.
    """
    half = 1 << (bits - 1)
    least, most = columns.min(axis=0), columns.max(axis=0)
    largest = np.where(most > -least, most, least)
    unit = np.divide(1, largest, out=np.zeros_like(largest), where=largest != 0)
    best: NDArray[np.float32] = np.zeros_like(largest)
    best_gain, best_offset = np.zeros_like(largest), np.zeros_like(largest)
    rounded = np.empty_like(columns)

    def attempt(offset: NDArray[np.float32] | np.float32) -> None:
        # The rounding scale is largest / (offset - half).
        np.multiply(columns, (offset - np.float32(half)) * unit, out=rounded)
        np.rint(rounded, out=rounded)
        np.clip(rounded, -half, half - 1, out=rounded)
        products = np.einsum("in,in->n", rounded, columns)
        # Only a block of zeros has a norm below 1. Dividing under a mask would take longer than the rest.
        scales = products / np.maximum(np.einsum("in,in->n", rounded, rounded), np.float32(1))
        gain = scales * products
        better = gain > best_gain
        # Faster than copyto's mask or where.
        np.putmask(best, better, scales)
        np.putmask(best_gain, better, gain)
        np.putmask(best_offset, better, offset)

    for coarse in _COARSE_OFFSETS:
        attempt(np.float32(coarse))
    centre = best_offset.copy()
    for side in (-_FINE_STEP, _FINE_STEP):
        attempt(centre + np.float32(side))
    # Of NaN no gain is better than none, and its block would be zeros.
    return np.where(np.isfinite(largest), best, largest)


def _pack(values: NDArray[np.float32], bits: int) -> NDArray[np.uint8]:
    """Return the values as bytes; of 4 bits two in a byte, those that follow each other along the first axis."""
    unsigned: NDArray[np.uint8] = (values + np.float32(1 << (bits - 1))).astype(np.uint8)
    if bits == 8:
        return unsigned
    packed: NDArray[np.uint8] = np.bitwise_or(unsigned[0::2], np.left_shift(unsigned[1::2], 4))
    return packed
