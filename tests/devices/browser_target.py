"""The contract's target for browsers: a real Chromium, whose storage is looked at with a script of the test's own."""

from __future__ import annotations

import atexit
import base64
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import pytest

from edgestill.devices.chromium.installed import WebModules
from edgestill.devices.chromium.server import ORIGIN
from edgestill.devices.contract import Driver
from edgestill.devices.drivers.browser import Browser, BrowserSettings
from edgestill.devices.registry import checked, make_driver
from edgestill.runtime.native.build import NativeBuild
from tests.devices.contract_targets import SMALL_DISK_BYTES, Target

PACKAGES = Path(__file__).resolve().parents[2] / "build" / "web"

# One operation on the origin private file system: what a pathlib.Path would do. Returns null where there is nothing.
_SCRIPT = """async ([operation, names, text]) => {
  let folder = await navigator.storage.getDirectory();
  const create = operation === 'mkdir' || operation === 'write';
  const absent = (error) => ['NotFoundError', 'TypeMismatchError'].includes(error.name);
  const inside = operation === 'mkdir' || operation === 'list' ? names : names.slice(0, -1);
  try {
    for (const name of inside) folder = await folder.getDirectoryHandle(name, { create });
    if (operation === 'list') return await Array.fromAsync(folder.entries(), ([name, handle]) => [name, handle.kind]);
    if (operation === 'mkdir') return true;
    if (operation === 'remove') return (await folder.removeEntry(names.at(-1), { recursive: true })) ?? true;
    const handle = await folder.getFileHandle(names.at(-1), { create });
    if (operation === 'size') return (await handle.getFile()).size;
    if (operation === 'read') {
      await fetch(text, { method: 'POST', body: await handle.getFile() }); // far faster than as an answer
      return true;
    }
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = await handle.createWritable({ keepExistingData: operation === 'append' });
    if (operation === 'append') await stream.seek((await handle.getFile()).size);
    await stream.write(bytes);
    await stream.close();
    return true;
  } catch (error) {
    if (absent(error)) return null;
    return `failed: ${error.name}`;
  }
}"""


