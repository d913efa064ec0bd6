"""Writing whole or not at all, and hashing what was written.

Every stage writes into a temporary sibling and renames it when it is whole, so that a kill at any
moment leaves either nothing or the finished thing under the final name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgestill.errors import disk_errors

PARTIAL_SUFFIX: Final = ".partial"
_CHUNK: Final = 64 << 20
"""Large, as each piece takes the interpreter twice: beside other work, up to 5 ms of waiting each time."""


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as lower-case hex; memory that was read for it is let go of."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _CHUNK:
            digest.update(file.read())
            return digest.hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            for start in range(0, size, _CHUNK):
                with view[start : start + _CHUNK] as piece:
                    digest.update(piece)
                if hasattr(mmap, "MADV_DONTNEED"):
                    mapped.madvise(mmap.MADV_DONTNEED, start, min(_CHUNK, size - start))
    return digest.hexdigest()


def sha256_json(value: object) -> str:
    """Return the sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Return every file below ``folder``, relative to it, sorted by its POSIX name."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: path.as_posix())


def sha256_folder(folder: Path, *, ignore: frozenset[str] = frozenset()) -> str:
    """Return one sha256 over the names and contents of every file below ``folder``."""
    names = [name for name in files_below(folder) if name.as_posix() not in ignore]
    return sha256_json([[name.as_posix(), sha256_file(folder / name)] for name in names])


def remove(path: Path) -> None:
    """Delete a file or a folder tree; nothing happens when it isn't there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Yield a fresh temporary sibling of ``final``; rename it to ``final`` when the block ends well.

    An exception (Ctrl-C too) removes the sibling. What an earlier kill left beside ``final`` is
    removed first, but not what a living process writes there: of two at once the later one's result stays.
    An existing ``final`` is replaced only after the new folder is whole. Raises DiskFullError when there is no room.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    sweep_partial(final)
    partial, held = _sibling(final), None
    try:
        with disk_errors(f"writing {final}"):
            while (held := _make_held(partial)) is None:
                partial = _sibling(final)
            yield partial
            _sync_tree(partial)
            _put_in_place(partial, final)
    finally:
        remove(partial)
        if held is not None:
            os.close(held)


def _sibling(final: Path) -> Path:
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")


def _make_held(partial: Path) -> int | None:
    """Make a folder that no sweep removes while the returned descriptor is open; None where one came between."""
    partial.mkdir()
    try:
        held = os.open(partial, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if _lock(held) and partial.exists():
        return held
    os.close(held)
    return None


def _put_in_place(partial: Path, final: Path) -> None:
    while True:
        old = final.with_name(f".{final.name}.old{PARTIAL_SUFFIX}")
        try:
            if final.exists():
                remove(old)
                final.rename(old)
            partial.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not partial.exists():
                raise
            continue  # another process came between
        remove(old)
        return


@contextlib.contextmanager
def whole_file(final: Path) -> Iterator[Path]:
    """Yield the path of a temporary sibling file; rename it to ``final`` when the block ends well."""
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        with disk_errors(f"writing {final}"):
            yield partial
            _sync(partial)
            partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file (two-space indent, UTF-8) whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sweep_partial(final: Path) -> None:
    """Remove temporary siblings of ``final`` that a killed run left behind.

    A kill between the two renames of a replacement left the earlier result as ``.old``: it goes back. What a living
    process writes (see :func:`whole_folder`) stays.
    """
    old = final.with_name(f".{final.name}.old{PARTIAL_SUFFIX}")
    if old.exists() and not final.exists():
        old.rename(final)
    if final.parent.is_dir():
        for left in final.parent.glob(f".{final.name}.*{PARTIAL_SUFFIX}"):
            _remove_unlocked(left)


def _remove_unlocked(path: Path) -> None:
    try:
        held = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        remove(path)  # nobody who writes there could hold it
        return
    try:
        if _lock(held):
            remove(path)
    finally:
        os.close(held)


def _lock(descriptor: int) -> bool:
    """Return whether this process has it now; where the file system has no locks, it has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for name in files_below(folder):
        _sync(folder / name)
