"""One device of a fleet, in a thread of its own: reached, brought up to date, proved, measured.

Whatever goes wrong ends in a row that says so; nothing is raised. What happens is told as it happens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from edgestill.bench_results import BenchDocument, BenchFailure, BenchRecord, Environment
from edgestill.bundle import Bundle
from edgestill.devices.bringing import Brought, files_to_bring
from edgestill.devices.contract import (
    DeviceGone,
    DeviceUnreachable,
    Driver,
    Job,
    JobCancelled,
    JobFailed,
    JobTimeout,
    Probe,
    PushReport,
    RunResult,
)
from edgestill.devices.fit_bundle import fit_before_push
from edgestill.devices.timeless import without_times
from edgestill.errors import EdgestillError, GateError, StageError, UnsupportedError
from edgestill.fleet_results import DeviceState, FleetDevice, Pushed, Skipped
from edgestill.progress import Task

Stage = Literal["reach", "push", "self-test", "bench", "wait", "done", "failed", "cancelled"]
Option = int | str | bool

JOB_SECONDS: Final = 1800.0
_WAIT_SECONDS: Final = 0.2
_TIMELESS: Final = "this device's times say nothing about a real one"


@dataclass(frozen=True)
class FleetWork:
    """What every device gets to do: ``artifacts`` of the bundle, each with every one of ``variants``.

    Each of these is measured in so many ``processes``, in turn; ``run`` is when the command began. ``model`` is the
    bundle as the user named it; a variant holds options of the runner's bench. ``runner`` is the program for a
    single device, or for those of several whose table names none. ``fit_check``: what wouldn't fit into a device's
    memory isn't sent. ``kept`` are records of an earlier run that aren't measured again, ``known`` its devices.
    """

    bundle: Bundle
    model: str
    artifacts: tuple[str, ...]
    variants: tuple[Mapping[str, Option], ...]
    run: str
    processes: int = 1
    runner: Path | None = None
    timeout_seconds: float = JOB_SECONDS
    fit_check: bool = True
    kept: tuple[BenchRecord, ...] = ()
    known: tuple[FleetDevice, ...] = ()

    def left(self, device: str) -> dict[str, list[Mapping[str, Option]]]:
        """Return what is still to be measured on a device: variants by artifact, one for each process."""
        found = {
            name: [
                one
                for process in range(self.processes)
                for one in self.variants
                if process >= self._kept(device, name, one)
            ]
            for name in self.artifacts
        }
        return {name: variants for name, variants in found.items() if variants}

    def _kept(self, device: str, artifact: str, variant: Mapping[str, Option]) -> int:
        asked = {name: variant[name] for name in ("prompt_tokens", "new_tokens", "threads") if name in variant}
        return sum(
            record.device == device
            and record.model == f"{self.model}#{artifact}"
            and all(getattr(record, name) == value for name, value in asked.items())
            for record in self.kept
        )


@dataclass(frozen=True)
class Status:
    """Where a device is: the artifact and how much of the stage is done (bytes of a push, jobs of the rest)."""

    stage: Stage
    artifact: str = ""
    done: float = 0.0
    total: float | None = None
    unit: str = ""
    said: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happened on a device; ``about`` is the device as known so far, ``ended``: nothing more comes.

    ``environment`` is the machine as it was for the ``record``.
    """

    about: FleetDevice
    status: Status | None = None
    record: BenchRecord | None = None
    environment: Environment | None = None
    failure: BenchFailure | None = None
    ended: bool = False


