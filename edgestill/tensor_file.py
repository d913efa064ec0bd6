"""One flat file of aligned tensors, written one after another: the data file beside an ONNX graph.

Bytes are little endian and depend only on what is added and in which order.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

ALIGNMENT: Final = 64
"""Bytes; a cache line, and the widest vector load that a CPU kernel does."""


class Extent(NamedTuple):
    """Where a tensor lies in the file, in bytes."""

    offset: int
    length: int


class TensorFile:
    """Writes tensors in pieces, so that none has to be whole in memory. Use in a ``with`` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("wb")

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()

    def add(self, pieces: Iterable[NDArray[np.generic]], length: int) -> Extent:
        """Append one tensor of ``length`` bytes, given as consecutive pieces (C order), and return where it lies."""
        offset = self._stream.tell()
        if padding := -offset % ALIGNMENT:
            self._stream.write(bytes(padding))
            offset += padding
        written = 0
        for piece in pieces:
            little_endian = piece.astype(piece.dtype.newbyteorder("<"), copy=False)
            written += self._stream.write(np.ascontiguousarray(little_endian).data.cast("B"))
        if written != length:
            raise ValueError(f"a tensor of {length} bytes was given {written}")
        return Extent(offset, length)


class PlannedFile:
    """Says where a TensorFile would put tensors and writes nothing; ``size`` is what the file would have, in bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0

    def add(self, pieces: Iterable[NDArray[np.generic]], length: int) -> Extent:
        """Return where a tensor of ``length`` bytes would lie; ``pieces`` are left alone."""
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        self.size = offset + length
        return Extent(offset, length)
