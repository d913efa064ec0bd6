"""Steps: work that is done once, recorded, and not done again while nothing it depends on changed.

Each step of a run has a record in ``OUT/steps/<name>.json``: the hash of everything it depended on,
its value, and the hash of every output. A step whose record matches is skipped; the next step's hash
covers its outputs. ``OUT/steps/log.jsonl`` keeps when each step started and ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgestill.errors import InputError, StageError, disk_errors
from edgestill.progress import Progress
from edgestill.storage import files_below, sha256_file, sha256_folder, sha256_json, write_json

INPUT_FOLDER: Final = "input"
"""Where the quickstart puts its data, inside the folder of its run."""

Json = Any
"""A JSON value: what a step returns, and what it depends on."""

_TOOLS: Final = (
    "edgestill",
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "gguf",
    "llama-cpp-python",
    "numpy",
)


def tool_versions() -> dict[str, str]:
    """Return the installed version of each tool whose change would change a result."""
    versions = {}
    for tool in _TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[tool] = importlib.metadata.version(tool)
    return versions


@dataclass(frozen=True)
class Done:
    """A finished step: its value, and one hash over its outputs and value for later steps to depend on."""

    name: str
    value: Json
    sha256: str
    seconds: float


class Steps:
    """The steps of one run, in one folder."""

    def __init__(self, out_dir: Path, progress: Progress) -> None:
        self.out_dir = out_dir
        self.done: list[str] = []
        self.skipped: list[str] = []
        self._progress = progress
        self._folder = out_dir / "steps"
        self._versions = tool_versions()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's folder, so that two runs never write into it at once."""
        refuse_foreign_folder(self.out_dir)
        with disk_errors(f"writing {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / ".lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StageError(f"{self.out_dir}: another run is working here; wait for it or give --out") from error
            yield

    def run(
        self, name: str, depends: Json, work: Callable[[], Json], *, outputs: Sequence[Path] = (), title: str = ""
    ) -> Done:
        """Do ``work`` unless its record matches ``depends``; return its value and hash.

        ``depends`` is a JSON value of everything that the work reads: sections, hashes of earlier
        steps. ``outputs`` are the files and folders that it leaves.
        """
        key = sha256_json([name, depends, self._versions])
        record_file = self._folder / f"{name}.json"
        record = _read(record_file)
        if record is not None and record["key"] == key and self._intact(record, outputs):
            self.skipped.append(name)
            return Done(name, record["value"], record["sha256"], record["seconds"])
        record_file.unlink(missing_ok=True)
        self._log("start", name)
        if title:
            self._progress.note(title)
        started = time.monotonic()
        value = work()
        seconds = time.monotonic() - started
        hashes = {self._relative(path): _hash(path) for path in outputs}
        sha256 = sha256_json([hashes, value])
        with disk_errors(f"writing {record_file}"):
            write_json(
                record_file,
                {
                    "key": key,
                    "sha256": sha256,
                    "seconds": round(seconds, 3),
                    "outputs": hashes,
                    "stamps": {self._relative(path): _stamps(path) for path in outputs},
                    "value": value,
                },
            )
        self._log("done", name)
        self.done.append(name)
        return Done(name, value, sha256, seconds)

    def _intact(self, record: dict[str, Json], outputs: Sequence[Path]) -> bool:
        for path in outputs:
            relative = self._relative(path)
            if relative not in record["outputs"]:
                return False
            # Hashing gigabytes on every start would be slow: sizes and times first, bytes when they differ.
            stamps = _stamps(path)
            if stamps and stamps == record["stamps"].get(relative):
                continue
            if _hash(path) != record["outputs"][relative]:
                return False
        return True

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.out_dir).as_posix()

    def _log(self, event: str, name: str) -> None:
        with disk_errors(f"writing {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "log.jsonl").open("a") as file:
                file.write(json.dumps({"event": event, "step": name, "time": time.time()}) + "\n")


def refuse_foreign_folder(out_dir: Path) -> None:
    """Raise InputError unless a run may write into ``out_dir``: a new or empty folder, or a run's own.

    A run replaces folders called data, teacher, student ...: never those of someone else.
    """
    if (out_dir / "steps").is_dir() or not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise InputError(f"{out_dir}: is a file; give --out a new or empty folder")
    names = {path.name for path in out_dir.iterdir()}
    # The quickstart's own input folder, left by a run that was stopped before its first step.
    ours = {INPUT_FOLDER} if (out_dir / INPUT_FOLDER / "recipe.yaml").is_file() else set()
    if foreign := sorted(names - ours):
        raise InputError(f"{out_dir}: holds {foreign[0]!r} and is no run's folder; give --out a new or empty folder")


def _read(path: Path) -> dict[str, Json] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    keys = {"key", "sha256", "seconds", "outputs", "stamps", "value"}
    return record if isinstance(record, dict) and keys <= record.keys() else None


def _hash(path: Path) -> str:
    if not path.exists():  # an output that this result doesn't have, as a refused file's final name
        return "absent"
    return sha256_folder(path) if path.is_dir() else sha256_file(path)


def _stamps(path: Path) -> list[list[Json]]:
    if not path.exists():
        return []
    files = [path / name for name in files_below(path)] if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
