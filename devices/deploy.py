"""Deploy: bring a bundle's chosen artifacts and the runner to a device, and prove that it computes there the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

from edgestill.bundle import MANIFEST_FILE, Bundle, verify_files
from edgestill.devices.contract import (
    RUNNER,
    RUNNER_FOLDER,
    DeviceError,
    Driver,
    Job,
    JobFailed,
    JobTimeout,
    Probe,
    PushReport,
    RunResult,
)
from edgestill.devices.executable import machine_of
from edgestill.errors import GateError, InputError, UnsupportedError
from edgestill.progress import SILENT, Progress

ALL: Final = "all"
SELF_TEST_SECONDS: Final = 1800.0
_LIBRARY: Final = "libedgestill.so"


@dataclass(frozen=True)
class Deployed:
    """What a deployment did. ``folder`` is the bundle's below the device's own; ``self_tests`` by artifact."""

    device: str
    folder: str
    artifacts: tuple[str, ...]
    push: PushReport
    runner: PushReport | None
    self_tests: Mapping[str, RunResult]


def deploy(
    bundle: Bundle,
    driver: Driver,
    artifacts: Sequence[str] = (),
    *,
    runner: Path | None = None,
    timeout_seconds: float = SELF_TEST_SECONDS,
    progress: Progress = SILENT,
    cancelled: Event | None = None,
) -> Deployed:
    """Push a bundle's artifacts (none named: the one that it ships; ``all``) and run each one's self-test there.

    Raises BundleError for a damaged bundle, UnsupportedError for an artifact that the device can't run, GateError when
    it computes otherwise there: then nothing of the bundle is left. And what the driver raises.
    """
    verify_files(bundle)
    chosen = chosen_artifacts(bundle, driver, artifacts)
    folder = bundle_folder(bundle.manifest.name)
    brought = None
    if driver.uses_runner:
        brought = push_runner(driver, driver.probe(), runner or driver.settings.runner, progress, cancelled)
    pushed = driver.push(bundle_files(bundle, chosen), folder, progress=progress, cancelled=cancelled)
    tests: dict[str, RunResult] = {}
    with progress.task(f"{driver.name}: self-test", len(chosen), "artifacts") as task:
        for name in chosen:
            job = Job("selftest", folder, name)
            try:
                tests[name] = driver.run(job, timeout_seconds=timeout_seconds, cancelled=cancelled)
            except JobFailed as error:
                driver.remove(folder)
                if brought is not None and brought.files_sent and not brought.files_kept:
                    driver.remove(RUNNER_FOLDER)
                raise GateError(f"{error}; nothing of the bundle is left there") from error
            except JobTimeout:
                driver.remove(folder)
                raise
            task.advance()
    return Deployed(driver.name, folder, tuple(chosen), pushed, brought, tests)


def bundle_folder(name: str) -> str:
    """Return the folder of a bundle on every device: its name where that is plain, else as much of it as is."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:48]
    if plain == name:
        return f"bundles/{name}"
    return f"bundles/{plain or 'bundle'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def chosen_artifacts(bundle: Bundle, driver: Driver, names: Sequence[str]) -> list[str]:
    """Return the artifacts to bring. Raises BundleError for an unknown one, UnsupportedError for a wrong format."""
    manifest = bundle.manifest
    able = [one.name for one in manifest.artifacts if one.format in driver.formats]
    wants = " or ".join(driver.formats)
    if not able:
        raise UnsupportedError(f"{bundle.folder}: no {wants} artifact in it, and {driver.name} runs nothing else")
    if not names:
        return [manifest.ship if manifest.ship in able else able[0]]
    if list(names) == [ALL]:
        return able
    for name in names:
        if manifest.artifact(name).name not in able:
            raise UnsupportedError(f"{name} is no {wants} artifact; {driver.name} runs: {', '.join(able)}")
    return list(dict.fromkeys(names))


def bundle_files(bundle: Bundle, artifacts: Sequence[str]) -> dict[str, Path]:
    """Return what a device needs of a bundle: all but reports and the other artifacts."""
    wanted = {MANIFEST_FILE: bundle.folder / MANIFEST_FILE}
    for entry in bundle.manifest.files:
        parts = entry.path.split("/")
        other = parts[0] == "artifacts" and parts[1] not in artifacts
        if entry.kind != "report" and not other:
            wanted[entry.path] = bundle.folder / entry.path
    return wanted


def push_runner(
    driver: Driver, probe: Probe, runner: Path | None, progress: Progress = SILENT, cancelled: Event | None = None
) -> PushReport | None:
    """Bring the runner program to a device that hasn't this one; None: it keeps the one that it has.

    Raises DeviceError without a program for this device, or with one for another ISA.
    """
    if runner is None:
        if _has_runner(driver):
            return None
        raise DeviceError(
            f"{driver.name}: no runner there yet; edgestill runner build makes one for {probe.machine}, "
            "--runner names it"
        )
    program = runner.expanduser()
    program = program / RUNNER if program.is_dir() else program
    if not program.is_file():
        raise InputError(f"{program}: no such program; edgestill runner build makes it")
    machine = machine_of(program)
    if machine is not None and not machine.fits(probe.machine):
        raise DeviceError(
            f"{driver.name}: {program} is for {machine.name}, and this device is {probe.machine}; "
            "edgestill runner build --target makes one for it"
        )
    files = {RUNNER: program}
    if machine is not None and machine.needs_libraries and (library := program.with_name(_LIBRARY)).is_file():
        files[_LIBRARY] = library
    return driver.push(files, RUNNER_FOLDER, progress=progress, cancelled=cancelled)


def _has_runner(driver: Driver) -> bool:
    return any(check.name == "runner" and check.ok for check in driver.check())
