"""Saying how large a file set will be before it is written, while nothing is lost by stopping."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgestill.errors import DiskFullError
from edgestill.progress import Progress


def announce_size(progress: Progress, final: Path, folder: Path, size_bytes: int) -> None:
    """Tell ``progress`` how many bytes will be written to ``folder``, which becomes ``final``.

    Raises DiskFullError when the disk hasn't the room.
    """
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        raise DiskFullError(
            f"disk full: {final} will have {_shown(size_bytes)} and only {_shown(free)} are free; "
            "free some room and run the same command again"
        )
    progress.note(f"{final.name}: {_shown(size_bytes)} to write")


def _shown(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.2f} MB"
