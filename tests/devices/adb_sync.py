"""The file service of the ADB protocol (SYNC.TXT): stat, list, send, receive; of version 2 stat and list."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.devices.adb_phone import Phone

if TYPE_CHECKING:
    from tests.devices.adb_device import Stream

CHUNK = 64 * 1024


class _Reader:
    def __init__(self, stream: Stream) -> None:
        self._stream, self._waiting = stream, bytearray()

    def exactly(self, count: int) -> bytes:
        while len(self._waiting) < count:
            data = self._stream.read()
            if not data:
                raise OSError("the host has closed")
            self._waiting += data
        taken = bytes(self._waiting[:count])
        del self._waiting[:count]
        return taken


def serve_files(stream: Stream, phone: Phone) -> None:
    """Answer requests until the host says QUIT or closes."""
    reader = _Reader(stream)
    while True:
        name, length = struct.unpack("<4sI", reader.exactly(8))
        if name == b"QUIT":
            return
        text = os.fsdecode(reader.exactly(length))
        if name == b"SEND":
            name_there, _, mode = text.rpartition(",")
            _receive(stream, reader, phone.real_path(name_there), int(mode))
            continue
        path = phone.real_path(text)
        if name == b"RECV":
            _send(stream, path)
        elif name in _ANSWERS:
            stream.write(_ANSWERS[name](path))
        else:
            _fail(stream, f"unknown request {name!r}")
            return


def _fail(stream: Stream, message: str) -> None:
    data = message.encode()
    stream.write(struct.pack("<4sI", b"FAIL", len(data)) + data)


def _receive(stream: Stream, reader: _Reader, path: Path, mode: int) -> None:
    """Write a file that the host sends; after an error the rest is read and dropped, as the host sends it anyway."""
    error: str | None = None
    target = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, stat.S_IMODE(mode) | 0o600)
    except OSError as problem:
        error = problem.strerror
    try:
        while True:
            name, length = struct.unpack("<4sI", reader.exactly(8))
            if name == b"DONE":
                break
            data = reader.exactly(length)
            try:
                while data and error is None:
                    data = data[os.write(target, data) :]
            except OSError as problem:
                error = problem.strerror
    finally:
        if target >= 0:
            os.close(target)
    if error is not None:
        path.unlink(missing_ok=True)
        _fail(stream, error)
        return
    path.chmod(stat.S_IMODE(mode))
    os.utime(path, (length, length))
    stream.write(struct.pack("<4sI", b"OKAY", 0))


def _send(stream: Stream, path: Path) -> None:
    try:
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
        stream.write(struct.pack("<4sI", b"DONE", 0))
    except FileNotFoundError:
        _fail(stream, "No such file or directory")
    except IsADirectoryError:
        _fail(stream, "Is a directory")


def _stat1(path: Path) -> bytes:
    try:
        found = path.lstat()
    except OSError:
        return struct.pack("<4s3I", b"STAT", 0, 0, 0)
    return struct.pack("<4s3I", b"STAT", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))


def _stat2(name: bytes, path: Path, follow: bool) -> bytes:
    try:
        found = path.stat() if follow else path.lstat()
    except OSError as problem:
        return struct.pack("<4sI2Q4IQ3q", name, problem.errno or 5, *[0] * 10)
    ids = (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size)
    times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
    return struct.pack("<4sI2Q4IQ3q", name, 0, *ids, *times)


def _names(path: Path) -> list[bytes]:
    try:
        return [b".", b"..", *sorted(os.listdir(os.fsencode(path)))]
    except OSError:
        return []


def _list1(path: Path) -> bytes:
    entries = b""
    for name in _names(path):
        entries += b"DENT" + _stat1(path / os.fsdecode(name))[4:] + struct.pack("<I", len(name)) + name
    return entries + struct.pack("<4s4I", b"DONE", 0, 0, 0, 0)


def _list2(path: Path) -> bytes:
    entries = b""
    for name in _names(path):
        entries += _stat2(b"DNT2", path / os.fsdecode(name), False) + struct.pack("<I", len(name)) + name
    return entries + b"DONE" + bytes(72)


_ANSWERS: dict[bytes, Callable[[Path], bytes]] = {
    b"STAT": _stat1,
    b"STA2": lambda path: _stat2(b"STA2", path, True),
    b"LST2": lambda path: _stat2(b"LST2", path, False),
    b"LIST": _list1,
    b"LIS2": _list2,
}
