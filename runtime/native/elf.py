"""Symbols of ELF object files: read them, and give those of one group of objects names of their own.

Several builds of the same sources (kernels for several ISA levels) can be linked into one program only if none of
their symbols meet: not only the functions that they are named for, but the inline ones that every object brings along
(of two equal ones the linker keeps either, and an old core would meet a new instruction). Layout: the System V ABI's
ELF chapters, https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from edgestill.errors import StageError

_SYMBOL_TABLE: Final = 2
_INIT_ARRAY: Final = 14
_BINDINGS: Final = (1, 2)  # global, weak: what other objects can see
_FUNCTION: Final = 2


@dataclass(frozen=True)
class _Layout:
    """Field formats of one class of files (32 or 64 bits), little-endian."""

    section: struct.Struct
    symbol: struct.Struct
    section_table: int  # where the header says where the sections' headers lie
    pointer: str
    counts: int  # where it says how large one is, and how many there are


_LAYOUTS: Final = {
    1: _Layout(struct.Struct("<10I"), struct.Struct("<IIIBBH"), 32, "<I", 46),
    2: _Layout(struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ"), 40, "<Q", 58),
}


class _Section(NamedTuple):
    at: int  # of its header
    type: int
    offset: int
    size: int
    link: int


class Symbol(NamedTuple):
    """A symbol that other objects can see."""

    name: str
    defined: bool
    function: bool


class ObjectFile:
    """A relocatable ELF file, little-endian. Raises StageError for anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = bytearray(path.read_bytes())
        if self._data[:4] != b"\x7fELF" or self._data[4] not in _LAYOUTS or self._data[5] != 1:
            raise StageError(f"{path}: not a little-endian ELF object")
        self._layout = _LAYOUTS[self._data[4]]
        self._sections = list(self._read_sections())
        self._table = next((one for one in self._sections if one.type == _SYMBOL_TABLE), None)

    def _read_sections(self) -> Iterator[_Section]:
        (start,) = struct.unpack_from(self._layout.pointer, self._data, self._layout.section_table)
        each, count = struct.unpack_from("<HH", self._data, self._layout.counts)
        number = 0
        while number < count or number == 0:
            at = start + number * each
            _, kind, _, _, offset, size, link, *_ = self._layout.section.unpack_from(self._data, at)
            if number == 0 and count == 0:  # too many for two bytes: the first header's size says how many
                count = size
            yield _Section(at, kind, offset, size, link)
            number += 1

    def runs_at_start(self) -> bool:
        """Return whether something in it runs before ``main`` does."""
        return any(section.type == _INIT_ARRAY for section in self._sections)

    def symbols(self) -> list[Symbol]:
        """Return the symbols that other objects can see."""
        return [Symbol(name, defined, kind == _FUNCTION) for _, name, defined, kind in self._visible()]

    def _visible(self) -> Iterator[tuple[int, str, bool, int]]:
        """Yield (where it lies, name, defined, type) of each."""
        if self._table is None:
            return
        names = self._sections[self._table.link]
        layout = self._layout.symbol
        for at in range(self._table.offset, self._table.offset + self._table.size, layout.size):
            fields = layout.unpack_from(self._data, at)
            name, info, section = (
                (fields[0], fields[3], fields[5]) if layout.size == 16 else (fields[0], fields[1], fields[3])
            )
            if info >> 4 in _BINDINGS and name:
                start = names.offset + name
                text = self._data[start : self._data.index(0, start)].decode()
                yield at, text, section != 0, info & 15

    def rename(self, names: Set[str], suffix: str, to: Path) -> None:
        """Write the file with ``suffix`` after each symbol of ``names``, defined here or not."""
        if self._table is None:
            to.write_bytes(self._data)
            return
        strings = self._sections[self._table.link]
        data = bytearray(self._data)
        texts = bytearray(data[strings.offset : strings.offset + strings.size])
        for at, name, _, _ in self._visible():
            if name in names:
                struct.pack_into("<I", data, at, len(texts))
                texts += name.encode() + suffix.encode() + b"\0"
        # The old table stays where it is, unused: all else lies where it lay.
        data += bytes(-len(data) % 8)
        fields = list(self._layout.section.unpack_from(data, strings.at))
        fields[4], fields[5] = len(data), len(texts)
        self._layout.section.pack_into(data, strings.at, *fields)
        to.write_bytes(data + texts)
