"""What the C library's allocator holds in reserve: freed by the program, kept from the system.

glibc 2.33 or newer (``mallinfo2``); elsewhere it isn't known.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Final

_FIELDS: Final = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def freed_bytes() -> int | None:
    """Return the bytes that were freed and lie in malloc's lists, of all its arenas; None where it doesn't say."""
    counters = _mallinfo2()
    return None if counters is None else int(counters().fordblks)


@functools.cache
def _mallinfo2() -> Callable[[], _Mallinfo2] | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    function.restype = _Mallinfo2
    return function
