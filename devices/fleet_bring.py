"""What a device of a fleet is brought: the artifacts that it can run, beside the version in use until they are proved.

As :mod:`edgestill.devices.deploy` does it, but an artifact that is refused takes nothing from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from edgestill.bundle import Bundle
from edgestill.devices.contract import RUNNER_FOLDER, Driver, Job, Probe, Staged
from edgestill.devices.deploy import bundle_files, bundle_folder, runner_files
from edgestill.progress import Progress


@dataclass(frozen=True)
class Brought:
    """Where bundle and program lie on the device: staged ones until :func:`settle`. ``runner`` None: it was kept."""

    place: str
    bundle: Staged
    runner: Staged | None

    def job(self, artifact: str) -> Job:
        """Return the self-test of an artifact, where it lies now."""
        program = RUNNER_FOLDER if self.runner is None else self.runner.folder
        return Job("selftest", self.bundle.folder, artifact, {}, program)


def bring(
    driver: Driver,
    probe: Probe,
    bundle: Bundle,
    artifacts: Sequence[str],
    runner: Path | None,
    *,
    progress: Progress,
    cancelled: Event,
) -> Brought:
    """Send what the device hasn't of its program and the artifacts. Raises what the driver does, DeviceError."""
    place = bundle_folder(bundle.manifest.name)
    program = runner_files(driver, probe, driver.settings.runner or runner) if driver.uses_runner else None
    wanted = {} if program is None else {RUNNER_FOLDER: program}
    wanted[place] = bundle_files(bundle, artifacts)
    found: dict[str, Staged] = {}
    for folder, files in wanted.items():
        if driver.stages:
            found[folder] = driver.stage(files, folder, progress=progress, cancelled=cancelled)
        else:
            report = driver.push(files, folder, progress=progress, cancelled=cancelled)
            found[folder] = Staged(folder, report, older=bool(report.files_kept or report.files_removed))
    return Brought(place, found[place], found.get(RUNNER_FOLDER))


def settle(driver: Driver, brought: Brought, passed: Sequence[str], refused: Sequence[str]) -> None:
    """Put what passed its self-test into its place, and delete what is new and didn't."""
    staged = brought.bundle.folder != brought.place
    changed = staged or bool(brought.bundle.report.files_sent)
    runner = brought.runner
    if not passed:
        if changed:
            driver.remove(brought.bundle.folder)
        if runner is not None and (runner.folder != RUNNER_FOLDER or (not runner.older and runner.report.files_sent)):
            driver.remove(runner.folder)
        return
    if changed:
        for name in refused:
            driver.remove(f"{brought.bundle.folder}/artifacts/{name}")
    # The runner first: a newer one reads older bundles.
    moves = {} if runner is None or runner.folder == RUNNER_FOLDER else {runner.folder: RUNNER_FOLDER}
    if staged:
        moves[brought.bundle.folder] = brought.place
    if moves:
        driver.replace(moves)
