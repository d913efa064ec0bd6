"""Reading a GGUF file's header, to refuse a damaged file before a C library maps it.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgestill.errors import ModelFileError

_F32: Final = 0
_STRING: Final = 8
_ARRAY: Final = 9
_VALUE_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MAX_ENTRIES: Final = 1 << 20
_U64: Final = struct.Struct("<Q")
_U32: Final = struct.Struct("<I")

TENSOR_BLOCKS: Final = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""ggml's tensor types: number -> (weights in a block, bytes of a block)."""


@dataclass(frozen=True)
class GgufTensor:
    """One line of the tensor table: ``type`` is ggml's number, ``shape`` has the row length first."""

    name: str
    type: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GgufHeader:
    """What the checks of a GGUF file found.

    ``tensor_types`` are ggml's numbers; ``tensor_bytes`` is the size of the tensor data; ``file_type`` is
    ``general.file_type`` (None: not in the file); ``table`` lists the tensors in file order.
    """

    version: int
    tensors: int
    tensor_types: frozenset[int]
    tensor_bytes: int
    file_type: int | None = None
    table: tuple[GgufTensor, ...] = ()

    @property
    def all_float32(self) -> bool:
        """Whether every tensor is stored as float32."""
        return self.tensor_types == {_F32}


def read_gguf_header(path: Path) -> GgufHeader:
    """Check magic, version and that every tensor lies inside the file.

    Raises ModelFileError (one line, with the cure) for a missing, foreign, truncated or damaged file.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelFileError(f"{path}: not a GGUF file (it doesn't begin with GGUF)")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(path, data)
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read ({error.strerror})") from error
    except (struct.error, IndexError, OverflowError) as error:
        raise ModelFileError(f"{path}: the file ends inside its header; copy or export it again") from error


def _read(path: Path, data: mmap.mmap) -> GgufHeader:
    (version,) = _U32.unpack_from(data, 4)
    if version not in (2, 3):
        raise ModelFileError(f"{path}: GGUF version {version} is not 2 or 3; export it again with a current tool")
    tensors, entries = struct.unpack_from("<QQ", data, 8)
    if tensors > _MAX_ENTRIES or entries > _MAX_ENTRIES:
        raise ModelFileError(f"{path}: {tensors} tensors and {entries} metadata entries: the header is damaged")
    at = 24
    alignment = 32
    file_type = None
    for _ in range(entries):
        key_bytes = _U64.unpack_from(data, at)[0]
        key = data[at + 8 : at + 8 + key_bytes]
        at += 8 + key_bytes
        (kind,) = _U32.unpack_from(data, at)
        at += 4
        if key == b"general.alignment" and kind == 4:
            (alignment,) = _U32.unpack_from(data, at)
        if key == b"general.file_type" and kind == 4:
            (file_type,) = _U32.unpack_from(data, at)
        at = _after_value(path, data, at, kind)
    if alignment == 0 or alignment & (alignment - 1):
        raise ModelFileError(f"{path}: alignment {alignment} is not a power of two: the header is damaged")
    end = 0
    types = set()
    table = []
    for _ in range(tensors):
        name_bytes = _U64.unpack_from(data, at)[0]
        name = data[at + 8 : at + 8 + name_bytes].decode("utf-8", "replace")
        at += 8 + name_bytes
        (dimensions,) = _U32.unpack_from(data, at)
        if dimensions > 4:
            raise ModelFileError(f"{path}: a tensor has {dimensions} dimensions: the header is damaged")
        shape = struct.unpack_from(f"<{dimensions}Q", data, at + 4)
        at += 4 + 8 * dimensions
        kind, offset = struct.unpack_from("<IQ", data, at)
        at += 12
        types.add(kind)
        table.append(GgufTensor(name, kind, shape))
        weights, block = TENSOR_BLOCKS.get(kind, (256, 1))  # an unknown type: llama.cpp decides
        end = max(end, offset + math.prod(shape) // weights * block)
    start = -(-at // alignment) * alignment
    if start + end > len(data):
        raise ModelFileError(
            f"{path}: truncated: {len(data)} bytes, and its tensors need {start + end}; copy or export it again"
        )
    return GgufHeader(version, tensors, frozenset(types), end, file_type, tuple(table))


def _after_value(path: Path, data: mmap.mmap, at: int, kind: int) -> int:
    if kind == _STRING:
        return at + 8 + int(_U64.unpack_from(data, at)[0])
    if kind != _ARRAY:
        return at + _value_bytes(path, kind)
    item, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if item != _STRING:
        return at + int(count) * _value_bytes(path, item)
    length = _U64.unpack_from
    for _ in range(count):
        at += 8 + length(data, at)[0]
    return at


def _value_bytes(path: Path, kind: int) -> int:
    try:
        return _VALUE_BYTES[kind]
    except KeyError:
        raise ModelFileError(f"{path}: metadata type {kind} is unknown: the header is damaged") from None
