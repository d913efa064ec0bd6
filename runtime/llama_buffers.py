"""The buffers that llama.cpp says it made, from the lines that it logs while loading.

It has a function that counts them, ``llama_get_memory_breakdown``, but only for C++: nothing in its C interface
tells them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from edgestill.runtime.engine import MemoryPart

MARK: Final = "buffer size ="
"""What every line has that tells a buffer's size."""

_LINE: Final = re.compile(r"^\w+: +(\S+) +([\w ]*?) *buffer size = +(\d+(?:\.\d+)?) MiB")
_MAPPED: Final = "_Mapped"
_HALF_A_DIGIT: Final = 0.005  # MiB: sizes are logged with two decimals


def logged_parts(lines: Iterable[str]) -> Iterator[MemoryPart]:
    """Yield what llama.cpp holds in memory of its own, in the order of its log; mapped weights are the file's.

    A buffer of weights that isn't mapped is a copy: ``CPU_REPACK`` has another layout than the file, which stays
    mapped beside it, and ``CPU`` is what was read without mapping.
    """
    mapped = False
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            continue
        name, what, size = found[1], found[2], float(found[3])
        if what == "model" and name.endswith(_MAPPED):
            mapped = True
            continue
        allocated = round(size * 2**20)
        source = f"llama.cpp's log, to {_HALF_A_DIGIT} MiB: {' '.join(line.split())}"
        if what == "model":
            kind = "a second copy, the file's own stay mapped" if mapped else "read into memory"
            yield MemoryPart("weights", f"{name} ({kind})", allocated, None, source)
        elif what in ("compute", "output"):
            yield MemoryPart("compute", f"{name} {what}", allocated, None, source)
        else:
            yield MemoryPart("kv_cache", f"{name} {what}", allocated, None, source)
