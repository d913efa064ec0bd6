"""A fleet: one bundle measured on several devices at once, each in a thread; what is finished is handed on at once."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from edgestill.bench_results import BenchFailure, BenchRecord, Environment
from edgestill.devices.contract import DeviceError, Driver
from edgestill.devices.fleet_device import DeviceBench, Event, FleetWork, Status
from edgestill.fleet_results import FleetDevice, FleetDocument, FleetOptions

__all__ = ["FleetListener", "FleetWork", "Status", "bench_fleet"]


_POLL_SECONDS: Final = 0.2


class FleetListener(Protocol):
    """Who hears of a fleet; all but ``stopping`` is called in one thread, which isn't the caller's."""

    def status(self, device: str, status: Status) -> None:
        """A device is somewhere else, or further on."""

    def measured(self, document: FleetDocument, record: BenchRecord, environment: Environment) -> None:
        """One more result is in the document; ``environment`` is its device's, as it was then."""

    def failed(self, document: FleetDocument, failure: BenchFailure) -> None:
        """One more failure is in the document."""

    def stopping(self) -> None:
        """Ctrl-C came: what runs is being cancelled."""


@dataclass
class _Gathered:
    """The document so far, and what the thread that gathers it ended in."""

    work: FleetWork
    options: FleetOptions
    devices: dict[str, FleetDevice]
    created: str
    results: list[BenchRecord]
    failures: list[BenchFailure] = field(default_factory=list)
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def document(self) -> FleetDocument:
        manifest = self.work.bundle.manifest
        order = {name: number for number, name in enumerate(self.devices)}
        return FleetDocument(
            bundle=manifest.name,
            bundle_sha256=manifest.content_sha256,
            created=self.created,
            options=self.options,
            devices=tuple(self.devices.values()),
            results=tuple(sorted(self.results, key=lambda one: order.get(one.device or "", -1))),
            failures=tuple(sorted(self.failures, key=lambda one: order.get(one.device or "", -1))),
        )


def bench_fleet(
    work: FleetWork, options: FleetOptions, drivers: Sequence[Driver], listener: FleetListener
) -> FleetDocument:
    """Measure on all devices at the same time; devices that share their hardware take turns, a job each.

    A device or artifact that fails is a row of the document, and stops nothing else. Ctrl-C cancels all, waits until
    nothing runs on any device, and returns what had finished, the devices it met ``cancelled``; a second one raises
    KeyboardInterrupt at once: jobs die with their host. Raises DeviceError for an option that a device's bench hasn't,
    and what the listener raised.
    """
    for driver in drivers:
        for variant in work.variants:
            for name in sorted(set(variant) - driver.bench_options):
                option = "no-mmap" if name == "no_mmap" else name.replace("_", "-")
                raise DeviceError(f"--{option}: the bench of {driver.name} ({driver.kind}) hasn't it; leave it out")
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    cancelled = threading.Event()
    locks: dict[str, threading.Lock] = {}
    benches = [
        DeviceBench(
            driver,
            _part(work, driver, alone=len(drivers) == 1),
            events.put,
            locks.setdefault(_hardware(driver), threading.Lock()),
            cancelled,
        )
        for driver in drivers
    ]
    known = {one.name: one for one in work.known}
    gathered = _Gathered(
        work,
        options,
        # Until a device has told its end it is one whose end was cut off: a kill leaves the document so.
        {one.name: _unfinished(one, known.get(one.name)) for one in drivers},
        work.run,
        [one for one in work.kept if one.device in {driver.name for driver in drivers}],
    )
    gatherer = threading.Thread(target=_gather, args=(events, gathered, listener), daemon=True)
    threads = [threading.Thread(target=one.run, daemon=True) for one in benches]
    for thread in (gatherer, *threads):
        thread.start()
    while True:
        try:
            # The gatherer, not this thread, keeps results: Ctrl-C comes here, between two of them or inside of none.
            # (An event: a join that is interrupted takes the thread for ended, up to Python 3.12.)
            while not gathered.ended.wait(_POLL_SECONDS):
                pass
            break
        except KeyboardInterrupt:
            if cancelled.is_set():
                raise
            cancelled.set()
            listener.stopping()
    if gathered.error is not None:
        cancelled.set()
        for thread in threads:
            thread.join()
        raise gathered.error
    return gathered.document()


def _gather(events: queue.SimpleQueue[Event], gathered: _Gathered, listener: FleetListener) -> None:
    try:
        running = len(gathered.devices)
        while running:
            event = events.get()
            name = event.about.name
            gathered.devices[name] = (
                event.about if event.ended else event.about.model_copy(update={"state": "cancelled"})
            )
            if event.record is not None and event.environment is not None:
                gathered.results.append(event.record)
                listener.measured(gathered.document(), event.record, event.environment)
            if event.failure is not None:
                gathered.failures.append(event.failure)
                listener.failed(gathered.document(), event.failure)
            if event.status is not None:
                listener.status(name, event.status)
            running -= event.ended
    except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
        gathered.error = error
    finally:
        gathered.ended.set()


def _part(work: FleetWork, driver: Driver, *, alone: bool) -> FleetWork:
    """Return a device's part of the work: what was asked for, but for a program where its table names another.

    A program is for one ISA, so among several devices the table comes first; alone, what the user gives now.
    """
    return work if alone or driver.settings.runner is None else dataclasses.replace(work, runner=None)


def _unfinished(driver: Driver, known: FleetDevice | None) -> FleetDevice:
    new = FleetDevice(name=driver.name, driver=driver.kind, state="cancelled")
    return new if known is None else known.model_copy(update={"state": "cancelled"})


def _hardware(driver: Driver) -> str:
    return f"device {driver.name}" if driver.hardware is None else driver.hardware
