"""Push: make a device's folder hold exactly some files, sending only what differs, and going on where it was cut.

A file goes to ``FOLDER/.partial/SHA256`` piece by piece, is hashed there when it is whole, and renamed into place;
``manifest.json`` goes last. Small files go many at a time where the store can take them so. What an older version on
the same device has needn't be sent: it is linked, or copied where the disk has no hard links.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final, Protocol

from edgestill.devices.contract import JobCancelled, NoRoom, PushReport, WrongHash, device_path
from edgestill.errors import InputError
from edgestill.progress import Progress
from edgestill.storage import sha256_file

PARTIAL: Final = ".partial"
LAST: Final = "manifest.json"
MARGIN_BYTES: Final = 1 << 20
"""What must stay free beside what is sent."""

SMALL_BYTES: Final = 64 << 10
"""A file of at most this size is sent together with others."""

_TOGETHER_BYTES: Final = 1 << 20
_PIECE: Final = 256 << 10


@dataclass(frozen=True)
class Stored:
    """A file on the device, or one here."""

    size: int
    sha256: str
    executable: bool = False


class Store(Protocol):
    """The few file operations that push needs; ``folder`` and names are plain paths below the device's root."""

    name: str

    def listed(self, folder: str) -> frozenset[str]:
        """Return everything below the folder that isn't itself a folder: links and partials too."""

    def stored(self, folder: str, names: Sequence[str]) -> dict[str, Stored]:
        """Return size and hash of those names that are regular files (not links), hashed on the device."""

    def delete(self, folder: str, names: Sequence[str]) -> None:
        """Delete names, and folders that are empty then."""

    def free_bytes(self) -> int | None:
        """Return the free disk; None where it can't be told."""

    def send(
        self,
        folder: str,
        target: str,
        wanted: Stored,
        pieces: Iterator[bytes],
        *,
        offset: int,
        cancelled: Event | None,
        on_sent: Callable[[int], None],
    ) -> None:
        """Append pieces to the file's partial, which has ``offset`` bytes, and rename it when it has its hash.

        Raises WrongHash (the partial is deleted), NoRoom, DeviceGone, JobCancelled (the partial stays).
        """


class SmallFiles(Protocol):
    """A store to which many small files can be sent at once: over a network each exchange costs its latency."""

    def send_small(
        self,
        folder: str,
        files: Sequence[tuple[str, Stored, bytes]],
        *,
        cancelled: Event | None,
        on_sent: Callable[[int], None],
    ) -> None:
        """Write whole files: path, what it shall be, its bytes. Raises what :meth:`Store.send` does."""


class Copier(Protocol):
    """A store that can give one folder the files of another without their being sent."""

    def link(self, source: str, folder: str, names: Sequence[str]) -> list[str]:
        """Make files of ``source`` files of ``folder`` too (hard links); return those for which that can't be done."""

    def copy(self, source: str, folder: str, names: Sequence[str]) -> None:
        """Copy files of ``source`` into ``folder``. Raises NoRoom."""


@dataclass(frozen=True)
class Older:
    """A version on the same device: its folder, and its files by path as they were hashed there."""

    folder: str
    files: Mapping[str, Stored]
    copier: Copier


def push_files(
    store: Store,
    files: Mapping[str, Path],
    folder: str,
    *,
    progress: Progress,
    cancelled: Event | None,
    small: SmallFiles | None = None,
    older: Older | None = None,
) -> PushReport:
    """Bring a folder of ``store`` to hold exactly ``files``. The caller sees to it that nobody else pushes there.

    ``small`` and ``older`` are shortcuts that not every store has.
    """
    wanted = wanted_files(files, progress, cancelled)
    present = store.listed(folder)
    partials = {f"{PARTIAL}/{one.sha256}" for one in wanted.values()}
    stale = sorted(present - wanted.keys() - partials)
    found = store.stored(folder, sorted(present & (wanted.keys() | partials)))
    stale += sorted((present & wanted.keys()) - found.keys())  # a link where a file goes
    if stale:
        store.delete(folder, stale)
    kept = {name for name, one in wanted.items() if found.get(name) == one}
    missing = sorted(wanted.keys() - kept, key=lambda name: (name == LAST, name))
    offsets, damaged = _offsets(files, wanted, missing, found)
    if damaged:
        store.delete(folder, damaged)
    reused = _reusable(wanted, missing, older)
    missing = [name for name in missing if name not in reused]
    offsets = {sha256: offset for sha256, offset in offsets.items() if sha256 in _hashes(wanted, missing)}
    to_send = sum(wanted[name].size for name in missing) - sum(offsets.values())
    _reuse(store, folder, wanted, reused, older, to_send)
    if older is None or not reused:
        _check_room(store, to_send if missing else 0)
    sent = 0

    def on_sent(amount: int) -> None:
        nonlocal sent
        sent += amount
        task.advance(amount)

    def check() -> None:
        if cancelled is not None and cancelled.is_set():
            raise JobCancelled(f"{store.name}: push cancelled; what arrived is kept")

    with progress.task(f"{store.name}: push", to_send, "bytes") as task:
        batches = _small_batches(wanted, missing, offsets) if small is not None else []
        for batch in batches:
            check()
            contents = [(name, wanted[name], files[name].read_bytes()) for name in batch]
            if small is not None:
                small.send_small(folder, contents, cancelled=cancelled, on_sent=on_sent)
        together = {name for batch in batches for name in batch}
        for name in [name for name in missing if name not in together]:
            check()
            one = wanted[name]
            offset = offsets.pop(one.sha256, 0)
            pieces = _pieces(files[name], offset, one.size)
            store.send(folder, name, one, pieces, offset=offset, cancelled=cancelled, on_sent=on_sent)
    left = sorted(path for path in partials if path in found)
    unused = [path for path in left if path not in damaged and path.rpartition("/")[2] not in _hashes(wanted, missing)]
    if unused:
        store.delete(folder, unused)
    return PushReport(
        sent_bytes=sent,
        resumed_bytes=sum(wanted[name].size for name in missing) - to_send,
        files_sent=len(missing),
        files_kept=len(kept) + len(reused),
        files_removed=sum(not path.startswith(f"{PARTIAL}/") for path in stale),
    )


