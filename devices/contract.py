"""The contract of every device: probe, push, run, pull, remove; what they hand back and how they fail. No I/O here.

    EdgestillError
    ├── InputError
    │   └── DeviceError          the user's file of devices, an unknown name, an option that a driver hasn't
    └── StageError
        └── DriverError
            ├── DeviceUnreachable    no connection: off, wrong host or port, key refused, host key unknown or changed
            ├── DeviceGone           the connection was lost in the middle
            ├── DeviceBusy           another command holds the device
            ├── NoRoom               the device's disk is, or would be, full
            ├── WrongHash            bytes arrived changed
            ├── JobFailed            the program said why
            ├── JobTimeout           the time limit
            └── JobCancelled         cancelled; nothing of it runs on

A message is one line that begins with the device's name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Event
from types import TracebackType
from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict
from typing_extensions import Self

from edgestill.errors import InputError, StageError
from edgestill.progress import SILENT, Progress

RUNNER_FOLDER: Final = "runner"
RUNNER: Final = "edgestill-run"
"""The program on the device lies at ``RUNNER_FOLDER/RUNNER`` below its root."""

RUN_SECONDS: Final = 3600.0
"""The time limit of a job that was given none: a lost host leaves nothing behind for longer."""


class DeviceError(InputError):
    """The user's file of devices, a device's name or one of its options is wrong."""


class DriverError(StageError):
    """Something went wrong on or with a device."""


class DeviceUnreachable(DriverError):
    """No connection could be made."""


class DeviceGone(DriverError):
    """The connection was lost in the middle."""


class DeviceBusy(DriverError):
    """Another command holds the device."""


class NoRoom(DriverError):
    """The device's disk is full, or would be; what arrived stays usable."""


class WrongHash(DriverError):
    """A file arrived with other bytes than were sent; it was deleted there."""


class JobFailed(DriverError):
    """The program on the device ended with an error, or was killed."""


class JobTimeout(DriverError):
    """A job or command took longer than it may."""


class JobCancelled(DriverError):
    """The caller cancelled."""


class DeviceSettings(BaseModel):
    """What every device's table in the user's file may hold; a driver adds its own keys in a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: str
    runner: Path | None = None
    """edgestill-run for this device, or the folder that ``edgestill runner build`` wrote."""
    profile: str | None = None
    """A profile by name or file, for what can't be probed."""


Command = Literal["selftest", "bench", "generate", "probe"]


@dataclass(frozen=True)
class Job:
    """What edgestill-run does with a bundle that was pushed to the folder ``bundle``; ``probe`` needs none.

    ``options`` are the program's by name with ``_`` for ``-`` (``prompt_tokens=128``, ``no_mmap=True``); a False one is
    left out. ``runner`` is the folder of the program.
    """

    command: Command
    bundle: str = ""
    artifact: str | None = None
    options: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    runner: str = RUNNER_FOLDER


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind; megahertz."""

    count: int
    name: str | None = None
    max_mhz: float | None = None


@dataclass(frozen=True)
class Probe:
    """What a device says of itself; None where it doesn't. Sizes are bytes.

    ``machine`` is the ISA as ``uname -m`` names it. ``latency`` is whether its wall times mean anything: False for an
    emulated or a held-down device. ``facts`` holds what one kind of device has beside that (battery, thermal status).
    """

    device: str
    kind: str
    system: str
    machine: str
    cores: int
    ram_bytes: int | None
    free_ram_bytes: int | None
    free_disk_bytes: int | None
    latency: bool
    model: str | None = None
    cpu: str | None = None
    clusters: tuple[Cluster, ...] = ()
    isa_features: tuple[str, ...] = ()
    facts: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PushReport:
    """What a push did: bytes and files. ``resumed_bytes`` were there from an earlier push that was cut."""

    sent_bytes: int
    resumed_bytes: int
    files_sent: int
    files_kept: int
    files_removed: int


@dataclass(frozen=True)
class Staged:
    """Where a version lies that was brought beside the one in use: ``folder`` is that one's own when nothing is new.

    ``older`` tells whether there was a version before.
    """

    folder: str
    report: PushReport
    older: bool


@dataclass(frozen=True)
class RunResult:
    """How a job ended well: its lines, the JSON document among them, what it cost.

    ``seconds`` is wall time as seen from here, None where the device's latency means nothing. ``facts`` hold what a
    driver measured around it (``major_faults``, ``fits``, ``thrashes``, ``memory_limit_bytes``).
    """

    lines: tuple[str, ...]
    document: Mapping[str, object] | None
    errors: str
    seconds: float | None
    facts: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One step of ``devices check``: ``ok`` is None where it couldn't be asked; ``cure`` says how to mend it."""

    name: str
    ok: bool | None
    found: str
    cure: str = ""