def need_browser() -> None:
    """Skip where there is no Chromium, or not the npm packages that .ci/run installs."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no chromium on this machine")
    if missing := WebModules.of(PACKAGES).missing():
        pytest.skip(f"npm packages in build/web: {', '.join(missing)}")


def browser(place: Path, **settings: object) -> Browser:
    """Return a browser whose folder is ``place``."""
    table = {"driver": "browser", "folder": str(place), "web_modules": str(PACKAGES)} | settings
    return Browser("box", BrowserSettings.model_validate(table))


class StoredPath:
    """A path in the browser's storage, with the few methods of pathlib's that the cases use."""

    def __init__(self, target: BrowserTarget, path: str) -> None:
        self._target = target
        self._path = PurePosixPath(path)

    def __truediv__(self, more: str) -> StoredPath:
        return StoredPath(self._target, (self._path / more).as_posix())

    def __str__(self) -> str:
        return self._path.as_posix()

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def parent(self) -> StoredPath:
        return StoredPath(self._target, self._path.parent.as_posix())

    def _do(self, operation: str, text: str = "") -> Any:
        # Names that the driver would write otherwise than urllib does would not be found.
        names = [quote(part, safe="", errors="surrogateescape") for part in self._path.parts]
        found = self._target.in_storage([operation, names, text])
        if isinstance(found, str) and found.startswith("failed: "):
            raise OSError(f"{self}: {found}")
        return found

    def _entries(self) -> list[tuple[StoredPath, str]]:
        found = self._do("list") or []
        return [(self / unquote(name, errors="surrogateescape"), kind) for name, kind in found]

    def exists(self) -> bool:
        return self._do("list") is not None or self.is_file()

    def is_file(self) -> bool:
        return self.size() is not None

    def size(self) -> int | None:
        found = self._do("size")
        return None if found is None else int(found)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        self._do("mkdir")

    def unlink(self) -> None:
        assert self._do("remove") is not None

    def read_bytes(self) -> bytes:
        url, place = self._target.incoming()
        if not self._do("read", url):
            raise FileNotFoundError(str(self))
        return bytes(place)

    def write_bytes(self, data: bytes) -> None:
        step = 256 << 10  # as on a disk that fills, what fits is written
        for start in range(0, len(data) or 1, step):
            piece = base64.b64encode(data[start : start + step]).decode()
            assert self._do("append" if start else "write", piece)

    def iterdir(self) -> Iterator[StoredPath]:
        return iter([path for path, _ in self._entries()])

    def rglob(self, pattern: str) -> Iterator[StoredPath]:
        assert pattern == "*"
        for path, kind in self._entries():
            yield path
            if kind == "directory":
                yield from path.rglob(pattern)

    def remove(self) -> None:
        self._do("remove")


class BrowserTarget(Target):
    """A browser whose folder all cases of a process share, each with a root of its own: a start takes a second."""

    _NO_LINKS = "a browser's storage has no links"
    _SERVED = "its program is the page, served anew at every start; test_browser_settings.py has what is like it"
    _MOVES = "its storage moves files, not folders; test_browser.py cuts a replacement in its own way"
    left_out: Mapping[str, str] = {
        "links_there_lead_nowhere": _NO_LINKS,
        "a_link_in_place_of_the_folder_leads_nowhere": _NO_LINKS,
        "an_executable_file_stays_one": "a browser's storage has no executable files",
        "a_device_without_the_program_says_so": _SERVED,
        "a_program_that_does_not_start_is_found_by_the_check": _SERVED,
        "a_runner_that_fails_leaves_the_one_before": _SERVED,
        "a_replacement_that_was_cut_is_taken_back_by_the_next_command": _MOVES,
        "what_was_replaced_and_not_yet_deleted_is_deleted_by_the_next_update": _MOVES,
        "small_files_need_few_exchanges": "it counts the scripts of a shell",
    }
    bundle = "ascii_bundle"
    root: Any
    _place: ClassVar[Path | None] = None
    _keeper: ClassVar[Browser | None] = None
    _count: ClassVar[int] = 0

    def __init__(self, folder: Path, native: NativeBuild) -> None:
        need_browser()
        super().__init__(folder, native)
        if BrowserTarget._place is None:
            BrowserTarget._place = Path(tempfile.mkdtemp(prefix="edgestill browser "))
            atexit.register(_clean, BrowserTarget._place)
        self.place = BrowserTarget._place
        BrowserTarget._count += 1
        self.root = StoredPath(self, f'case {BrowserTarget._count}\'s "folder" $HOME é')
        self._browser()

    @property
    def runner(self) -> dict[str, Path]:
        return {}

    @property
    def runner_program(self) -> Path:
        return self.folder / "none"

    def settings(self) -> dict[str, Any]:
        return {
            "driver": "browser",
            "root": str(self.root),
            "folder": str(self.place / "device"),
            "web_modules": str(PACKAGES),
        }

    def driver(self, root: Path | None = None) -> Driver:
        table = self.settings() | ({} if root is None else {"root": str(root)})
        driver = make_driver("box", checked("box", table, "test"))
        self.drivers.append(driver)
        return driver

    def let_go(self) -> None:
        if BrowserTarget._keeper is not None:
            BrowserTarget._keeper.close()
            BrowserTarget._keeper = None

    def in_storage(self, values: list[object]) -> Any:
        """Run the test's own script in the browser."""
        chromium = self._browser().chromium
        running = chromium._started()
        return chromium.wait(running.page.evaluate(_SCRIPT, values))

    def incoming(self) -> tuple[str, bytearray]:
        """Return an address that takes a file, and where it will be."""
        chromium = self._browser().chromium
        chromium.start()
        return chromium.server.incoming()

    def cut(self) -> None:
        """Kill the browser, as the system of a phone does; bytes that are under way have begun to arrive."""
        deadline = time.monotonic() + 10
        while not self._has_begun() and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in self._browsers():
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while self._browsers() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _has_begun(self) -> bool:
        partials = [path for path in self.root.rglob("*") if "/.partial/" in str(path)]
        return bool(self.processes()) or any(path.size() for path in partials)

    @contextlib.contextmanager
    def small_disk(self) -> Iterator[Any]:
        # Chromium asks for a file's room in steps, of which the last must fit whole: hence a little more.
        keeper = self._browser().chromium
        used = keeper.protocol("Storage.getUsageAndQuota", {"origin": ORIGIN})["usage"]
        assert isinstance(used, (int, float))
        quota = {"origin": ORIGIN, "quotaSize": int(used) + SMALL_DISK_BYTES + (64 << 10)}
        keeper.protocol("Storage.overrideQuotaForOrigin", quota)
        disk = StoredPath(self, "small disk")
        try:
            yield disk
        finally:
            keeper.protocol("Storage.overrideQuotaForOrigin", {"origin": ORIGIN})
            disk.remove()

    def files(self, folder: str) -> dict[str, bytes]:
        base = self.root / folder
        return {str(path)[len(str(base)) + 1 :]: path.read_bytes() for path in base.rglob("*") if path.is_file()}

    def processes(self) -> list[str]:
        """Return a line for each worker thread but the storage worker's: a job's own, then those of its engine."""
        found = []
        for pid in self._browsers():
            threads = [name for one in _below(pid) for name in _threads(one) if name.startswith("DedicatedWorker")]
            found += [f"edgestill-run bench in Chromium {pid}" for _ in threads[2:]]
            found += [f"a job's worker in Chromium {pid}" for _ in threads[1:2]]
        return found

    def close(self) -> None:
        super().close()
        self.root.remove()

    def _browser(self) -> Browser:
        if BrowserTarget._keeper is None:
            driver = make_driver("box", checked("box", self.settings(), "test"))
            assert isinstance(driver, Browser)
            BrowserTarget._keeper = driver
        return BrowserTarget._keeper

    def _browsers(self) -> list[int]:
        """Return the processes whose command line names our folder of user data: the browsers themselves."""
        wanted = b"--user-data-dir=" + os.fsencode(self.place / "device" / "user-data")
        return [pid for pid in _pids() if wanted in (words := _words(pid)) and not any(b"--type" in w for w in words)]


def _clean(place: Path) -> None:
    if BrowserTarget._keeper is not None:
        BrowserTarget._keeper.close()
    shutil.rmtree(place, ignore_errors=True)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _words(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    return []


def _below(pid: int) -> list[int]:
    """Return a process and its descendants."""
    parents = {}
    for one in _pids():
        with contextlib.suppress(OSError, ValueError):
            stat = Path("/proc", str(one), "stat").read_text(errors="replace")
            parents[one] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _threads(pid: int) -> list[str]:
    names = []
    with contextlib.suppress(OSError):
        for task in Path("/proc", str(pid), "task").iterdir():
            with contextlib.suppress(OSError):
                names.append((task / "comm").read_text())
    return names