def wanted_files(files: Mapping[str, Path], progress: Progress, cancelled: Event | None) -> dict[str, Stored]:
    """Return the files' sizes and hashes. Raises InputError for one that isn't there, ValueError for a bad name."""
    wanted: dict[str, Stored] = {}
    with progress.task("hash", len(files), "files") as task:
        for name, path in files.items():
            plain = device_path(name)
            if plain != name or plain.split("/")[0] == PARTIAL:
                raise ValueError(f"{name!r} isn't a plain path below the device's folder")
            if cancelled is not None and cancelled.is_set():
                raise JobCancelled("push cancelled before it began")
            if not path.is_file():
                raise InputError(f"{path}: no such file to push")
            wanted[name] = Stored(path.stat().st_size, sha256_file(path), os.access(path, os.X_OK))
            task.advance()
    for name in wanted:
        if any(parent.as_posix() in wanted for parent in Path(name).parents):
            raise ValueError(f"{name!r} lies below another file of the list")
    return wanted


def _offsets(
    files: Mapping[str, Path], wanted: Mapping[str, Stored], missing: Sequence[str], found: Mapping[str, Stored]
) -> tuple[dict[str, int], list[str]]:
    """Return how much of each hash is there already, and the partials that are no prefix of their file."""
    offsets: dict[str, int] = {}
    damaged: list[str] = []
    for name in missing:
        sha256 = wanted[name].sha256
        partial = found.get(path := f"{PARTIAL}/{sha256}")
        if partial is None or sha256 in offsets or path in damaged:
            continue
        if partial.size <= wanted[name].size and _prefix_sha256(files[name], partial.size) == partial.sha256:
            offsets[sha256] = partial.size
        else:
            damaged.append(path)
    return offsets, damaged


def _small_batches(wanted: Mapping[str, Stored], missing: Sequence[str], offsets: Mapping[str, int]) -> list[list[str]]:
    """Return the names that are sent together, by batch: small files of which nothing is there, never the last one."""
    batches: list[list[str]] = []
    room = 0
    for name in missing:
        one = wanted[name]
        if name == LAST or one.size > SMALL_BYTES or one.sha256 in offsets:
            continue
        if one.size > room or not batches:
            batches.append([])
            room = _TOGETHER_BYTES
        batches[-1].append(name)
        room -= one.size
    return batches


def _reusable(wanted: Mapping[str, Stored], missing: Sequence[str], older: Older | None) -> list[str]:
    if older is None:
        return []
    return [name for name in missing if name != LAST and older.files.get(name) == wanted[name]]


def _reuse(
    store: Store, folder: str, wanted: Mapping[str, Stored], names: Sequence[str], older: Older | None, to_send: int
) -> None:
    """Take files from the older version. Raises NoRoom before any of them is copied, WrongHash for a bad copy."""
    if older is None or not names:
        return
    unlinked = older.copier.link(older.folder, folder, names)
    _check_room(store, to_send, sum(wanted[name].size for name in unlinked))
    if not unlinked:
        return
    older.copier.copy(older.folder, folder, unlinked)
    copied = store.stored(folder, unlinked)
    if damaged := [name for name in unlinked if copied.get(name) != wanted[name]]:
        store.delete(folder, damaged)
        raise WrongHash(f"{store.name}: {folder}/{damaged[0]}: its copy there has other bytes; run the command again")


def _hashes(wanted: Mapping[str, Stored], names: Sequence[str]) -> set[str]:
    return {wanted[name].sha256 for name in names}


def _check_room(store: Store, to_send: int, to_copy: int = 0) -> None:
    wanted = to_send + to_copy
    free = store.free_bytes() if wanted else None
    if free is not None and free < wanted + MARGIN_BYTES:
        copies = "" if not to_copy else (
            f" and {to_copy / 1e6:,.1f} MB copied, as its disk has no hard links and the version in use stays"
        )  # fmt: skip
        cure = "choose a smaller artifact" if not to_copy else "give up the version in use: --in-place"
        raise NoRoom(
            f"{store.name}: {to_send / 1e6:,.1f} MB are still to be sent{copies}, and {free / 1e6:,.1f} MB are free "
            f"there; free {(wanted + MARGIN_BYTES - free) / 1e6:,.1f} MB, or {cure}"
        )


def _prefix_sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(path, 0, size):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path, start: int, end: int) -> Iterator[bytes]:
    """Yield a file's bytes from ``start`` to ``end``, or to where it ends now."""
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (piece := file.read(min(_PIECE, end - start))):
            start += len(piece)
            yield piece
