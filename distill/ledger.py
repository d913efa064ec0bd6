"""The ledger: every finished answer, on disk the moment it is there, and never asked for again.

One SQLite file. A key is the hash of who was asked, what, and how; a later run, or another recipe, that asks
the same finds the answer there. A kill loses nothing that was recorded (write-ahead log; what a power cut may
lose are the last answers, never the file).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from edgestill.dataset import Message
from edgestill.errors import StageError, disk_errors
from edgestill.storage import sha256_json

CACHE_VARIABLE: Final = "EDGESTILL_CACHE"
_SCHEMA: Final = 1
_AT_ONCE: Final = 500
_BUSY_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Question:
    """What a teacher is asked; ``key`` is the hash of the conversation."""

    key: str
    messages: tuple[Message, ...]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Question:
        """Return the question that is a conversation."""
        return cls(sha256_json([[m.role, m.content] for m in messages]), tuple(messages))


@dataclass(frozen=True)
class Asking:
    """How an answer is drawn: ``temperature`` 0 is greedy; ``sample`` numbers the answers to one question."""

    temperature: float
    max_new_tokens: int
    seed: int
    sample: int = 0

    def key(self) -> list[object]:
        """Return what an answer depends on: a greedy one on neither seed nor sample."""
        drawn = [] if self.temperature == 0 else [self.seed, self.sample]
        return [self.temperature, self.max_new_tokens, *drawn]


@dataclass(frozen=True)
class Reply:
    """An answer: ``finished`` when the teacher ended it itself; ``fault`` why there is none (a refusal).

    ``prompt_tokens`` and ``new_tokens`` are the teacher's own count, ``cost`` in the price's currency (None:
    no price was given).
    """

    text: str
    finished: bool
    prompt_tokens: int
    new_tokens: int
    cost: float | None = None
    fault: str | None = None


def default_ledger() -> Path:
    """Return the file of paid answers: in ``EDGESTILL_CACHE``, else in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given) / "answers.sqlite"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgestill" / "answers.sqlite"


class Ledger:
    """An open ledger; several processes may have it open at once. ``recorded`` counts what was added."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises StageError when the file isn't a ledger, or is a later version's."""
        self.path = path
        self.recorded = 0
        with disk_errors(f"writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            if version not in (0, _SCHEMA):
                raise StageError(f"{path}: a ledger of version {version}, {_SCHEMA} is known; update edgestill")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, teacher TEXT NOT NULL, text TEXT NOT NULL,"
                " finished INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, new_tokens INTEGER NOT NULL, cost REAL,"
                " fault TEXT, time REAL NOT NULL) WITHOUT ROWID"
            )
            self._file.execute(f"PRAGMA user_version = {_SCHEMA}")
        except sqlite3.Error as error:
            raise StageError(f"{path}: can't be used as a ledger ({error}); give synthesize.ledger another") from error

    @staticmethod
    def key(teacher: str, question: Question, asking: Asking, extra: str = "") -> str:
        """Return the key of an answer; ``teacher`` is its identity, ``extra`` what else it depends on."""
        return sha256_json([teacher, question.key, asking.key(), extra])

    def find(self, keys: Iterable[str]) -> dict[str, Reply]:
        """Return the answers that are there."""
        wanted = list(keys)
        found: dict[str, Reply] = {}
        for at in range(0, len(wanted), _AT_ONCE):
            part = wanted[at : at + _AT_ONCE]
            marks = ",".join("?" * len(part))
            # Only question marks are put into the statement, one for each key.
            rows = self._file.execute(f"SELECT {_COLUMNS} FROM answers WHERE key IN ({marks})", part)
            for key, text, finished, prompt_tokens, new_tokens, cost, fault in rows:
                found[key] = Reply(text, bool(finished), prompt_tokens, new_tokens, cost, fault)
        return found

    def record(self, teacher: str, replies: Mapping[str, Reply]) -> None:
        """Keep answers under their keys, all or none."""
        now = time.time()
        rows = [
            (key, teacher, r.text, r.finished, r.prompt_tokens, r.new_tokens, r.cost, r.fault, now)
            for key, r in replies.items()
        ]
        try:
            self._file.execute("BEGIN IMMEDIATE")
            self._file.executemany("INSERT OR REPLACE INTO answers VALUES (?,?,?,?,?,?,?,?,?)", rows)
            self._file.execute("COMMIT")
            self.recorded += len(rows)
        except sqlite3.Error as error:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            raise StageError(f"{self.path}: an answer can't be recorded ({error}); free some room") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


_COLUMNS: Final = "key, text, finished, prompt_tokens, new_tokens, cost, fault"
