"""How a stage tells the outside how far it is, without knowing who listens.

A stage takes a :class:`Progress` and opens a task on it; the command line passes one that draws a
live bar on a terminal and prints plain lines elsewhere, a test passes :data:`SILENT`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: float = 1, **fields: str) -> None:
        """Add ``amount`` to what is done; ``fields`` (loss="1.23") are shown beside the bar."""

    def set_total(self, total: float) -> None:
        """Say how much there is to do when it wasn't known at the start."""


class Progress(Protocol):
    """A listener to work."""

    def task(self, label: str, total: float | None = None, unit: str = "") -> contextlib.AbstractContextManager[Task]:
        """Open a task of ``total`` units (None: unknown); it ends with the ``with`` block."""

    def note(self, text: str) -> None:
        """Show one line that isn't progress: a warning, a decision, a skipped step."""


class _SilentTask:
    def advance(self, amount: float = 1, **fields: str) -> None:
        pass

    def set_total(self, total: float) -> None:
        pass


class _Silent:
    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        yield _SilentTask()

    def note(self, text: str) -> None:
        pass


SILENT: Final[Progress] = _Silent()
