"""The page cache of a model's files: put out of it for a cold load, and how much of them lies there."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

_READ_BYTES: Final = 8 << 20


def evict(files: Sequence[Path]) -> None:
    """Ask the kernel to drop its copies of files (POSIX_FADV_DONTNEED); pages that someone has mapped stay.

    Does nothing where the system has no such call: look at :func:`cached_share` afterwards.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        with path.open("rb") as file:
            with contextlib.suppress(OSError):
                os.fdatasync(file.fileno())  # what isn't on the disk yet can't be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(files: Sequence[Path]) -> None:
    """Read files through, so that the page cache holds them if it has the room."""
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                pass


def cached_share(files: Sequence[Path]) -> float | None:
    """Return the fraction of the files' pages that lie in memory (mincore); None where the system can't say."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    present = total = 0
    for path in files:
        size = path.stat().st_size
        if not size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
            pages = -(-size // mmap.PAGESIZE)
            view = np.frombuffer(mapped, np.uint8)
            resident = np.zeros(pages, np.uint8)
            failed = libc.mincore(view.ctypes.data, size, resident.ctypes.data)
            del view  # the mapping can't be closed while an array looks at it
            if failed:
                return None
            present += int((resident & 1).sum())
            total += pages
    return present / total if total else None
