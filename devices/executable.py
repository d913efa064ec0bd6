"""For which machine a program is: from its ELF header. Source: the System V ABI's gABI 4.1, chapter 4."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MACHINES: Final = {
    (0x03, 1): ("i686", ("i386", "i486", "i586", "i686", "x86_64")),
    (0x28, 1): ("armv7", ("arm", "armv6l", "armv7l", "armv7", "armv8l", "aarch64")),
    (0x3E, 2): ("x86_64", ("x86_64", "amd64")),
    (0xB7, 2): ("aarch64", ("aarch64", "arm64")),
    (0xF3, 2): ("riscv64", ("riscv64",)),
}
"""(e_machine, class) -> its name, and what ``uname -m`` says where it runs."""

_INTERPRETER: Final = 3


@dataclass(frozen=True)
class Machine:
    """What a program was linked for."""

    name: str
    runs_on: tuple[str, ...]
    needs_libraries: bool

    def fits(self, machine: str) -> bool:
        """Tell whether it runs where ``uname -m`` says ``machine``."""
        return machine in self.runs_on


def machine_of(program: Path) -> Machine | None:
    """Return what a little-endian ELF program is for; None for another kind of file or a machine we don't know."""
    with program.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:4] != b"\x7fELF" or head[5] != 1:
            return None
        wide = head[4] == 2
        (number,) = struct.unpack_from("<H", head, 18)
        known = _MACHINES.get((number, head[4]))
        if known is None:
            return None
        (offset,) = struct.unpack_from("<Q", head, 32) if wide else struct.unpack_from("<I", head, 28)
        size, count = struct.unpack_from("<HH", head, 54 if wide else 42)
        file.seek(offset)
        table = file.read(size * count)
    kinds = [struct.unpack_from("<I", table, at)[0] for at in range(0, len(table) - 3, size)] if size else []
    return Machine(known[0], known[1], _INTERPRETER in kinds)
