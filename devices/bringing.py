"""Bringing a bundle and its runner to a device: beside what is in use there until proved, then in its place, or gone.

Only what differs is sent. A device that doesn't stage, or shall not, has the version in use changed where it lies.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Final

from edgestill.bundle import MANIFEST_FILE, Bundle
from edgestill.devices.contract import RUNNER, RUNNER_FOLDER, DeviceError, Driver, Job, Probe, Staged
from edgestill.devices.executable import machine_of
from edgestill.errors import InputError
from edgestill.progress import Progress

_LIBRARY: Final = "libedgestill.so"


class Brought:
    """What a device was brought so far: in ``staged`` by its place, which is ``place`` for the bundle.

    After an error in the middle ``staged`` holds what had come whole.
    """

    def __init__(self, driver: Driver, bundle: Bundle) -> None:
        self.place = bundle_folder(bundle.manifest.name)
        self.staged: dict[str, Staged] = {}
        self._driver = driver

    @property
    def bundle(self) -> Staged:
        """The bundle, once it was brought."""
        return self.staged[self.place]

    @property
    def runner(self) -> Staged | None:
        """The program; None: the device keeps the one that it has."""
        return self.staged.get(RUNNER_FOLDER)

    def bring(
        self,
        files: Mapping[str, Mapping[str, Path]],
        *,
        in_place: bool = False,
        progress: Progress,
        cancelled: Event | None,
    ) -> None:
        """Send what the device hasn't of ``files`` (by place), one place after the other. Raises what the driver does.

        ``in_place`` changes the version in use.
        """
        driver = self._driver
        for place, wanted in files.items():
            if driver.stages and not in_place:
                self.staged[place] = driver.stage(wanted, place, progress=progress, cancelled=cancelled)
            else:
                report = driver.push(wanted, place, progress=progress, cancelled=cancelled)
                self.staged[place] = Staged(place, report, older=bool(report.files_kept or report.files_removed))

    def self_test(self, artifact: str, context: int | None = None) -> Job:
        """Return the self-test of an artifact where it lies now, by the program that was brought with it."""
        program = RUNNER_FOLDER if self.runner is None else self.runner.folder
        options = {} if context is None else {"context": context}
        return Job("selftest", self.bundle.folder, artifact, options, program)

    def is_new(self, place: str) -> bool:
        """Return whether anything of a place was changed."""
        one = self.staged.get(place)
        return one is not None and (one.folder != place or bool(one.report.files_sent or one.report.files_removed))

    def put_in_place(self, refused: Sequence[str] = ()) -> None:
        """Put what is staged in its places, without the artifacts that were refused. Raises what the driver does."""
        if self.is_new(self.place):
            for name in refused:
                self._driver.remove(f"{self.bundle.folder}/artifacts/{name}")
        # As they were brought, the runner first: a newer one reads older bundles.
        if moves := {one.folder: place for place, one in self.staged.items() if one.folder != place}:
            self._driver.replace(moves)

    def take_back(self) -> None:
        """Delete what is new. Raises what the driver does."""
        for place, one in reversed(self.staged.items()):
            # A runner that was changed in place is left: other bundles may run by it.
            kept = place == RUNNER_FOLDER and one.folder == place and one.older
            if self.is_new(place) and not kept:
                self._driver.remove(one.folder)


def files_to_bring(
    driver: Driver, probe: Probe, bundle: Bundle, artifacts: Sequence[str], runner: Path | None
) -> dict[str, dict[str, Path]]:
    """Return what a device shall hold, by place: its program where one is known, then the bundle with these artifacts.

    The program is ``runner``, else the one in the device's table. Raises what :func:`runner_files` does.
    """
    program = runner_files(driver, probe, runner or driver.settings.runner) if driver.uses_runner else None
    files = {} if program is None else {RUNNER_FOLDER: program}
    return {**files, bundle_folder(bundle.manifest.name): bundle_files(bundle, artifacts)}


def bundle_folder(name: str) -> str:
    """Return the folder of a bundle on every device: its name where that is plain, else as much of it as is."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:48]
    if plain == name:
        return f"bundles/{name}"
    return f"bundles/{plain or 'bundle'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


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
