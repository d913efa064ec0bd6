"""Reading a checkpoint's tensors one at a time from memory-mapped safetensors, without torch.

Everything is checked before a tensor is handed out, so a damaged file is an error that names it,
never wrong numbers.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError
from edgestill.safetensors import TensorInfo, read_header

_FLOATS: Final = MappingProxyType({"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16})


def float32(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return what :meth:`Weights.stored` gave as float32, contiguous; uint16 are BF16's bits."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(stored, dtype=np.float32)


class Weights:
    """All tensors of a checkpoint, over one file or many shards.

    Use as ``with Weights(checkpoint) as weights``. Raises CheckpointError for a damaged file or a
    tensor that appears twice.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path = checkpoint.path
        self._tensors: dict[str, TensorInfo] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        for file in checkpoint.weight_files():
            for info in read_header(file):
                if info.name in self._tensors:
                    raise CheckpointError(f"{file}: tensor {info.name!r} is also in {self._tensors[info.name].file}")
                self._tensors[info.name] = info

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *error: object) -> None:
        self._maps.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[TensorInfo]:
        return iter(self._tensors.values())

    def info(self, name: str) -> TensorInfo:
        """Return where a tensor lies. Raises CheckpointError when the checkpoint doesn't have it."""
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path}: no tensor {name!r} in its safetensors files") from None

    def stored(self, name: str) -> NDArray[np.generic]:
        """Return a tensor as stored, memory-mapped and read-only; BF16 comes as its uint16 bits."""
        info = self.info(name)
        if info.dtype not in _FLOATS:
            raise CheckpointError(f"{info.file}: tensor {name!r} has dtype {info.dtype}; a float type is expected")
        if info.file not in self._maps:
            with info.file.open("rb") as file:
                self._maps[info.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        raw = np.frombuffer(self._maps[info.file], np.uint8, info.size_bytes, info.offset)
        return raw.view(_FLOATS[info.dtype]).reshape(info.shape)

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Let go of the memory that reading rows ``start:stop`` took; they are read from disk if asked for again."""
        info = self.info(name)
        mapped = self._maps.get(info.file)
        if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        row_bytes = info.size_bytes // max(info.shape[0] if info.shape else 1, 1)
        end = info.size_bytes if stop is None else min(stop * row_bytes, info.size_bytes)
        first = -(-(info.offset + start * row_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (info.offset + end) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            mapped.madvise(mmap.MADV_DONTNEED, first, length)

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Return rows ``start:stop`` (first axis) of a tensor as float32, exactly converted from 16 bits."""
        return float32(self.stored(name)[start:stop])

    def columns(
        self, name: str, start: int = 0, stop: int | None = None, *, rows: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return columns ``start:stop`` (second axis) of a matrix, or of some of its rows, as float32."""
        return float32(self.stored(name)[rows, start:stop])

    def float32(self, name: str) -> NDArray[np.float32]:
        """Return a whole tensor as float32 (a copy unless it is stored so)."""
        return self.rows(name)
