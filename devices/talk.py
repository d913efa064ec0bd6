"""A local process at the end of three pipes, none of which makes the caller wait for longer than it says."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Final

_PIECE: Final = 256 << 10
_ERROR_BYTES: Final = 256 << 10
_POLL_SECONDS: Final = 0.2
_HELD_SECONDS: Final = 1.0


class Talk:
    """A started process; ``close`` ends it. It has a session of its own, so that Ctrl-C is ours to handle.

    Raises FileNotFoundError when the program isn't there.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=None if environment is None else dict(environment),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._input = self._process.stdin
        os.set_blocking(self._input.fileno(), False)
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._errors = bytearray()
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._pieces.put), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self._keep_error), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._ended = False
        self._gone_since: float | None = None

    @property
    def pid(self) -> int:
        """The local process's id."""
        return self._process.pid

    def send(self, data: bytes, check: Callable[[], None]) -> None:
        """Write to its stdin; ``check`` is called whenever it doesn't take more, and may raise.

        Raises BrokenPipeError when nobody reads any more.
        """
        left = memoryview(data)
        while left:
            check()
            if not select.select([], [self._input], [], _POLL_SECONDS)[1]:
                continue
            try:
                left = left[os.write(self._input.fileno(), left) :]
            except BlockingIOError:
                continue

    def close_input(self) -> None:
        """Say that nothing more comes."""
        with contextlib.suppress(OSError):
            self._input.close()

    def read(self, seconds: float = _POLL_SECONDS) -> bytes | None:
        """Return what came from its stdout; ``b""`` at the end, None when nothing came in time.

        It is at its end too when the process has ended and another one that it left holds its stdout.
        """
        if self._ended:
            return b""
        try:
            piece = self._pieces.get(timeout=seconds)
        except queue.Empty:
            if self._process.poll() is None:
                return None
            self._gone_since = self._gone_since or time.monotonic()
            self._ended = time.monotonic() - self._gone_since > _HELD_SECONDS
            return b"" if self._ended else None
        self._ended = not piece
        return piece

    def finish(self, seconds: float) -> int | None:
        """Return its exit status (negative: the signal that ended it); None when it doesn't end in time."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        for reader in self._readers:
            reader.join(min(seconds, _HELD_SECONDS))
        return status

    @property
    def errors(self) -> str:
        """What came from its stderr, the last of it when it is long."""
        return self._errors.decode("utf-8", "replace")

    def cut(self) -> None:
        """Kill the process at once: the connection that it is breaks."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def kill_group(self) -> None:
        """Kill the process and what it started and didn't put into a session of its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it if it still runs, and let go of its pipes."""
        self.close_input()
        if self._process.poll() is None and self.finish(0.1) is None:
            self.cut()
            self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None and not any(reader.is_alive() for reader in self._readers):
                pipe.close()

    def _read(self, stream: IO[bytes], keep: Callable[[bytes], None]) -> None:
        piece = b" "
        while piece:
            try:
                piece = os.read(stream.fileno(), _PIECE)
            except (OSError, ValueError):
                piece = b""
            keep(piece)

    def _keep_error(self, piece: bytes) -> None:
        self._errors += piece
        del self._errors[:-_ERROR_BYTES]
