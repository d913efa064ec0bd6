"""What the browser driver needs on this machine: Playwright, a Chromium, and the npm packages that run models there."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from edgestill.devices.apps.template import TEMPLATES
from edgestill.devices.contract import DeviceUnreachable, JobFailed

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_TEMPLATE: Final = TEMPLATES / "web" / "files"


def data_folder() -> Path:
    """Return the user's folder for what edgestill keeps between commands (XDG Base Directory specification)."""
    given = os.environ.get("XDG_DATA_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "share"
    return base / "edgestill"


def find_chromium(name: str, wanted: Path | None) -> str:
    """Return the path of a Chromium. Raises DeviceUnreachable that says how to get one."""
    if wanted is not None:
        found = shutil.which(str(wanted.expanduser()))
        if found is None:
            raise DeviceUnreachable(f"{name}: {wanted} is no program here; set browser to a Chromium's path")
        return found
    for program in PROGRAMS:
        if found := shutil.which(program):
            return found
    raise DeviceUnreachable(
        f"{name}: no Chromium here ({', '.join(PROGRAMS)}); install one, or set browser to its path"
    )


def need_playwright(name: str) -> None:
    """Raises DeviceUnreachable where the package isn't installed."""
    try:
        import playwright.async_api  # noqa: F401
    except ImportError:
        raise DeviceUnreachable(f"{name}: no playwright here; pip install 'edgestill[browser]' brings it") from None


@cache
def needed_packages() -> Mapping[str, str]:
    """Return the npm packages and versions that the web app's package.json pins: its engines are written for them."""
    text = (_TEMPLATE / "package.json.jinja").read_text(encoding="utf-8")
    return dict(re.findall(r'"(@?[a-z0-9./-]+)": "(\d+\.\d+\.\d+)"', text.partition('"dependencies"')[2]))


@dataclass(frozen=True)
class WebModules:
    """npm packages in a folder ``node_modules``."""

    folder: Path

    @classmethod
    def of(cls, given: Path | None) -> WebModules:
        """Return those of a folder, or of the one that has ``node_modules`` in it; None is the user's own place."""
        if given is None:
            return cls(data_folder() / "web" / "node_modules")
        folder = given.expanduser()
        return cls(folder / "node_modules" if (folder / "node_modules").is_dir() else folder)

    @property
    def cure(self) -> str:
        """The command that installs them."""
        above = self.folder.parent if self.folder.name == "node_modules" else self.folder
        words = " ".join(f"{name}@{version}" for name, version in needed_packages().items())
        return f"npm install --prefix {above} {words}"

    def missing(self) -> Sequence[str]:
        """Return what is missing or of another version, one phrase each."""
        found = []
        for name, version in needed_packages().items():
            there = self._version(name)
            if there is None:
                found.append(f"no {name}")
            elif there != version:
                found.append(f"{name} {there} instead of {version}")
            elif lacking := [file for file in vendored_files()[name] if not (self.folder / name / file).is_file()]:
                found.append(f"no {lacking[0]} in {name}")
        return found

    def check(self, name: str) -> None:
        """Raises JobFailed when something is missing."""
        if lacking := self.missing():
            raise JobFailed(f"{name}: {', '.join(lacking)} in {self.folder}; run: {self.cure}")

    def files(self) -> dict[str, Path]:
        """Return the packages' files as the page asks for them: ``FOLDER/FILE`` by its URL below ``vendor/``."""
        return {
            f"{_folder(name, version)}/{Path(file).name}": self.folder / name / file
            for name, version in needed_packages().items()
            for file in vendored_files()[name]
        }

    @staticmethod
    def listing() -> str:
        """Return ``vendored.json``: each package's version and folder."""
        return json.dumps(
            {
                name: {"version": version, "folder": _folder(name, version)}
                for name, version in needed_packages().items()
            }
        )

    def _version(self, name: str) -> str | None:
        try:
            found = json.loads((self.folder / name / "package.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        version = found.get("version") if isinstance(found, dict) else None
        return version if isinstance(version, str) else None


@cache
def vendored_files() -> Mapping[str, list[str]]:
    """Return which files of each package the engines load: the web app's own list."""
    found: dict[str, list[str]] = json.loads((_TEMPLATE / "scripts" / "vendored-files.json").read_text("utf-8"))
    return found


def page_files() -> dict[str, Path]:
    """Return the page's own files by name: the web app's engines, and ours beside them."""
    ours = Path(__file__).resolve().parent / "page"
    return {path.name: path for folder in (_TEMPLATE, ours) for path in folder.iterdir() if path.suffix in _SERVED}


_SERVED: Final = frozenset({".js", ".html"})


def _folder(name: str, version: str) -> str:
    return f"{name.removeprefix('@').replace('/', '-')}-{version}"
