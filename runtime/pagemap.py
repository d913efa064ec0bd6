"""How much of a buffer is in memory: /proc/self/pagemap of Linux, page by page.

A buffer that was allocated and not yet written costs nothing. Which bits say so is described in the kernel's
Documentation/admin-guide/mm/pagemap.rst; the ones read here need no privileges.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

_PAGEMAP: Final = Path("/proc/self/pagemap")
_PRESENT: Final = np.uint64(1 << 63)
_OF_A_FILE: Final = np.uint64(1 << 61)
_PIECE: Final = 1 << 16  # pages


def anonymous_bytes(spans: Iterable[tuple[int, int]], pagemap: Path = _PAGEMAP) -> int | None:
    """Return how many bytes of ``spans`` (address, bytes) are in memory and belong to no file; None: it can't be told.

    Pages still shared with a mapped file are left out: they are the file's.
    """
    page = mmap.PAGESIZE
    total = 0
    try:
        with pagemap.open("rb", buffering=0) as file:
            for address, size in spans:
                end = address + size
                for first in range(address // page, -(-end // page), _PIECE):
                    count = min(_PIECE, -(-end // page) - first)
                    file.seek(first * 8)
                    entries = np.frombuffer(file.read(count * 8), np.uint64)
                    held = (entries & _PRESENT != 0) & (entries & _OF_A_FILE == 0)
                    total += int(held.sum()) * page
                    if len(held) and held[0]:  # the span may begin and end inside a page
                        total -= max(0, address - first * page)
                    if len(held) == count and held[-1]:
                        total -= max(0, (first + count) * page - end)
    except OSError:
        return None
    return total
