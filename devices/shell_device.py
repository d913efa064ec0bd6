"""What every device with a POSIX shell shares: a driver only says how a script reaches that shell.

Scripts work with BusyBox's, toybox's and coreutils' programs. Each ends with a line on stderr that says how: without
that line the connection was lost, whatever status the transport gives.
"""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import ClassVar, Final

from edgestill.devices import checking, linux_probe, shell_job
from edgestill.devices.contract import (
    Check,
    DeviceGone,
    DeviceSettings,
    DeviceUnreachable,
    Driver,
    DriverError,
    Job,
    JobCancelled,
    JobFailed,
    JobTimeout,
    Probe,
    PushReport,
    RunResult,
    Staged,
    device_path,
)
from edgestill.devices.push import push_files
from edgestill.devices.shell_files import ShellFiles
from edgestill.devices.shell_words import quoted
from edgestill.devices.staging import stage_files
from edgestill.devices.talk import Talk
from edgestill.progress import SILENT, Progress

__all__ = ["Answer", "ShellDevice", "ShellSettings", "quoted"]

_END: Final = re.compile(r"\n?edgestill-end (\d+)\s*\Z")
_SECONDS: Final = 60.0


class ShellSettings(DeviceSettings):
    """The keys of every device with a shell."""

    root: str | None = None
    """Our folder there: absolute, or below the home folder (``~/...``)."""


