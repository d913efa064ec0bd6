"""Every result that a device ever gave, in one SQLite file: device x artifact x time.

The file is ``$EDGESTILL_STORE``, else ``edgestill/results.sqlite`` in the user's data folder. Each ``add`` is one
transaction in a write-ahead log: two commands may write at once, and a kill loses what it was writing, nothing else.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from pydantic import ValidationError
from typing_extensions import Self

from edgestill.bench_results import BenchDocument, BenchRecord, Environment
from edgestill.errors import DiskFullError, InputError, StageError

_VERSION: Final = 1
_WAIT_SECONDS: Final = 60.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS results (
    id INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    bundle TEXT,
    artifact TEXT NOT NULL,
    artifact_sha256 TEXT,
    engine TEXT NOT NULL,
    threads INTEGER NOT NULL,
    measured TEXT NOT NULL,
    record TEXT NOT NULL,
    environment TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS results_by_device ON results (device, artifact, measured);
"""
_COLUMNS: Final = "id, device, bundle, artifact, measured, record, environment"


@dataclass(frozen=True)
class StoredResult:
    """One measured artifact of one device; ``bundle`` is the bundle's content_sha256, ``measured`` the time (UTC)."""

    id: int
    device: str
    bundle: str | None
    artifact: str
    measured: str
    record: BenchRecord
    environment: Environment


def store_path() -> Path:
    """Return where results are kept, unless another file is named."""
    if named := os.environ.get("EDGESTILL_STORE"):
        return Path(named)
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "edgestill" / "results.sqlite"


class Store:
    """The results in one file, as a context manager; ``path`` None is :func:`store_path`.

    Raises InputError for a file that isn't a store, or of a later version.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = store_path() if path is None else path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            # Autocommit: transactions begin where the code says so.
            self._connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, device: str, document: BenchDocument, *, bundle: str | None = None) -> int:
        """Keep all results of a document, or none; return how many were new. One that is there already isn't added.

        ``bundle`` is the content_sha256 of the bundle that was measured. Raises DiskFullError, StageError.
        """
        measured = document.created or _now()
        environment = document.environment.model_dump_json()
        added = 0
        with self._transaction() as connection:
            for record in document.results:
                values = (device, bundle, artifact_of(record), record.model_sha256, record.engine, record.threads)
                text = record.model_dump_json()
                there = connection.execute(
                    "SELECT 1 FROM results WHERE device = ? AND measured = ? AND record = ?", (device, measured, text)
                ).fetchone()
                if there is None:
                    connection.execute(
                        "INSERT INTO results (device, bundle, artifact, artifact_sha256, engine, threads, measured, "
                        "record, environment) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (*values, measured, text, environment),
                    )
                    added += 1
        return added

    def query(
        self,
        *,
        device: str | None = None,
        bundle: str | None = None,
        artifact: str | None = None,
        since: str | None = None,
        limit: int | None = None,
    ) -> list[StoredResult]:
        """Return results, the latest first. ``since`` is a time as ``2026-01-31T12:00:00Z`` or a beginning of one."""
        wanted = {"device = ?": device, "bundle = ?": bundle, "artifact = ?": artifact, "measured >= ?": since}
        chosen = {condition: value for condition, value in wanted.items() if value is not None}
        where = f" WHERE {' AND '.join(chosen)}" if chosen else ""
        text = f"SELECT {_COLUMNS} FROM results{where} ORDER BY measured DESC, id DESC LIMIT ?"
        with self._errors():
            rows = self._connection.execute(text, (*chosen.values(), -1 if limit is None else limit)).fetchall()
        return [self._result(row) for row in rows]

    def devices(self) -> list[str]:
        """Return the names of the devices that have results, sorted."""
        with self._errors():
            rows = self._connection.execute("SELECT DISTINCT device FROM results ORDER BY device").fetchall()
        return [str(name) for (name,) in rows]

    def _open(self) -> None:
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > _VERSION:
            raise InputError(f"{self.path}: a store of version {version}, this reads {_VERSION}; update edgestill")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        if version < _VERSION:
            with self._transaction() as connection:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            # At once a writer: two that began as readers could not both become one.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            said = str(error)
            if "full" in said:
                raise DiskFullError(f"disk full while writing {self.path}; free some room and run it again") from error
            if type(error) is sqlite3.DatabaseError:
                raise InputError(f"{self.path}: not a store of results ({said}); name another file") from error
            raise StageError(f"{self.path}: {said}; is it on a disk that can be written, and not held?") from error

    def _result(self, row: Sequence[object]) -> StoredResult:
        number, device, bundle, artifact, measured, record, environment = row
        try:
            return StoredResult(
                id=int(str(number)),
                device=str(device),
                bundle=None if bundle is None else str(bundle),
                artifact=str(artifact),
                measured=str(measured),
                record=BenchRecord.model_validate_json(str(record)),
                environment=Environment.model_validate_json(str(environment)),
            )
        except ValidationError as error:
            raise InputError(f"{self.path}: result {number} can't be read ({error.errors()[0]['msg']})") from error


def artifact_of(record: BenchRecord) -> str:
    """Return the artifact's name of a record: what follows # in its model, or the last folder's name."""
    _, _, name = record.model.rpartition("#")
    path = Path(name)
    return path.parent.name if path.suffix in (".gguf", ".onnx") and path.parent.name else path.name or record.model


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
