"""The browser's files for push: the origin private file system, by the storage worker of our page.

Source: https://fs.spec.whatwg.org/ (a valid file name is neither empty nor ``.`` nor ``..`` and has no separator).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import PurePosixPath
from threading import Event
from typing import Final, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from edgestill.devices.chromium.folder import PUSH_LOCK
from edgestill.devices.chromium.server import ORIGIN, Outgoing
from edgestill.devices.chromium.session import Chromium, disk_free
from edgestill.devices.contract import (
    DeviceBusy,
    DeviceGone,
    DriverError,
    JobCancelled,
    JobFailed,
    NoRoom,
    WrongHash,
)
from edgestill.devices.push import Stored

_HASH_SECONDS: Final = 1800.0
_NAMES: Final = 200
"""Files that are hashed by one call."""

Names = list[str]


def encoded(path: str) -> Names:
    """Return a path's names as they are stored: every byte but letters, digits and ``._-~`` as ``%XX``.

    Reversible, and a valid name in every browser: one of them refuses a backslash, another what isn't Unicode.
    """
    parts = [part for part in PurePosixPath(path).parts if part != "."]
    return [quote_from_bytes(part.encode("utf-8", "surrogateescape"), safe="") for part in parts]


def decoded(path: str) -> str:
    """Return the path whose stored names, joined by ``/``, these are."""
    return unquote_to_bytes(path).decode("utf-8", "surrogateescape")


class BrowserFiles:
    """File operations below ``root``, a path in the origin private file system.

    That has no executable files: those in ``executable`` are said to be, so that push doesn't send them for that.
    """

    def __init__(self, name: str, root: str, chromium: Chromium, executable: Collection[str] = frozenset()) -> None:
        self.name = name
        self._root_name = root
        self._root = encoded(root)
        self._chromium = chromium
        self._executable = executable

    def listed(self, folder: str) -> frozenset[str]:
        found = cast(Names, self._chromium.call("list", {"path": self._path(folder)}))
        return frozenset(decoded(path) for path in found)

    def stored(self, folder: str, names: Sequence[str]) -> dict[str, Stored]:
        known: dict[str, Stored] = {}
        for start in range(0, len(names), _NAMES):
            batch = names[start : start + _NAMES]
            values: dict[str, object] = {"path": self._path(folder), "names": [encoded(name) for name in batch]}
            answer = self._chromium.call("stat", values, seconds=_HASH_SECONDS)
            found = cast("list[dict[str, object] | None]", answer)
            for name, one in zip(batch, found, strict=True):
                if one is not None:
                    known[name] = Stored(int(str(one["size"])), str(one["sha256"]), name in self._executable)
        return known

    def delete(self, folder: str, names: Sequence[str]) -> None:
        self._chromium.call("delete", {"path": self._path(folder), "names": [encoded(name) for name in names]})

    def free_bytes(self) -> int | None:
        # navigator.storage.estimate() rounds, so that sites can't tell visitors apart by it.
        found = self._chromium.protocol("Storage.getUsageAndQuota", {"origin": ORIGIN})
        quota, usage = found.get("quota"), found.get("usage")
        disk = disk_free(self._chromium.folder.path)
        known = [int(quota - usage)] if isinstance(quota, int | float) and isinstance(usage, int | float) else []
        known += [] if disk is None else [disk]
        return max(min(known), 0) if known else None

    def send(
        self, folder: str, target: str, wanted: Stored, pieces: Iterator[bytes], *, offset: int,
        cancelled: Event | None, on_sent: Callable[[int], None],
    ) -> None:  # fmt: skip
        url, outgoing = self._chromium.server.outgoing()
        values: dict[str, object] = {
            "path": self._path(folder),
            "target": encoded(target),
            "sha256": wanted.sha256,
            "size": wanted.size,
            "offset": offset,
            "url": url,
        }
        future = self._chromium.begin("receive", values)

        self._stream(future, outgoing, pieces, cancelled, on_sent)
        answer = cast("dict[str, object]", self._chromium.result_of(future, seconds=_HASH_SECONDS))
        self._see(f"{self.name}: {folder}/{target}", answer, wanted)

    def send_small(
        self, folder: str, files: Sequence[tuple[str, Stored, bytes]], *,
        cancelled: Event | None, on_sent: Callable[[int], None],
    ) -> None:  # fmt: skip
        url, outgoing = self._chromium.server.outgoing()
        listed = [{"target": encoded(name), "sha256": wanted.sha256, "size": wanted.size} for name, wanted, _ in files]
        values: dict[str, object] = {"path": self._path(folder), "files": listed, "url": url}
        future = self._chromium.begin("receiveSmall", values)
        self._stream(future, outgoing, iter([content for _, _, content in files if content]), cancelled, on_sent)
        answer = cast("dict[str, object]", self._chromium.result_of(future, seconds=_HASH_SECONDS))
        name, wanted, _ = files[int(str(answer.get("index", 0)))]
        self._see(f"{self.name}: {folder}/{name}", answer, wanted)

    def link(self, source: str, folder: str, names: Sequence[str]) -> list[str]:
        return list(names)  # there are no links in a browser's storage

    def copy(self, source: str, folder: str, names: Sequence[str]) -> None:
        values: dict[str, object] = {
            "from": self._path(source),
            "path": self._path(folder),
            "names": [encoded(name) for name in names],
        }
        answer = cast("dict[str, object]", self._chromium.call("copy", values, seconds=_HASH_SECONDS))
        self._see(f"{self.name}: {folder}/{names[0]}", answer, Stored(0, ""))

    def restore(self, folder: str) -> None:
        """Nothing is left to do: the page finished what was cut when it started."""

    def replace(self, folders: Mapping[str, str]) -> None:
        """Put folders (keys) in the places of others (values), which are deleted. Raises DriverError."""
        moves = [{"from": self._path(staged), "to": self._path(folder)} for staged, folder in folders.items()]
        if not self._chromium.call("replace", {"moves": moves}, seconds=_HASH_SECONDS):
            raise DriverError(f"{self.name}: another command removed what was staged there; run this one again")

    def read(self, path: str) -> bytes:
        self._chromium.start()
        url, place = self._chromium.server.incoming()
        found = self._chromium.call("send", {"path": self._path(path), "url": url}, seconds=None)
        if not found:
            raise JobFailed(f"{self.name}: {path} can't be read there (no such file)")
        return bytes(place)

    def remove(self, folder: str) -> None:
        self._chromium.call("remove", {"root": self._root, "path": encoded(folder)})

    def remove_all(self) -> bool:
        """Delete our folder if it is marked as ours; returns whether the browser stores nothing of the origin then."""
        return bool(self._chromium.call("removeAll", {"root": self._root}))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the right to push. Raises DeviceBusy, DriverError where our folder holds somebody else's files."""
        busy = "another push is under way there; wait for it"
        with self._chromium.folder.held(PUSH_LOCK, busy):
            if not self._chromium.call("claim", {"root": self._root}):
                raise DriverError(
                    f"{self.name}: {self._root_name} in the browser's storage holds files that aren't ours; "
                    "name an empty root for it"
                )
            yield

    def _path(self, folder: str) -> Names:
        return [*self._root, *encoded(folder)]

    def _stream(
        self,
        future: Future[object],
        outgoing: Outgoing,
        pieces: Iterator[bytes],
        cancelled: Event | None,
        on_sent: Callable[[int], None],
    ) -> None:
        """Hand pieces over to an operation that takes them. Raises JobCancelled, once what arrived is written."""

        def wanted_still() -> bool:
            if cancelled is not None and cancelled.is_set():
                raise JobCancelled(f"{self.name}: cancelled")
            return not future.done() and not self._chromium.gone

        whole = False
        try:
            for piece in pieces:
                if not outgoing.put(piece, wanted_still):
                    break
                on_sent(len(piece))
            else:
                outgoing.put(None, wanted_still)
            whole = True
        finally:
            if not whole:  # what arrived is written before anything else happens there
                outgoing.stop()
                with contextlib.suppress(DriverError):
                    self._chromium.result_of(future)

    def _see(self, what: str, answer: Mapping[str, object], wanted: Stored) -> None:
        """Raises what the storage worker said of a file."""
        status = answer["status"]
        if status == "full":
            raise NoRoom(f"{what}: the browser's storage is full; free some room and run the same command again")
        if status == "busy":
            raise DeviceBusy(f"{what}: what an earlier push had under way was still arriving; run the command again")
        if status == "changed":
            raise WrongHash(f"{what}: arrived with another sha256 than was sent, deleted there; push again")
        if status == "short":
            raise WrongHash(f"{what}: arrived with another size than {wanted.size} bytes; did the file change?")
        if status == "cut":
            why = re.sub(r"\s+", " ", str(answer.get("message", "")))
            raise DeviceGone(f"{what}: the page lost its connection ({why}); run the same command again")
