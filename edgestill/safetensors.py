"""The header of a safetensors file, read and checked without numpy or torch.

The format is https://huggingface.co/docs/safetensors: eight bytes of header length (little endian), a
JSON object name -> {dtype, shape, data_offsets}, then the bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeGuard

from edgestill.errors import CheckpointError

_MAX_HEADER_BYTES: Final = 100 << 20
_ITEM_BYTES: Final = MappingProxyType(
    {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
)


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies; ``dtype`` is safetensors' name for it (F32, F16, BF16 ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size_bytes: int


def read_header(file: Path) -> list[TensorInfo]:
    """Return every tensor of a safetensors file, checked against the file's size.

    Raises CheckpointError that names the file (and the tensor) when it is truncated or damaged.
    """
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