def device_path(path: str) -> str:
    """Return a relative POSIX path below the device's root in its plain form.

    Raises ValueError for an empty or absolute one, ``..`` or a NUL: what comes from outside is checked before.
    """
    pure = PurePosixPath(path)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise ValueError(f"{path!r} isn't a path below the device's folder")
    return pure.as_posix()


class Driver(ABC):
    """One target. A context manager: what it holds open (a connection) ends with the block.

    A subclass with a ``kind`` registers itself; it lies in ``drivers/KIND.py``.
    """

    kind: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    """One line for a list of drivers."""
    settings_type: ClassVar[type[DeviceSettings]] = DeviceSettings
    known: ClassVar[dict[str, type[Driver]]] = {}
    latency: bool = True
    """Whether wall times there mean anything."""
    formats: ClassVar[tuple[str, ...]] = ("gguf",)
    """Formats of artifacts that its program runs."""
    uses_runner: ClassVar[bool] = True
    """Whether edgestill-run is pushed there."""
    bench_options: ClassVar[frozenset[str]] = frozenset(
        {"prompt_tokens", "new_tokens", "repetitions", "threads", "kv_precision", "no_mmap"}
    )
    """Options of a bench job that its program has; a fleet refuses the others by name."""
    hardware: ClassVar[str | None] = None
    """What all devices of this kind run on together: two on the same are never measured at once. None: each its own."""
    stages: ClassVar[bool] = False
    """Whether it has ``stage`` and ``replace``: then an update leaves the older version usable until it is proved."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            Driver.known[cls.kind] = cls

    def __init__(self, name: str, settings: DeviceSettings) -> None:
        self.name = name
        self.settings = settings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and what runs on it."""
        return

    @abstractmethod
    def probe(self) -> Probe:
        """Ask the device what it is. Raises DeviceUnreachable."""

    @abstractmethod
    def push(
        self,
        files: Mapping[str, Path],
        folder: str,
        *,
        progress: Progress = SILENT,
        cancelled: Event | None = None,
    ) -> PushReport:
        """Make ``folder`` hold exactly ``files`` (path below it -> local file), sending only what differs.

        ``manifest.json`` goes last. Raises NoRoom, WrongHash, DeviceGone, DeviceBusy, JobCancelled; after any of them
        the same push goes on from what arrived.
        """

    def stage(
        self,
        files: Mapping[str, Path],
        folder: str,
        *,
        progress: Progress = SILENT,
        cancelled: Event | None = None,
    ) -> Staged:
        """Push a new version of ``folder`` beside it, sending only what it hasn't; raises what ``push`` does."""
        raise NotImplementedError(f"{self.kind} doesn't stage")

    def replace(self, folders: Mapping[str, str]) -> None:
        """Put staged folders (by where they lie) in their places, and delete what was there.

        After a kill at any moment each place holds the one or the other, whole. Raises DriverError, DeviceGone.
        """
        raise NotImplementedError(f"{self.kind} doesn't stage")

    @abstractmethod
    def run(
        self,
        job: Job,
        *,
        on_line: Callable[[str], None] | None = None,
        timeout_seconds: float | None = None,
        cancelled: Event | None = None,
    ) -> RunResult:
        """Run a job; ``on_line`` gets each line of its output when it comes. One bench at a time on a device.

        Raises JobFailed, JobTimeout, JobCancelled, DeviceGone, DeviceBusy; after any of them nothing of it runs on.
        """

    @abstractmethod
    def pull(self, path: str) -> bytes:
        """Return a file's bytes. Raises JobFailed when there is none."""

    @abstractmethod
    def remove(self, folder: str) -> None:
        """Delete a folder there, whatever it holds; nothing happens without it. ``"."`` is all that is ours."""

    def check(self) -> list[Check]:
        """Walk the contract: what works, what is missing and how to mend it. Raises nothing of this module."""
        try:
            found = self.probe()
        except DriverError as error:
            return [Check("reach", False, str(error), "see the message")]
        return [Check("reach", True, f"{found.system}, {found.machine}, {found.cores} cores")]
