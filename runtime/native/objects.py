"""Compiling source files to objects, on all cores; an object is kept by the content of all that went into it."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgestill.errors import StageError
from edgestill.progress import SILENT, Progress
from edgestill.storage import sha256_json


@dataclass(frozen=True)
class Compiler:
    """A C and a C++ compiler and an archiver as command lines, and the flags of every file.

    ``identity`` says which they are.
    """

    c: tuple[str, ...]
    cpp: tuple[str, ...]
    flags: tuple[str, ...] = ()
    identity: str = ""
    archiver: tuple[str, ...] = ("ar",)

    def command(self, source: Path) -> tuple[str, ...]:
        """Return the compiler for a file, by its suffix."""
        return self.c if source.suffix == ".c" else self.cpp


@dataclass(frozen=True)
class Unit:
    """One file to compile, and its own flags."""

    source: Path
    flags: tuple[str, ...] = ()

    def with_flags(self, more: Sequence[str]) -> Unit:
        """Return it with further flags."""
        return Unit(self.source, (*self.flags, *more))


def compile_all(
    units: Sequence[Unit],
    compiler: Compiler,
    cache: Path,
    *,
    jobs: int | None = None,
    progress: Progress = SILENT,
) -> tuple[list[Path], int]:
    """Return the units' objects, in their order, and how many were compiled now.

    What an object depends on is its source and the headers that the preprocessor met (a list kept beside it), the
    compiler and the flags: files by content, so that a touched one compiles nothing. Raises StageError with the
    compiler's first error.
    """
    cache.mkdir(parents=True, exist_ok=True)
    compiled = 0
    with (
        progress.task("compiling", len(units), "files") as task,
        ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool,
    ):
        objects = []
        for path, fresh in pool.map(lambda unit: _object(unit, compiler, cache), units):
            objects.append(path)
            compiled += fresh
            task.advance()
    return objects, compiled


def _object(unit: Unit, compiler: Compiler, cache: Path) -> tuple[Path, bool]:
    """Return a unit's object, and whether it was compiled now."""
    command = [*compiler.command(unit.source), *compiler.flags, *unit.flags]
    # The searched folders too: the list of headers has paths, and another checkout's may differ from this one's.
    recipe = sha256_json([command, compiler.identity, str(unit.source), _sha256(unit.source)])
    listed = cache / f"{recipe}.headers"
    if listed.is_file():
        headers = [Path(line) for line in listed.read_text(encoding="utf-8").splitlines()]
        kept = cache / f"{_key(recipe, headers)}.o"
        if kept.is_file():
            return kept, False
    partial = cache / f"{recipe}.{os.getpid()}.o"
    depends = partial.with_suffix(".d")
    try:
        done = subprocess.run(
            [*command, "-MD", "-MF", str(depends), "-c", str(unit.source), "-o", str(partial)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StageError(f"{unit.source}: it doesn't compile: {_first_error(done.stderr)}")
        headers = _headers(depends)
        kept = cache / f"{_key(recipe, headers)}.o"
        partial.replace(kept)
        _write(listed, "".join(f"{header}\n" for header in headers))
        return kept, True
    finally:
        partial.unlink(missing_ok=True)
        depends.unlink(missing_ok=True)


def _key(recipe: str, headers: Sequence[Path]) -> str:
    return sha256_json([recipe, [_sha256(header) for header in headers]])


def _headers(depends: Path) -> list[Path]:
    """Return the headers that a make rule lists (spaces in a path are written ``\\ ``)."""
    text = depends.read_text(encoding="utf-8").replace("\\\n", " ").partition(": ")[2]
    parts = text.replace("\\ ", "\0").split()
    return [Path(part.replace("\0", " ")) for part in parts]


def _sha256(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return ""  # a header that is gone: no kept object was made without it
    return _sha256_of_state(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=1 << 14)
def _sha256_of_state(path: Path, modified: int, size: int) -> str:
    """Hash a file once as long as it doesn't change: a header is met by hundreds of units."""
    del modified, size
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.strip().splitlines()
    return lines[0] if lines else "the compiler says nothing"
