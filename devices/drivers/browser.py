"""browser: a real Chromium of this machine as the mobile web is: a phone's screen and user agent, a slowed page.

Bundles lie in its origin private file system, and run there by onnxruntime-web and wllama, as in the web app.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import ClassVar, Final

from pydantic import Field

from edgestill.devices.chromium import checking, job, probing, session
from edgestill.devices.chromium.files import BrowserFiles
from edgestill.devices.chromium.folder import BENCH_LOCK, BROWSER_LOCK, DeviceFolder
from edgestill.devices.chromium.installed import WebModules, data_folder
from edgestill.devices.contract import (
    Check,
    DeviceError,
    DeviceSettings,
    DeviceUnreachable,
    Driver,
    Job,
    Probe,
    PushReport,
    RunResult,
    Staged,
    device_path,
)
from edgestill.devices.push import push_files
from edgestill.devices.staging import stage_files
from edgestill.devices.timeless import without_times
from edgestill.progress import SILENT, Progress

_EMULATED: Final = "a phone's screen in this machine's browser, or a slowed one: its times say nothing about a phone"


class BrowserSettings(DeviceSettings):
    """The keys of a browser's table."""

    root: str = "edgestill"
    """Our folder in the browser's storage."""
    browser: Path | None = None
    """A Chromium's program; None looks for chromium and google-chrome."""
    folder: Path | None = None
    """Where the browser keeps what it stores; None is a folder of the device's name among the user's data."""
    web_modules: Path | None = None
    """The npm packages: ``node_modules``, or the folder that has it; None is ``web`` among edgestill's data."""
    emulate: str | None = None
    """A phone of Playwright's list: ``Pixel 7``."""
    cpu_throttling: float | None = Field(default=None, ge=1)
    """How many times slower the browser is made: all of it by a control group, else its page alone by Chromium."""
    isolated: bool = True
    """False serves the page without the headers that let it use threads."""
    headed: bool = False
    """True shows the window."""


class Browser(Driver):
    """One browser; it starts at the first use, and ends with ``close``."""

    kind: ClassVar[str] = "browser"
    summary: ClassVar[str] = "Chromium on this machine, as the mobile web is"
    settings_type: ClassVar[type[DeviceSettings]] = BrowserSettings
    formats: ClassVar[tuple[str, ...]] = ("gguf", "onnx")
    uses_runner: ClassVar[bool] = False
    stages: ClassVar[bool] = True
    bench_options: ClassVar[frozenset[str]] = frozenset({*job.BENCH, *job.COMMON})
    hardware: ClassVar[str | None] = "this machine"

    def __init__(self, name: str, settings: BrowserSettings) -> None:
        super().__init__(name, settings)
        try:
            self._root = device_path(settings.root)
        except ValueError as error:
            raise DeviceError(f"{name}: root: {error}") from None
        place = settings.folder or data_folder() / "browsers" / name
        self._folder = DeviceFolder(name, place.expanduser().absolute())
        self._modules = WebModules.of(settings.web_modules)
        self._wanted_browser = settings.browser
        self._launch = session.Launch(
            browser=settings.browser,
            modules=settings.web_modules,
            emulate=settings.emulate,
            cpu_throttling=settings.cpu_throttling,
            isolated=settings.isolated,
            headed=settings.headed,
        )
        self.latency = settings.emulate is None and settings.cpu_throttling is None
        self._chromium: session.Chromium | None = None

    @property
    def chromium(self) -> session.Chromium:
        """The browser, not necessarily started. Raises DeviceBusy."""
        if self._chromium is None:
            self._chromium = session.acquire(self.name, self._folder.path, self._launch)
        return self._chromium

    @property
    def files(self) -> BrowserFiles:
        """The browser's files below our folder."""
        return BrowserFiles(self.name, self._root, self.chromium)

    def close(self) -> None:
        self._let_go(delete=False)

    def probe(self) -> Probe:
        why = "" if self.latency else _EMULATED
        return probing.probe(self.name, self.kind, self.chromium, self.files, latency=self.latency, why=why)

    def push(
        self, files: Mapping[str, Path], folder: str, *, progress: Progress = SILENT, cancelled: Event | None = None
    ) -> PushReport:
        where = device_path(folder)
        store = self._store(files)
        with store.held():
            return push_files(store, files, where, progress=progress, cancelled=cancelled, small=store)

    def stage(
        self, files: Mapping[str, Path], folder: str, *, progress: Progress = SILENT, cancelled: Event | None = None
    ) -> Staged:
        where = device_path(folder)
        store = self._store(files)
        with store.held():
            return stage_files(store, files, where, progress=progress, cancelled=cancelled)

    def replace(self, folders: Mapping[str, str]) -> None:
        moves = {device_path(staged): device_path(folder) for staged, folder in folders.items()}
        if moves:
            store = self.files
            with store.held():
                store.replace(moves)

    def run(
        self,
        job_: Job,
        *,
        on_line: Callable[[str], None] | None = None,
        timeout_seconds: float | None = None,
        cancelled: Event | None = None,
    ) -> RunResult:
        message = job.page_job(self.name, job_, self._root, isolated=self._launch.isolated)
        self._modules.check(self.name)

        busy = "another bench runs there; wait for it, as two would spoil each other's times"
        alone = self._folder.held(BENCH_LOCK, busy) if job_.command == "bench" else contextlib.nullcontext()
        with alone:
            result = job.run(
                self.chromium, job_, message, on_line=on_line, timeout_seconds=timeout_seconds, cancelled=cancelled
            )
        if self.latency:
            return result
        facts = {**result.facts, "throttled_by": self.chromium.throttled_by}
        # An answer's statistics, on stderr, are times too.
        return without_times(replace(result, errors="", facts=facts), _EMULATED)

    def pull(self, path: str) -> bytes:
        return self.files.read(device_path(path))

    def remove(self, folder: str) -> None:
        where = folder if folder == "." else device_path(folder)
        if not self._folder.made:
            return  # nothing was ever pushed: no browser is needed to know that
        if where != ".":
            self.files.remove(where)
        elif self._emptied():
            self._let_go(delete=True)

    def check(self) -> list[Check]:
        return checking.walk(self, self._folder, self._modules, self._wanted_browser)

    def _store(self, files: Mapping[str, Path]) -> BrowserFiles:
        executable = {name for name, path in files.items() if os.access(path, os.X_OK)}
        return BrowserFiles(self.name, self._root, self.chromium, executable)

    def _emptied(self) -> bool:
        """Delete our folder in the browser's storage; whether nothing else is stored there."""
        try:
            return self.files.remove_all()
        except DeviceUnreachable:
            # Without a browser that starts: what is stored in a folder of this device alone is ours.
            if not isinstance(self.settings, BrowserSettings) or self.settings.folder is not None:
                raise
            with self._folder.held(BROWSER_LOCK, "another edgestill holds this browser; wait for it to end"):
                return True

    def _let_go(self, *, delete: bool) -> None:
        if self._chromium is not None:
            chromium, self._chromium = self._chromium, None
            session.release(chromium, delete=delete)
