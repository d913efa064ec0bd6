"""GitHub-flavoured Markdown: text that stays text, and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from edgestill.report.format import printable

_MARKS: Final = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def escape(value: str) -> str:
    """Return text on one line in which nothing is markup."""
    return _MARKS.sub(r"\\\1", " ".join(printable(value).split()))


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines; the cells are Markdown already."""
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
