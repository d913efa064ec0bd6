"""Deploy: bring a bundle's chosen artifacts and the runner to a device, and prove that it computes there the same.

Before anything is sent, each artifact is judged by what memory the device has free. A device that stages keeps the
version in use, and its runner, until the new one has passed its self-test there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

from edgestill.bundle import Bundle, verify_files
from edgestill.devices.bringing import Brought, files_to_bring
from edgestill.devices.contract import Driver, JobFailed, JobTimeout, PushReport, RunResult
from edgestill.devices.fit_bundle import fit_before_push
from edgestill.errors import GateError, UnsupportedError
from edgestill.progress import SILENT, Progress

ALL: Final = "all"
SELF_TEST_SECONDS: Final = 1800.0


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

    ``runner`` is the program to bring (None: as the device's table says). ``context`` is the tokens that it shall hold
    there (None: what the runner takes by itself), for the judgement of memory that ``fit_check`` turns off.
    ``in_place`` changes the version in use, for a disk that has no room for two.

    Raises BundleError for a damaged bundle, UnsupportedError for an artifact that the device can't run, GateError for
    one that wouldn't fit into its memory (nothing is sent then) or that computes otherwise there: then nothing new is
    left, and the version before is. And what the driver raises.
    """
    verify_files(bundle)
    chosen = chosen_artifacts(bundle, driver, artifacts)
    probe = driver.probe()
    notes = fit_before_push(bundle, chosen, driver, probe, context) if fit_check else []
    files = files_to_bring(driver, probe, bundle, chosen, runner)
    brought = Brought(driver, bundle)
    tests: dict[str, RunResult] = {}
    with _taken_back(brought):
        brought.bring(files, in_place=in_place, progress=progress, cancelled=cancelled)
        with progress.task(f"{driver.name}: self-test", len(chosen), "artifacts") as task:
            for name in chosen:
                job = brought.self_test(name, context)
                tests[name] = driver.run(job, timeout_seconds=timeout_seconds, cancelled=cancelled)
                task.advance()
    brought.put_in_place()
    program = None if brought.runner is None else brought.runner.report
    return Deployed(driver.name, brought.place, tuple(chosen), brought.bundle.report, program, tests, tuple(notes))


@contextlib.contextmanager
def _taken_back(brought: Brought) -> Iterator[None]:
    """Delete what is new when the self-test fails, and say what is left."""
    try:
        yield
    except (JobFailed, JobTimeout) as error:
        brought.take_back()
        if isinstance(error, JobTimeout):
            raise
        left = "the bundle there is left as it was"
        if brought.is_new(brought.place):
            both = brought.bundle.folder != brought.place and brought.bundle.older
            left = f"nothing {'new' if both else 'of the bundle'} is left there"
            left += ", and the version before is as it was" if both else ""
        raise GateError(f"{error}; {left}") from error


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
