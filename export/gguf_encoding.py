"""float32 rows -> a GGUF tensor type's bytes, the same bytes that ggml's reference gives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import CheckpointError, UnsupportedError
from edgestill.export.weights import float32

Floats = NDArray[np.float32]
Stored = NDArray[Any]
"""float32, float16 or float64, or BF16 as its uint16 bits."""

Q8_0_BLOCK: Final = 32
_Q8_0_BYTES: Final = 34
_BELOW_HALF: Final = np.float32(0.49999997)
"""The float32 below 0.5: adding it and cutting off rounds halves away from zero, exactly, below 2^22."""


@dataclass(frozen=True)
class Encoding:
    """A tensor type: ``name`` and ``number`` are GGUF's; ``block`` values take ``block_bytes``.

    ``encode`` takes ``[rows, columns]`` as stored and raises CheckpointError for NaN or infinite values.
    """

    name: str
    number: int
    block: int
    block_bytes: int
    encode: Callable[[Stored], NDArray[Any]]

    def nbytes(self, elements: int) -> int:
        """Return how many bytes so many values take."""
        return elements // self.block * self.block_bytes


def _f32(stored: Stored) -> NDArray[Any]:
    values = float32(stored)
    _check_finite(values)
    return values.astype("<f4", copy=False)


def _f16(stored: Stored) -> NDArray[Any]:
    if stored.dtype == np.uint16:
        written = _f16_of_bf16_bits(np.ascontiguousarray(stored))
    else:
        with np.errstate(over="ignore"):
            written = np.ascontiguousarray(stored, dtype="<f2")
    # The exponent of a NaN or an infinity is all ones.
    if (written.view(np.uint16) & 0x7C00).max(initial=0) == 0x7C00:
        values = float32(stored)
        _check_finite(values)
        peak = float(np.abs(values).max())
        raise UnsupportedError(f"has a value of size {peak:g}; f16 ends at 65504, export with precision f32 or bf16")
    return written


def _f16_of_bf16_bits(bits: NDArray[np.uint16]) -> NDArray[Any]:
    """Convert BF16's bits: by shifting where both types are normal, which is exact, and by a table elsewhere."""
    flat = bits.reshape(-1)  # of a matrix, nonzero takes longer than all the rest
    sizes = flat & np.uint16(0x7FFF)
    written: NDArray[np.uint16] = sizes - np.uint16(0x3800)
    np.left_shift(written, np.uint16(3), out=written)
    np.bitwise_or(written, flat & np.uint16(0x8000), out=written)
    # From 2^-14 (0x3880) up to 2^16 (0x4780): a smaller one wraps round to more.
    np.subtract(sizes, np.uint16(0x3880), out=sizes)
    others = np.flatnonzero(sizes >= np.uint16(0x0F00))
    written[others] = _f16_table().view(np.uint16)[flat[others]]
    return written.view("<f2").reshape(bits.shape)


@functools.cache
def _f16_table() -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        return float32(np.arange(1 << 16, dtype=np.uint16)).astype("<f2")


def _bf16(stored: Stored) -> NDArray[Any]:
    written: NDArray[Any]
    if stored.dtype == np.uint16:
        written = np.ascontiguousarray(stored, dtype="<u2")
    else:
        bits = float32(stored).view(np.uint32)
        # To the nearest, ties to even; subnormals stay.
        written = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype("<u2")
    if (written & 0x7F80).max(initial=0) == 0x7F80:
        _check_finite(float32(stored))
        raise UnsupportedError("has a value that bf16 rounds to infinity; export with precision f32")
    return written


def _q8_0(stored: Stored) -> NDArray[Any]:
    values = float32(stored).reshape(-1)
    sizes = np.abs(values)
    peaks = np.maximum.reduceat(sizes, np.arange(0, len(values), Q8_0_BLOCK))
    _check_finite(peaks)
    scales = peaks / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scales == 0, np.float32(0), np.float32(1) / scales)
        halves = scales.astype("<f2")
    if not np.isfinite(halves).all():
        raise UnsupportedError(f"has a value of size {float(peaks.max()):g}, too large for q8_0")
    with np.errstate(invalid="ignore"):
        scaled = np.multiply(values.reshape(-1, Q8_0_BLOCK), inverse[:, None], out=sizes.reshape(-1, Q8_0_BLOCK))
    # Half with the sign of each; copysign takes twice as long.
    signed_halves = scaled.view(np.uint32) & np.uint32(1 << 31)
    np.bitwise_or(signed_halves, _BELOW_HALF.view(np.uint32), out=signed_halves)
    scaled += signed_halves.view(np.float32)
    written = np.empty((len(peaks), _Q8_0_BYTES), np.uint8)
    written[:, :2] = halves[:, None].view(np.uint8)
    with np.errstate(invalid="ignore"):
        written[:, 2:] = scaled.astype(np.int8).view(np.uint8)
    return written


def _check_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise CheckpointError("has NaN or infinite values; the checkpoint is damaged")


F32: Final = Encoding("F32", 0, 1, 4, _f32)
F16: Final = Encoding("F16", 1, 1, 2, _f16)
BF16: Final = Encoding("BF16", 30, 1, 2, _bf16)
Q8_0: Final = Encoding("Q8_0", 8, Q8_0_BLOCK, _Q8_0_BYTES, _q8_0)
