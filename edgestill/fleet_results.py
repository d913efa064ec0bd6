"""The JSON document of ``bench --device``: one bundle, measured on several devices."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgestill.bench_results import BenchDocument, BenchFailure, BenchRecord, Environment
from edgestill.figure import Document, Record

DeviceState = Literal["done", "failed", "cancelled"]


class Pushed(Record):
    """What a push did, in bytes and files; ``resumed_bytes`` were there from an earlier push that was cut."""

    sent_bytes: int
    resumed_bytes: int
    files_sent: int
    files_kept: int
    files_removed: int


class Skipped(Record):
    """An artifact that wasn't measured because the device's program doesn't run its format."""

    artifact: str
    why: str


class FleetDevice(Record):
    """One device of the fleet: what it is, and how its measurements ended.

    ``state``: ``failed`` when anything on it failed, ``cancelled`` when Ctrl-C came before its end. ``error`` is why
    the device itself failed, null where only artifacts did. ``latency`` is whether its wall times mean anything;
    without it all its times are null. What it never said is null. ``runner`` is the push of the program, null where
    it was kept. ``self_tests`` are by artifact.
    """

    name: str
    driver: str
    state: DeviceState
    error: str | None = None
    latency: bool | None = None
    system: str | None = None
    machine: str | None = None
    model: str | None = None
    environment: Environment | None = None
    environment_after: Environment | None = None
    push: Pushed | None = None
    runner: Pushed | None = None
    self_tests: dict[str, dict[str, object]] = Field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


class FleetOptions(Record):
    """What was asked for; each combination is measured in so many ``processes``.

    ``threads`` null: as the runner chooses.
    """

    artifacts: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    threads: tuple[int, ...] | None
    repetitions: int
    processes: int = 1
    kv_precision: str | None = None
    mmap: bool = True


class FleetDocument(Document):
    """What ``bench --device`` prints: ``results`` and ``failures`` name their device, ``devices`` are in order.

    ``bundle_sha256`` is the bundle's content_sha256. A failure with the bundle as its model is of the whole device.
    """

    schema_: Annotated[Literal["edgestill.fleet/1"], Field(alias="schema")] = "edgestill.fleet/1"
    bundle: str
    bundle_sha256: str
    created: str
    options: FleetOptions
    devices: tuple[FleetDevice, ...]
    results: tuple[BenchRecord, ...]
    failures: tuple[BenchFailure, ...] = ()

    def of_device(self, name: str) -> BenchDocument | None:
        """Return what was measured on one device as the document of ``bench``; None where its machine isn't known."""
        device = next((one for one in self.devices if one.name == name), None)
        if device is None or device.environment is None:
            return None
        return BenchDocument(
            environment=device.environment,
            results=tuple(one for one in self.results if one.device == name),
            failures=tuple(one for one in self.failures if one.device == name),
            created=self.created,
            environment_after=device.environment_after,
        )
