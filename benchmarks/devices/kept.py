"""Finished cases of a benchmark in a JSON file, written after each one: a run that was cut goes on from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgestill.storage import write_text

Row = dict[str, Any]


class Kept:
    """The rows of one file; ``path`` None keeps them in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        there = path is not None and path.is_file() and path.stat().st_size
        self.rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path is not None and there else []

    def find(self, **wanted: object) -> Row | None:
        """Return the row with these values."""
        return next((row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())), None)

    def add(self, row: Row) -> None:
        """Keep a row, at once."""
        self.rows.append(row)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self.rows, indent=1) + "\n")
