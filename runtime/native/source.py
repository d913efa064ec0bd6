"""llama.cpp's source, out of llama-cpp-python's distribution: the Python runtime's version, pinned."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Final

from edgestill.errors import InputError, StageError
from edgestill.storage import sha256_file, whole_folder

PACKAGE: Final = "llama-cpp-python"
VERSION: Final = "0.3.36"
SDIST_SHA256: Final = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

_TREE: Final = PurePosixPath(f"llama_cpp_python-{VERSION}/vendor/llama.cpp")
_KEPT: Final = ("LICENSE", "include", "src", "ggml", "common", "vendor/hash", "vendor/nlohmann")
_PIP: Final = ("pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps", "--no-binary", ":all:")


def cache_folder() -> Path:
    """Return where sources and objects are kept: ``$EDGESTILL_CACHE``, else the user's cache."""
    given = os.environ.get("EDGESTILL_CACHE")
    if given:
        return Path(given).resolve()  # it goes into commands that run elsewhere
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgestill"


def llama_source(given: Path | None = None, cache: Path | None = None) -> Path:
    """Return the folder of llama.cpp's source.

    ``given`` is that folder, or the source distribution (``.tar.gz``); without it the distribution is fetched by pip,
    once. A distribution's sha256 is checked before anything in it is read. Raises InputError for another folder or
    file, StageError when pip can't fetch it.
    """
    if given is not None and given.is_dir():
        if not (given / "include" / "llama.h").is_file():
            raise InputError(f"{given}: not llama.cpp's source (no include/llama.h); give its folder")
        return given
    unpacked = (cache or cache_folder()) / f"llama.cpp-{VERSION}"
    if given is None and unpacked.is_dir():
        return unpacked
    with tempfile.TemporaryDirectory() as scratch:
        archive = given or _fetched(Path(scratch))
        if not archive.is_file():
            raise InputError(f"{archive}: no such file; give {PACKAGE} {VERSION}'s source distribution")
        if (found := sha256_file(archive)) != SDIST_SHA256:
            raise InputError(f"{archive}: not {PACKAGE} {VERSION}'s source distribution (its sha256 is {found})")
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(unpacked) as folder:
            _unpack(archive, folder)
    return unpacked


def _fetched(folder: Path) -> Path:
    command = [sys.executable, "-m", *_PIP, "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise StageError(f"pip can't fetch {PACKAGE} {VERSION}'s source ({said}); give it by --source")
    return archives[0]


def _unpack(archive: Path, folder: Path) -> None:
    """Write what is compiled from: plain files below :data:`_TREE`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or not path.is_relative_to(_TREE) or ".." in path.parts:
                continue
            inside = path.relative_to(_TREE)
            if not any(inside.is_relative_to(kept) for kept in _KEPT):
                continue
            stream = tar.extractfile(member)
            assert stream is not None  # a plain file
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream:
                target.write_bytes(stream.read())
