"""The device's folder on this machine: the browser's user data, and who holds it. Locks are flock(2)'s.

Source of the browser's own lock: Chromium's ``chrome/browser/process_singleton_posix.cc``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgestill.devices.contract import DeviceBusy, DriverError

MARK: Final = ".edgestill"
USER_DATA: Final = "user-data"
BROWSER_LOCK: Final = "browser.lock"
PUSH_LOCK: Final = "push.lock"
BENCH_LOCK: Final = "bench.lock"
_WAIT_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.05
_ORPHAN_SECONDS: Final = 5.0
_SOCKET_FOLDERS: Final = ("org.chromium.Chromium.", "com.google.Chrome.")


class DeviceFolder:
    """``path`` holds a mark that it is ours, locks, and ``user-data``."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    @property
    def user_data(self) -> Path:
        return self.path / USER_DATA

    @property
    def made(self) -> bool:
        """Whether it is there and ours."""
        return (self.path / MARK).is_file()

    def make(self) -> None:
        """Make it. Raises DriverError where that can't be, or where it holds somebody else's files."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.made and any(self.path.iterdir()):
                raise DriverError(f"{self.name}: {self.path} holds files that aren't ours; set folder to an empty one")
            (self.path / MARK).touch()
        except OSError as error:
            raise DriverError(f"{self.name}: {self.path}: {error.strerror}; set folder to another place") from None

    @contextlib.contextmanager
    def held(self, lock: str, busy: str) -> Iterator[None]:
        """Hold one of the locks. Raises DeviceBusy with ``busy`` as its words."""
        import fcntl

        self.make()
        with (self.path / lock).open("ab") as file:
            deadline = time.monotonic() + _WAIT_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise DeviceBusy(f"{self.name}: {busy}") from None
                    time.sleep(_POLL_SECONDS)
            yield

    def end_orphan(self) -> None:
        """End a browser whose host was killed, and take away its lock. The caller holds BROWSER_LOCK."""
        deadline = time.monotonic() + _ORPHAN_SECONDS
        while (pid := self._browser()) is not None:
            late = time.monotonic() > deadline
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(_POLL_SECONDS)
        with contextlib.suppress(OSError):  # the socket's folder, which only a browser that ends itself takes away
            socket_folder = Path(os.readlink(self.user_data / "SingletonSocket")).parent
            if socket_folder.name.startswith(_SOCKET_FOLDERS):
                for left in socket_folder.iterdir():
                    left.unlink()
                socket_folder.rmdir()
        for path in self.user_data.glob("Singleton*"):
            path.unlink(missing_ok=True)

    def browser_processes(self) -> list[int]:
        """Return the running browser's processes, each after its parent."""
        first = self._browser()
        found = [] if first is None else [first]
        for pid in found:
            for task in Path("/proc", str(pid), "task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += [int(word) for word in task.read_text(encoding="ascii").split()]
        return found

    def delete(self) -> None:
        """Delete what is ours of it, and the folder when nothing else is in it."""
        if not self.made:
            return
        shutil.rmtree(self.user_data, ignore_errors=True)
        for name in (PUSH_LOCK, BENCH_LOCK, BROWSER_LOCK, MARK):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _browser(self) -> int | None:
        """Return the process that holds the user data on this machine."""
        try:
            host, _, number = os.readlink(self.user_data / "SingletonLock").rpartition("-")
        except OSError:
            return None
        here = host == socket.gethostname() and number.isdigit() and self._is_ours(int(number))
        return int(number) if here else None

    def _is_ours(self, pid: int) -> bool:
        """Tell whether a process is a browser of this user data: its number may be another program's by now."""
        try:
            words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"--user-data-dir=" + os.fsencode(self.user_data) in words
