"""float32 rows -> a GGUF tensor type's bytes, the same bytes that ggml's reference gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import CheckpointError, UnsupportedError

Floats = NDArray[np.float32]
Q8_0_BLOCK: Final = 32
_Q8_0_BYTES: Final = 34
_BELOW_HALF: Final = np.float32(0.49999997)
"""The float32 below 0.5: adding it and cutting off rounds halves away from zero, exactly, below 2^22."""


@dataclass(frozen=True)
class Encoding:
    """A tensor type: ``name`` and ``number`` are GGUF's; ``block`` values take ``block_bytes``.

    ``encode`` takes ``[rows, columns]`` float32 and raises CheckpointError for NaN or infinite values.
    """

    name: str
    number: int
    block: int
    block_bytes: int
    encode: Callable[[Floats], NDArray[Any]]

    def nbytes(self, elements: int) -> int:
        """Return how many bytes so many values take."""
        return elements // self.block * self.block_bytes


def _f32(values: Floats) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise CheckpointError("has NaN or infinite values; the checkpoint is damaged")
    return values.astype("<f4", copy=False)


def _f16(values: Floats) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        written = values.astype("<f2")
    # The exponent of a NaN or an infinity is all ones.
    if (written.view(np.uint16) & 0x7C00).max(initial=0) == 0x7C00:
        if not np.isfinite(values).all():
            raise CheckpointError("has NaN or infinite values; the checkpoint is damaged")
        peak = float(np.abs(values).max())
        raise UnsupportedError(f"has a value of size {peak:g}; f16 ends at 65504, export with precision f32 or bf16")
    return written


def _bf16(values: Floats) -> NDArray[Any]:
    bits = values.view(np.uint32)
    # To the nearest, ties to even; subnormals stay.
    rounded: NDArray[Any] = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype("<u2")
    if (rounded & 0x7F80).max(initial=0) == 0x7F80:
        if not np.isfinite(values).all():
            raise CheckpointError("has NaN or infinite values; the checkpoint is damaged")
        raise UnsupportedError("has a value that bf16 rounds to infinity; export with precision f32")
    return rounded


def _q8_0(values: Floats) -> NDArray[Any]:
    blocks = values.reshape(-1, Q8_0_BLOCK)
    # abs: the maximum of 0 and -0 may be -0.
    peaks = np.abs(np.maximum(blocks.max(axis=1), -blocks.min(axis=1)))
    if not np.isfinite(peaks).all():
        raise CheckpointError("has NaN or infinite values; the checkpoint is damaged")
    scales = peaks / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scales == 0, np.float32(0), np.float32(1) / scales)
        stored = scales.astype("<f2")
    if not np.isfinite(stored).all():
        raise UnsupportedError(f"has a value of size {float(peaks.max()):g}, too large for q8_0")
    scaled = blocks * inverse[:, None]
    scaled += np.copysign(_BELOW_HALF, scaled)
    written = np.empty((len(blocks), _Q8_0_BYTES), np.uint8)
    written[:, :2] = stored[:, None].view(np.uint8)
    with np.errstate(invalid="ignore"):
        written[:, 2:] = scaled.astype(np.int8).view(np.uint8)
    return written


F32: Final = Encoding("F32", 0, 1, 4, _f32)
F16: Final = Encoding("F16", 1, 1, 2, _f16)
BF16: Final = Encoding("BF16", 30, 1, 2, _bf16)
Q8_0: Final = Encoding("Q8_0", 8, Q8_0_BLOCK, _Q8_0_BYTES, _q8_0)
