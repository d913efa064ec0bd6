"""What this process's memory consists of, mapping by mapping: /proc/self/smaps of Linux.

The format is described in the kernel's Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

Group = Literal["model", "engine", "python", "anonymous", "stack"]

_SMAPS: Final = Path("/proc/self/smaps")
_HEAD: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) [0-9a-f]+ \S+ \d+ *(.*)")
_DELETED: Final = " (deleted)"


@dataclass(slots=True)
class Mapping:
    """One mapping: addresses ``start`` to ``end``, ``permissions`` such as ``r-xp``, bytes by the kernel's counters.

    ``path`` is the mapped file (without the kernel's mark that it was deleted), a name in brackets such as ``[heap]``,
    or empty for anonymous memory. ``pss`` divides shared pages among those that share them; ``anonymous`` pages
    belong to no file (any more); ``anon_huge_pages`` are those of them in huge pages; ``swap`` is what was swapped out.
    """

    start: int
    end: int
    permissions: str
    path: str
    pss: int = 0
    rss: int = 0
    anonymous: int = 0
    anon_huge_pages: int = 0
    swap: int = 0


_COUNTERS: Final = {
    "".join(word.capitalize() for word in field.name.split("_")): field.name for field in fields(Mapping)[4:]
}


def parse_smaps(lines: Iterable[str]) -> Iterator[Mapping]:
    """Yield the mappings of an smaps file as its lines arrive; counters that a kernel lacks are 0."""
    found: Mapping | None = None
    for line in lines:
        name, colon, rest = line.partition(":")
        if colon and name in _COUNTERS and found is not None:
            setattr(found, _COUNTERS[name], int(rest.split()[0]) * 1024)
        elif head := _HEAD.match(line):
            if found is not None:
                yield found
            start, end, permissions, path = head.groups()
            path = path.rstrip("\n").removesuffix(_DELETED)
            found = Mapping(int(start, 16), int(end, 16), permissions, path)
    if found is not None:
        yield found


def read_smaps(path: Path = _SMAPS) -> Iterator[Mapping]:
    """Yield this process's mappings; none where the system has no smaps.

    Walks the page tables (about 10 ms for 1 GB in small pages): don't call it inside a timed section.
    """
    try:
        file = path.open(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    with file:
        yield from parse_smaps(file)


def group_of(mapping: Mapping, model: frozenset[str], engine: tuple[str, ...]) -> Group:
    """Return where a mapping belongs.

    ``model`` are the paths of the model's files, ``engine`` the folders of the engine's libraries. Every other file is
    ``python``: the interpreter, packages, system libraries. Memory of no file is ``anonymous``, the heap included.
    """
    path = mapping.path
    if path.startswith("[stack"):
        return "stack"
    if not path or path == "[heap]" or path.startswith("[anon"):
        return "anonymous"
    if path in model:
        return "model"
    return "engine" if path.startswith(engine) else "python"


def group_pss(mappings: Iterable[Mapping], model: frozenset[str], engine: tuple[str, ...]) -> dict[Group, int]:
    """Return the PSS in bytes of each group (see :func:`group_of`)."""
    found: Counter[Group] = Counter({"model": 0, "engine": 0, "python": 0, "anonymous": 0, "stack": 0})
    for mapping in mappings:
        found[group_of(mapping, model, engine)] += mapping.pss
    return dict(found)
