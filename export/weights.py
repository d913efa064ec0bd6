"""Reading a checkpoint's tensors one at a time from memory-mapped safetensors, without torch.

The header format is https://huggingface.co/docs/safetensors: eight bytes of header length (little
endian), a JSON object name -> {dtype, shape, data_offsets}, then the bytes. Everything is checked
before a tensor is handed out, so a damaged file is an error that names it, never wrong numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError

_MAX_HEADER_BYTES: Final = 100 << 20
_ITEM_BYTES: Final = MappingProxyType(
    {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
)
_FLOATS: Final = MappingProxyType({"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16})


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies; ``dtype`` is safetensors' name for it (F32, F16, BF16 ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size_bytes: int


class Weights:
    """All tensors of a checkpoint, over one file or many shards.

    Use as ``with Weights(checkpoint) as weights``. Raises CheckpointError for a damaged file or a
    tensor that appears twice.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path = checkpoint.path
        self._tensors: dict[str, TensorInfo] = {}
        self._maps: dict[Path, NDArray[np.uint8]] = {}
        for file in checkpoint.weight_files():
            for info in _read_header(file):
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
            self._maps[info.file] = np.memmap(info.file, dtype=np.uint8, mode="r")
        raw = self._maps[info.file][info.offset : info.offset + info.size_bytes]
        return raw.view(_FLOATS[info.dtype]).reshape(info.shape)

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Return rows ``start:stop`` (first axis) of a tensor as float32, exactly converted from 16 bits."""
        array = self.stored(name)[start:stop]
        if self.info(name).dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(array, dtype=np.float32)

    def float32(self, name: str) -> NDArray[np.float32]:
        """Return a whole tensor as float32 (a copy unless it is stored so)."""
        return self.rows(name)


def _read_header(file: Path) -> list[TensorInfo]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(f"{file}: truncated or not a safetensors file (header of {length} bytes)")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise CheckpointError(f"{file}: can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged safetensors header ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: damaged safetensors header (not a JSON object)")
    header.pop("__metadata__", None)
    return [_tensor_info(file, name, entry, 8 + length, size) for name, entry in header.items()]


def _tensor_info(file: Path, name: str, entry: object, data_start: int, file_size: int) -> TensorInfo:
    def damaged(why: str) -> CheckpointError:
        return CheckpointError(f"{file}: tensor {name!r}: {why}")

    if not isinstance(entry, dict):
        raise damaged("damaged header entry")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise damaged(f"unknown dtype {dtype!r}")
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise damaged("damaged shape or offsets")
    begin, end = offsets
    size = math.prod(shape) * _ITEM_BYTES[dtype]
    if end - begin != size:
        raise damaged(f"{end - begin} bytes for shape {shape} of {dtype}, {size} expected")
    if data_start + end > file_size:
        raise damaged(f"ends at byte {data_start + end} but the file has {file_size}; it is truncated, copy it again")
    return TensorInfo(name, dtype, tuple(shape), file, data_start + begin, size)


def _whole_numbers(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)