@dataclass(frozen=True)
class Answer:
    """How a script ended on the device."""

    status: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        return self.output.decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """The last line of stderr."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"status {self.status}"


class ShellDevice(Driver):
    """A device whose shell runs what we send; subclasses give ``_transport`` and, where needed, the hooks below it."""

    settings_type: ClassVar[type[DeviceSettings]] = ShellSettings
    stages: ClassVar[bool] = True
    default_root: str = "~/.edgestill"

    def __init__(self, name: str, settings: ShellSettings) -> None:
        super().__init__(name, settings)
        self._wanted_root = settings.root or self.default_root
        self._root: str | None = None
        self._talks: set[Talk] = set()

    # What a driver gives.

    @abstractmethod
    def _transport(self, script: str) -> list[str]:
        """Return the local command that runs a script by the device's sh, with its stdin, stdout and stderr."""

    def _environment(self) -> Mapping[str, str] | None:
        """Return the transport's environment; None is ours."""
        return None

    def _connect(self) -> None:
        """Make a connection where there is none yet. Raises DeviceUnreachable."""
        return

    def _lost(self, status: int | None, errors: str) -> DriverError:
        """Return the error for a script whose end never came: ``status`` and ``errors`` are the transport's."""
        said = errors.strip().splitlines()
        return DeviceGone(f"{self.name}: the connection was lost ({said[-1] if said else f'status {status}'})")

    def program_words(self) -> Sequence[str]:
        """Return words to put before the runner's own: an emulator, a choice of cores."""
        return ()

    def _before_script(self, job: Job) -> str:
        """Return lines of shell that run in the job's own shell before its program."""
        return ""

    def _after(self, job: Job, result: RunResult) -> RunResult:
        """Return a job's result with what this kind of device adds to it, or takes out."""
        return result

    def _explain(self, job: Job, error: JobFailed) -> JobFailed:
        """Return a failed job's error with what this kind of device knows about it."""
        return error

    def _machine(self, found: Probe) -> Probe:
        """Return what was probed, corrected by what this kind of device knows better."""
        return found

    # The contract.

    @property
    def root(self) -> str:
        """Our folder on the device, as an absolute path. Raises DeviceUnreachable."""
        if self._root is None:
            wanted = self._wanted_root
            if not wanted.startswith("/"):
                home = self.shell('printf "%s" "${HOME:-/}"').text
                wanted = f"{home.rstrip('/')}/{wanted.removeprefix('~/')}"
            self._root = wanted.rstrip("/")
        return self._root

    @property
    def files(self) -> ShellFiles:
        """The device's files below our folder."""
        return ShellFiles(self.name, self.root, self.shell, self.start)

    def probe(self) -> Probe:
        answer = self.shell(linux_probe.script(self.root))
        return self._machine(linux_probe.parsed(answer.text, self.name, self.kind, latency=self.latency))

    def push(
        self, files: Mapping[str, Path], folder: str, *, progress: Progress = SILENT, cancelled: Event | None = None
    ) -> PushReport:
        where = device_path(folder)
        store = self.files
        with store.held(where):
            return push_files(store, files, where, progress=progress, cancelled=cancelled, small=store)

    def stage(
        self, files: Mapping[str, Path], folder: str, *, progress: Progress = SILENT, cancelled: Event | None = None
    ) -> Staged:
        where = device_path(folder)
        store = self.files
        with store.held(where):
            return stage_files(store, files, where, progress=progress, cancelled=cancelled)

    def replace(self, folders: Mapping[str, str]) -> None:
        moves = {device_path(staged): device_path(folder) for staged, folder in folders.items()}
        if moves:
            store = self.files
            with store.held(next(iter(moves))):
                store.replace(moves)

    def run(
        self,
        job: Job,
        *,
        on_line: Callable[[str], None] | None = None,
        timeout_seconds: float | None = None,
        cancelled: Event | None = None,
    ) -> RunResult:
        try:
            result = shell_job.run(
                self,
                job,
                before_program=self.program_words(),
                before_script=self._before_script(job),
                on_line=on_line,
                timeout_seconds=timeout_seconds,
                cancelled=cancelled,
            )
        except JobFailed as error:
            raise self._explain(job, error) from None
        return self._after(job, result)

    def pull(self, path: str) -> bytes:
        return self.files.read(device_path(path))

    def remove(self, folder: str) -> None:
        self.files.remove("." if folder == "." else device_path(folder))

    def check(self) -> list[Check]:
        return checking.walk(self)

    def close(self) -> None:
        for talk in list(self._talks):
            self.end(talk)

    # The shell.

    def start(self, script: str) -> Talk:
        """Start a script there; its end is for :meth:`ended` to read, and :meth:`end` lets go of it."""
        self._connect()
        try:
            talk = Talk(self._transport(framed(script)), self._environment())
        except FileNotFoundError as error:
            raise DeviceUnreachable(f"{self.name}: no program {error.filename!r} here; install it") from None
        self._talks.add(talk)
        return talk

    def ended(self, talk: Talk, seconds: float = 10.0) -> tuple[int, str]:
        """Return a script's own status and stderr after its output ended. Raises what :meth:`_lost` gives."""
        status = talk.finish(seconds)
        found = _END.search(talk.errors)
        if found is None:
            raise self._lost(status, talk.errors)
        return int(found[1]), talk.errors[: found.start()]

    def end(self, talk: Talk) -> None:
        """Close a script's transport."""
        talk.close()
        self._talks.discard(talk)

    def shell(
        self,
        script: str,
        *,
        stdin: Iterable[bytes] = (),
        seconds: float | None = _SECONDS,
        cancelled: Event | None = None,
        on_sent: Callable[[int], None] | None = None,
    ) -> Answer:
        """Run a script there and return how it ended; ``stdin``'s pieces stream into it, each told to ``on_sent``.

        Raises JobTimeout after ``seconds``, JobCancelled, DeviceGone, DeviceUnreachable.
        """
        talk = self.start(script)
        deadline = None if seconds is None else time.monotonic() + seconds

        def check() -> None:
            if cancelled is not None and cancelled.is_set():
                raise JobCancelled(f"{self.name}: cancelled")
            if deadline is not None and time.monotonic() > deadline:
                raise JobTimeout(f"{self.name}: no answer within {seconds:g} s; is it still there?")

        output = bytearray()
        try:
            try:
                for piece in stdin:
                    talk.send(piece, check)
                    if on_sent is not None:
                        on_sent(len(piece))
            except BrokenPipeError:
                pass  # the script ended without reading on: its status says why
            talk.close_input()
            while (came := talk.read()) != b"":
                check()
                output += came or b""
            status, errors = self.ended(talk)
        except JobCancelled:
            talk.kill_group()
            raise
        finally:
            self.end(talk)
        return Answer(status, bytes(output), errors)


def framed(script: str) -> str:
    """Return a script in a subshell, followed by the line on stderr that says how it ended."""
    return f"LC_ALL=C; export LC_ALL\n(\n{script}\n)\nprintf '\\nedgestill-end %s\\n' \"$?\" >&2"
