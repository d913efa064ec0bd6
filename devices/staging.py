"""Staging: a new version of a folder is made beside the one in use, which stays usable until the new one is proved.

The new one of ``FOLDER`` lies in ``staged/FOLDER``. What didn't change is linked there, so that on a disk with hard
links the two take no more room than one and what is new. :func:`edgestill.devices.shell_files.ShellFiles.replace` then
renames: the older to ``replaced/FOLDER``, the new one in its place, and deletes the older. A kill of the host at any
point leaves the older or the new one; a device that loses its power between the two renames has the older put back by
the next command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Final, Protocol

from edgestill.devices.contract import PushReport, Staged
from edgestill.devices.push import Copier, Older, SmallFiles, Store, push_files, wanted_files
from edgestill.progress import Progress

STAGED: Final = "staged"
REPLACED: Final = "replaced"


class StagingStore(Store, SmallFiles, Copier, Protocol):
    """A store that can take two versions of a folder."""

    def restore(self, folder: str) -> None:
        """Put a folder back that an interrupted :meth:`replace` had moved away, and delete what one left behind."""

    def remove(self, folder: str) -> None:
        """Delete a folder, whatever it holds."""


def stage_files(
    store: StagingStore, files: Mapping[str, Path], folder: str, *, progress: Progress, cancelled: Event | None
) -> Staged:
    """Bring ``files`` to a folder beside ``folder``; to none where that holds exactly them already.

    The caller sees to it that nobody else pushes there.
    """
    store.restore(folder)
    staged = f"{STAGED}/{folder}"
    wanted = wanted_files(files, progress, cancelled)
    there = store.listed(folder)
    known = store.stored(folder, sorted(there & wanted.keys()))
    if there == wanted.keys() and all(known.get(name) == one for name, one in wanted.items()):
        store.remove(staged)
        return Staged(folder, PushReport(0, 0, 0, len(wanted), 0), older=True)
    older = Older(folder, known, store) if there else None
    report = push_files(store, files, staged, progress=progress, cancelled=cancelled, small=store, older=older)
    removed = report.files_removed + len(there - wanted.keys())
    return Staged(staged, replace(report, files_removed=removed), older=bool(there))