class DeviceBench:
    """A device's part of the work. ``hardware`` is held during each job: other devices that share it wait."""

    def __init__(
        self,
        driver: Driver,
        work: FleetWork,
        tell: Callable[[Event], None],
        hardware: threading.Lock,
        cancelled: threading.Event,
    ) -> None:
        self._driver = driver
        self._work = work
        self._tell = tell
        self._hardware = hardware
        self._cancelled = cancelled
        before = next((one for one in work.known if one.name == driver.name), None)
        new = FleetDevice(name=driver.name, driver=driver.kind, state="done")
        self._about = new if before is None else before.model_copy(update={"state": "done", "error": None})
        self._misfits: set[str] = set()
        self._left = work.left(driver.name)
        self._jobs = sum(map(len, self._left.values())) + len(self._left)
        self._done = 0

    def run(self) -> None:
        """Do all of it. Raises nothing: what went wrong is told."""
        try:
            if self._left:
                with self._driver:
                    self._measure()
        except JobCancelled:
            self._end("cancelled")
            return
        except Exception as error:  # noqa: BLE001 - a thread's outermost frame: even a bug must end in this device's row
            if self._cancelled.is_set():
                self._end("cancelled")
                return
            ours = isinstance(error, EdgestillError | OSError)
            said = str(error) if ours else f"internal error: {type(error).__name__}: {error}"
            said = " ".join(said.split())
            self._about = self._about.model_copy(update={"error": said})
            waiting = "" if not self._left else f"; not measured: {', '.join(self._left)}"
            self._fail(None, said + waiting)
        self._end(self._about.state)

    def _measure(self) -> None:
        driver, work = self._driver, self._work
        able = self._able()
        if not able:
            runs = " and ".join(driver.formats)
            raise UnsupportedError(f"{driver.name}: runs {runs} only, and {work.model} was asked for nothing of that")
        if not self._left:
            return
        self._now("reach")
        probe = driver.probe()
        self._learn(
            latency=probe.latency and driver.latency,
            system=probe.system,
            machine=probe.machine,
            model=probe.model,
            notes=tuple(probe.notes),
        )
        if work.fit_check:
            for artifact in [name for name in able if name in self._left]:
                self._judge(artifact, probe)
        able = [name for name in able if name not in self._misfits]
        if not self._left:
            return
        self._now("push")
        brought = Brought(driver, work.bundle)
        files = files_to_bring(driver, probe, work.bundle, able, work.runner)
        brought.bring(files, progress=_PushProgress(self._now), cancelled=self._cancelled)
        runner = None if brought.runner is None else _pushed(brought.runner.report)
        self._learn(push=_pushed(brought.bundle.report), runner=runner)
        refused = [name for name in list(self._left) if not self._proved(name, brought.self_test(name))]
        if all(name in refused for name in able):
            brought.take_back()
        else:
            brought.put_in_place(refused)
        for artifact in list(self._left):
            try:
                self._bench(artifact, self._left[artifact], brought.place, probe)
            except DeviceGone as error:
                self._fail(artifact, str(error))
                del self._left[artifact]
                self._now("reach", artifact)
                driver.probe()  # is it back? else this is the device's end
            else:
                del self._left[artifact]

    def _judge(self, artifact: str, probe: Probe) -> None:
        """See whether an artifact will fit, before anything is sent."""
        try:
            notes = fit_before_push(self._work.bundle, [artifact], self._driver, probe)
        except GateError as error:
            self._done += 1  # the self-test that isn't run
            again = "--no-fit-check measures it all the same"
            self._drop(artifact, str(error).replace("--no-fit-check deploys it all the same", again))
            self._misfits.add(artifact)
        else:
            self._learn(notes=tuple(dict.fromkeys((*self._about.notes, *notes))))

    def _proved(self, artifact: str, job: Job) -> bool:
        try:
            tested = self._job("self-test", job)
        except (JobFailed, JobTimeout) as error:
            self._drop(artifact, f"{error}; an artifact that doesn't pass its self-test isn't measured")
            return False
        self._learn(self_tests={**self._about.self_tests, artifact: dict(tested.document or {})})
        return True

    def _drop(self, artifact: str, why: str) -> None:
        self._done += len(self._left.pop(artifact, ()))
        self._fail(artifact, why)

    def _bench(self, artifact: str, variants: Sequence[Mapping[str, Option]], folder: str, probe: Probe) -> None:
        for variant in variants:
            begun = _now_utc()
            try:
                result = self._job("bench", Job("bench", folder, artifact, variant))
                self._keep(result, artifact, begun, probe)
            except (DeviceGone, DeviceUnreachable, JobCancelled):
                raise
            except StageError as error:
                self._fail(artifact, f"{error}{_of(variant, self._work.variants)}")

    def _job(self, stage: Literal["self-test", "bench"], job: Job) -> RunResult:
        with self._alone(job.artifact or ""):
            self._now(stage, job.artifact or "")
            try:
                return self._driver.run(job, timeout_seconds=self._work.timeout_seconds, cancelled=self._cancelled)
            finally:
                self._done += 1

    @contextlib.contextmanager
    def _alone(self, artifact: str) -> Iterator[None]:
        """Hold the hardware: another device on it would spoil what is measured."""
        if not self._hardware.acquire(blocking=False):
            self._now("wait", artifact)
            while not self._hardware.acquire(timeout=_WAIT_SECONDS):
                self._check()
        try:
            self._check()
            yield
        finally:
            self._hardware.release()

    def _able(self) -> list[str]:
        """Return the artifacts that this device runs; the others are left out, with a note."""
        formats = {one.name: one.format for one in self._work.bundle.manifest.artifacts}
        runs = self._driver.formats
        skipped = tuple(
            Skipped(artifact=name, why=f"it is {formats[name]}, and only {' and '.join(runs)} runs there")
            for name in self._work.artifacts
            if formats[name] not in runs
        )
        self._learn(skipped=skipped)
        for name in [one.artifact for one in skipped if one.artifact in self._left]:
            self._jobs -= len(self._left.pop(name)) + 1
        return [name for name in self._work.artifacts if formats[name] in runs]

    def _keep(self, result: RunResult, artifact: str, begun: str, probe: Probe) -> None:
        """Tell the record of a job's document. Raises StageError when it has none."""
        if not self._about.latency and result.seconds is not None:
            result = without_times(result, probe.notes[0] if probe.notes else _TIMELESS)
        try:
            document = BenchDocument.model_validate(result.document)
            (record,) = document.results
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(map(str, problem["loc"]))
            raise StageError(
                f"{self._driver.name}: what it printed is no bench result ({place}: {problem['msg']}); bring the "
                "runner of this version there"
            ) from None
        except ValueError:
            raise StageError(f"{self._driver.name}: {len(document.results)} results where one was asked for") from None
        before = self._about.environment or document.environment
        self._learn(environment=before, environment_after=document.environment_after or document.environment)
        notes = [note for note in result.notes if not any(note in warning for warning in record.warnings)]
        record = record.model_copy(
            update={
                "model": f"{self._work.model}#{artifact}",
                "device": self._driver.name,
                "measured": begun,
                "run": self._work.run,
                "facts": dict(result.facts),
                "warnings": (*record.warnings, *notes),
            }
        )
        self._tell(Event(self._about, record=record, environment=document.environment))

    def _fail(self, artifact: str | None, error: str) -> None:
        self._learn(state="failed")
        model = self._work.model if artifact is None else f"{self._work.model}#{artifact}"
        self._tell(Event(self._about, failure=BenchFailure(model=model, error=error, device=self._driver.name)))

    def _learn(self, **known: object) -> None:
        self._about = self._about.model_copy(update=known)

    def _now(self, stage: Stage, artifact: str = "", done: float | None = None, total: float | None = None) -> None:
        self._check()
        if done is None:
            status = Status(stage, artifact, self._done, self._jobs, "jobs")
        else:
            status = Status(stage, artifact, done, total, "bytes")
        self._tell(Event(self._about, status=status))

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise JobCancelled(f"{self._driver.name}: cancelled")

    def _end(self, state: DeviceState) -> None:
        self._learn(state=state)
        status = Status(state, "", self._done, self._jobs, "jobs", self._about.error or "")
        self._tell(Event(self._about, status=status, ended=True))


class _PushProgress:
    """A push's progress, told as the device's status; several pushes one after the other."""

    def __init__(self, now: Callable[..., None]) -> None:
        self._now = now

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        yield _PushTask(self._now if unit == "bytes" else None, total)

    def note(self, text: str) -> None:
        pass


class _PushTask:
    def __init__(self, now: Callable[..., None] | None, total: float | None) -> None:
        self._now, self._total, self._sent = now, total, 0.0

    def advance(self, amount: float = 1, **fields: str) -> None:
        self._sent += amount
        if self._now is not None:
            self._now("push", "", self._sent, self._total)

    def set_total(self, total: float) -> None:
        self._total = total


def _pushed(report: PushReport) -> Pushed:
    return Pushed.model_validate(dataclasses.asdict(report))


def _of(variant: Mapping[str, Option], variants: Sequence[Mapping[str, Option]]) -> str:
    """Return which of several variants it was, for a message."""
    differs = [name for name in variant if len({one.get(name) for one in variants}) > 1]
    return "".join(f" ({name.replace('_', ' ')} {variant[name]})" for name in differs)


def _now_utc() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
