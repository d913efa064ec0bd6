"""A running Chromium: started by Playwright, shared by the drivers of this process, started again when it is gone.

Playwright's driver program ends with this process, and Chromium with the pipe to that: a killed host leaves no browser.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import difflib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from edgestill.devices.chromium.folder import BROWSER_LOCK, DeviceFolder
from edgestill.devices.chromium.installed import WebModules, find_chromium, need_playwright, page_files
from edgestill.devices.chromium.server import HOST, ORIGIN, PageServer
from edgestill.devices.contract import DeviceBusy, DeviceError, DeviceGone, DeviceUnreachable, DriverError, JobTimeout
from edgestill.devices.limits import make_group

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, CDPSession, Page, Playwright

    from edgestill.devices.limits import Group

T = TypeVar("T")

_START_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1
CALL_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Launch:
    """How a browser is started."""

    browser: Path | None = None
    modules: Path | None = None
    emulate: str | None = None
    cpu_throttling: float | None = None
    isolated: bool = True
    headed: bool = False


@dataclass(frozen=True)
class _Running:
    """What one start made; ``gone`` is set when the browser, or its page, ended by itself."""

    playwright: Playwright
    context: BrowserContext
    page: Page
    protocol: CDPSession
    gone: threading.Event


class Chromium:
    """One browser over one folder. Every method may be called by any thread."""

    def __init__(self, folder: DeviceFolder, launch: Launch) -> None:
        self.folder = folder
        self.name = folder.name
        self.launch = launch
        self.users = 0
        self._starting = threading.Lock()
        self._hold = contextlib.ExitStack()
        self._running: _Running | None = None
        self._server: PageServer | None = None
        self._group: Group | None = None

    @property
    def server(self) -> PageServer:
        """What serves the page; there once the browser was started."""
        assert self._server is not None
        return self._server

    def start(self) -> None:
        """Start the browser where it doesn't run. Raises DeviceUnreachable, DeviceBusy."""
        self._started()

    def call(
        self,
        operation: str,
        values: dict[str, object],
        *,
        seconds: float | None = CALL_SECONDS,
        check: Callable[[], None] = lambda: None,
    ) -> object:
        """Run an operation of the storage worker; see :meth:`wait` for what it raises, DriverError for its own."""
        return self.result_of(self.begin(operation, values), seconds=seconds, check=check)

    def begin(self, operation: str, values: dict[str, object]) -> concurrent.futures.Future[object]:
        """Start an operation of the storage worker; :meth:`result_of` returns what it came to."""
        running = self._started()
        script = "([operation, values]) => window.edgestillCall(operation, values)"
        return asyncio.run_coroutine_threadsafe(running.page.evaluate(script, [operation, values]), _loop())

    def result_of(
        self,
        future: concurrent.futures.Future[object],
        *,
        seconds: float | None = CALL_SECONDS,
        check: Callable[[], None] = lambda: None,
    ) -> object:
        """Return the result of an operation that was begun."""
        answer = self.settled(future, seconds, check)
        assert isinstance(answer, dict)
        if (error := answer.get("error")) is not None:
            raise DriverError(f"{self.name}: the browser's storage: {error['name']}: {first_line(error['message'])}")
        result: object = answer.get("result")
        return result

    def evaluate(self, script: str) -> object:
        """Return what a script of the storage page resolves to."""
        return self.wait(self._started().page.evaluate(script))

    def protocol(self, method: str, values: dict[str, object]) -> dict[str, object]:
        """Send a command of the Chrome DevTools Protocol to the storage page's target."""
        found: dict[str, object] = self.wait(self._started().protocol.send(method, values))
        return found

    def wait(
        self,
        coroutine: Coroutine[object, object, T],
        *,
        seconds: float | None = CALL_SECONDS,
        check: Callable[[], None] = lambda: None,
    ) -> T:
        """Run a coroutine of Playwright's. Raises DeviceGone, JobTimeout, DriverError, and what ``check`` raises."""
        return self.settled(asyncio.run_coroutine_threadsafe(coroutine, _loop()), seconds, check)

    async def new_page(self, name: str, tell: Callable[[str], None]) -> Page:
        """Open a page of ours beside the storage page; ``tell`` gets what it says, in the loop's thread."""
        running = self._running
        assert running is not None
        page = await running.context.new_page()
        try:
            await page.expose_function("edgestillTell", lambda text: tell(str(text)))
            await page.goto(self.server.url(name))
            if self.launch.cpu_throttling is not None and self._group is None:
                session = await running.context.new_cdp_session(page)
                await session.send("Emulation.setCPUThrottlingRate", {"rate": self.launch.cpu_throttling})
        except BaseException:
            await page.close()
            raise
        return page

    def begin_coroutine(self, coroutine: Coroutine[object, object, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine in the loop's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, _loop())

    def lost(self, error: BaseException) -> DriverError:
        """Return the driver's error for one of Playwright's."""
        running = self._running
        said = first_line(str(error))
        if running is None or running.gone.is_set() or "closed" in said or "crashed" in said:
            return DeviceGone(f"{self.name}: the browser went away (closed, crashed or out of memory); run it again")
        return DriverError(f"{self.name}: the browser: {said}")

    @property
    def gone(self) -> bool:
        """Whether the browser ended by itself."""
        running = self._running
        return running is not None and running.gone.is_set()

    def close(self) -> None:
        """End the browser, its server, and the hold on its folder."""
        self._end()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._hold.close()

    @property
    def throttled_by(self) -> str | None:
        """What slows the browser down: its engines too, or its page alone; None: nothing."""
        if self.launch.cpu_throttling is None:
            return None
        return "control group" if self._group is not None else "Chromium, the page's own thread alone"

    # Starting and ending.

    def _started(self) -> _Running:
        with self._starting:
            if self._running is not None and not self._running.gone.is_set():
                return self._running
            self._end()
            need_playwright(self.name)
            program = find_chromium(self.name, self.launch.browser)
            if self._server is None:
                self._hold.enter_context(
                    self.folder.held(BROWSER_LOCK, "another edgestill holds this browser; wait for it to end")
                )
                modules = WebModules.of(self.launch.modules)
                self._server = PageServer(
                    page_files(), modules.files(), modules.listing(), isolated=self.launch.isolated
                )
            self.folder.end_orphan()
            gone = threading.Event()
            future = asyncio.run_coroutine_threadsafe(self._start(program, gone), _loop())
            try:
                self._running = future.result(_START_SECONDS)
            except DeviceError:
                raise
            except concurrent.futures.TimeoutError:
                future.cancel()
                raise DeviceUnreachable(f"{self.name}: {program} didn't start within {_START_SECONDS:g} s") from None
            except Exception as error:
                said = _why(str(error))
                raise DeviceUnreachable(f"{self.name}: {program} doesn't start ({said}); try it by hand") from error
            except BaseException:
                future.cancel()  # Ctrl-C: what has been started is stopped
                raise
            if self.launch.cpu_throttling is not None:
                self._group = self._slowed(self.launch.cpu_throttling)
            return self._running

    def _slowed(self, times: float) -> Group | None:
        """Hold all of the browser to its share of the processor: Chromium's own brake is for pages, not workers."""
        group = make_group(None, len(os.sched_getaffinity(0)) / times)
        if group is None:
            return None
        try:
            for pid in self.folder.browser_processes():
                for file in group.entering():
                    file.write_text(str(pid), encoding="ascii")
        except OSError:
            group.remove()
            return None
        return group

    async def _start(self, program: str, gone: threading.Event) -> _Running:
        from playwright.async_api import async_playwright

        playwright = await async_playwright().start()
        try:
            emulated = _emulated(self.name, playwright, self.launch.emulate)
            context = await playwright.chromium.launch_persistent_context(
                self.folder.user_data,
                executable_path=program,
                headless=not self.launch.headed,
                # The sandbox refuses to run for root (Chromium's zygote_host_impl_linux.cc), as in a CI's container.
                chromium_sandbox=os.geteuid() != 0,
                handle_sigint=False,
                args=[
                    # Our origin is our server; no other name leads anywhere.
                    f"--host-resolver-rules=MAP {HOST} 127.0.0.1:{self.server.port}, MAP * ~NOTFOUND",
                    "--no-proxy-server",
                ],
                **emulated,  # type: ignore[arg-type]
            )
            context.set_default_timeout(_START_SECONDS * 1000)
            context.on("close", lambda _: gone.set())
            page = context.pages[0] if context.pages else await context.new_page()
            page.on("crash", lambda _: gone.set())
            page.on("close", lambda _: gone.set())
            protocol = await context.new_cdp_session(page)
            # Else pressure for room may delete what was pushed.
            granted = {"permissions": ["durableStorage"], "origin": ORIGIN}
            await protocol.send("Browser.grantPermissions", granted)
            await page.goto(self.server.url("storage.html"))
        except BaseException:
            await playwright.stop()
            raise
        return _Running(playwright, context, page, protocol, gone)

    def _end(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        future = asyncio.run_coroutine_threadsafe(_stop(running), _loop())
        with contextlib.suppress(concurrent.futures.TimeoutError):
            future.result(_CLOSE_SECONDS)
        if self._group is not None:
            self._group.remove()
            self._group = None

    def settled(self, future: concurrent.futures.Future[T], seconds: float | None, check: Callable[[], None]) -> T:
        """Return what a coroutine that was begun came to; see :meth:`wait`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            while not concurrent.futures.wait([future], _POLL_SECONDS).done:
                check()
                if deadline is not None and time.monotonic() > deadline:
                    raise JobTimeout(f"{self.name}: no answer within {seconds:g} s; does the browser hang?")
                if self.gone:
                    raise self.lost(RuntimeError("closed"))
        except BaseException:
            future.cancel()
            raise
        error = future.exception()
        if error is not None:
            raise self.lost(error) from error
        return future.result()


async def _stop(running: _Running) -> None:
    from playwright.async_api import Error

    with contextlib.suppress(Error):
        await running.context.close()
    with contextlib.suppress(Error):
        await running.playwright.stop()


def _emulated(name: str, playwright: Playwright, device: str | None) -> dict[str, object]:
    """Return Playwright's options for a phone of its list. Raises DeviceError that names some like it."""
    if device is None:
        return {}
    known = playwright.devices
    if device not in known:
        like = difflib.get_close_matches(device, known, 5, 0.5) or ["Pixel 7", "iPhone 15"]
        raise DeviceError(f"{name}: emulate {device!r} is no device of Playwright's list; like it: {', '.join(like)}")
    return {key: value for key, value in known[device].items() if key != "default_browser_type"}


def first_line(text: str) -> str:
    """Return the first line of a message that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no word of why")


def _why(text: str) -> str:
    """Return the line of Playwright's long message that names the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if "[err]" in line]
    telling = [line for line in said if re.search("error|failed|cannot", line, re.IGNORECASE)]
    line = (telling or said[-1:] or lines or ["no word of why"])[0]
    return re.sub(r"^.*\[err\]\s*(\[[^\]]*\]\s*)?", "", line).rstrip(".")[:300]


# One event loop for all browsers of this process, in a thread of its own: a driver's caller may have one already.

_LOOPS: Final[list[asyncio.AbstractEventLoop]] = []
_LOOP_LOCK: Final = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    with _LOOP_LOCK:
        if not _LOOPS:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, daemon=True, name="edgestill browser").start()
            _LOOPS.append(loop)
        return _LOOPS[0]


# Drivers of one folder share its browser: Chromium opens a folder of user data once.

_OPEN: Final[dict[Path, Chromium]] = {}
_OPEN_LOCK: Final = threading.Lock()


def acquire(name: str, path: Path, launch: Launch) -> Chromium:
    """Return the browser of a folder, not necessarily started. Raises DeviceBusy when it is open in another way."""
    key = path.absolute()
    with _OPEN_LOCK:
        chromium = _OPEN.get(key)
        if chromium is None:
            chromium = _OPEN[key] = Chromium(DeviceFolder(name, key), launch)
        elif chromium.launch != launch:
            raise DeviceBusy(f"{name}: {path} is open with other settings; close that device first")
        chromium.users += 1
        return chromium


def release(chromium: Chromium, *, delete: bool = False) -> None:
    """Let go of a browser; the last user ends it, and may delete its folder."""
    with _OPEN_LOCK:
        chromium.users -= 1
        if chromium.users:
            return
        del _OPEN[chromium.folder.path]
        chromium.close()
        if delete:
            chromium.folder.delete()


def disk_free(path: Path) -> int | None:
    """Return the free bytes of the disk that a folder lies on."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None
