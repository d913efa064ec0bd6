"""Deploy: bring a bundle's chosen artifacts and the runner to a device, and prove that it computes there the same.

Before anything is sent, each artifact is judged by what memory the device has free. A device that stages keeps the
version in use, and its runner, until the new one has passed its self-test there.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
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
    Staged,
)
from edgestill.devices.executable import machine_of
from edgestill.devices.fit_bundle import fit_before_push
from edgestill.errors import GateError, InputError, UnsupportedError
from edgestill.progress import SILENT, Progress

ALL: Final = "all"
SELF_TEST_SECONDS: Final = 1800.0
_LIBRARY: Final = "libedgestill.so"


@dataclass(frozen=True)
class Deployed:
    """What a deployment did. ``folder`` is the bundle's below the device's own; ``self_tests`` by artifact.

    ``notes`` say what was judged to be close, and what couldn't be judged.
    """

    device: str
    folder: str
    artifacts: tuple[str, ...]
    push: PushReport
    runner: PushReport | None
    self_tests: Mapping[str, RunResult]
    notes: tuple[str, ...] = ()


def deploy(
    bundle: Bundle,
    driver: Driver,
    artifacts: Sequence[str] = (),
    *,
    runner: Path | None = None,
    context: int | None = None,
    fit_check: bool = True,
    in_place: bool = False,
    timeout_seconds: float = SELF_TEST_SECONDS,
    progress: Progress = SILENT,
    cancelled: Event | None = None,
) -> Deployed:
    """Push a bundle's artifacts (none named: the one that it ships; ``all``) and run each one's self-test there.

    ``context`` is the tokens that it shall hold there (None: what the runner takes by itself), for the judgement of
    memory that ``fit_check`` turns off. ``in_place`` changes the version in use, for a disk that has no room for two.

    Raises BundleError for a damaged bundle, UnsupportedError for an artifact that the device can't run, GateError for
    one that wouldn't fit into its memory (nothing is sent then) or that computes otherwise there: then nothing new is
    left, and the version before is. And what the driver raises.
    """
    verify_files(bundle)
    chosen = chosen_artifacts(bundle, driver, artifacts)
    folder = bundle_folder(bundle.manifest.name)
    probe = driver.probe()
    notes = fit_before_push(bundle, chosen, driver, probe, context) if fit_check else []
    files = {folder: bundle_files(bundle, chosen)}
    if driver.uses_runner:
        program = runner_files(driver, probe, runner or driver.settings.runner)
        files = files if program is None else {RUNNER_FOLDER: program, **files}
    brought: dict[str, Staged] = {}
    tests: dict[str, RunResult] = {}
    with _taken_back(driver, brought):
        for place, wanted in files.items():
            if driver.stages and not in_place:
                brought[place] = driver.stage(wanted, place, progress=progress, cancelled=cancelled)
            else:
                report = driver.push(wanted, place, progress=progress, cancelled=cancelled)
                brought[place] = Staged(place, report, older=bool(report.files_kept or report.files_removed))
        program_folder = brought[RUNNER_FOLDER].folder if RUNNER_FOLDER in brought else RUNNER_FOLDER
        with progress.task(f"{driver.name}: self-test", len(chosen), "artifacts") as task:
            for name in chosen:
                options = {} if context is None else {"context": context}
                job = Job("selftest", brought[folder].folder, name, options, program_folder)
                tests[name] = driver.run(job, timeout_seconds=timeout_seconds, cancelled=cancelled)
                task.advance()
    # The runner first: a newer one reads older bundles.
    if new := {one.folder: place for place, one in brought.items() if one.folder != place}:
        driver.replace(new)
    program_report = brought[RUNNER_FOLDER].report if RUNNER_FOLDER in brought else None
    report = brought[folder].report
    return Deployed(driver.name, folder, tuple(chosen), report, program_report, tests, tuple(notes))


@contextlib.contextmanager
def _taken_back(driver: Driver, brought: Mapping[str, Staged]) -> Iterator[None]:
    """Delete what is new when the self-test fails, and say what is left."""
    try:
        yield
    except (JobFailed, JobTimeout) as error:
        left = "the bundle there is left as it was"
        for place, one in reversed(list(brought.items())):
            staged = one.folder != place
            changed = staged or bool(one.report.files_sent or one.report.files_removed)
            # A runner that was changed in place is left: other bundles may run by it.
            if changed and (staged or place != RUNNER_FOLDER or not one.older):
                driver.remove(one.folder)
            if changed and place != RUNNER_FOLDER:
                both = staged and one.older
                left = f"nothing {'new' if both else 'of the bundle'} is left there"
                left += ", and the version before is as it was" if both else ""
        if isinstance(error, JobTimeout):
            raise
        raise GateError(f"{error}; {left}") from error


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


def runner_files(driver: Driver, probe: Probe, runner: Path | None) -> dict[str, Path] | None:
    """Return the runner program's files for a device; None: it keeps the one that it has.

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
    return files


def _has_runner(driver: Driver) -> bool:
    return any(check.name == "runner" and check.ok for check in driver.check())
