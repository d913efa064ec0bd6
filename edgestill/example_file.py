"""The rows of one of a run's own JSONL files, read from disk when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from edgestill.dataset import Example, parse_row, read_examples
from edgestill.errors import DataError

_PIECE: Final = 1 << 20


class ExampleFile(Sequence[Example]):
    """A file as a sequence: eight bytes of memory a row, whatever the row holds."""

    def __init__(self, path: Path) -> None:
        """Find where each line begins. Raises DataError when there is no such file."""
        if not path.is_file():
            raise DataError(f"{path}: no such data file")
        self.path = path
        self._ends = _line_ends(path)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Example]:
        return read_examples(self.path)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # negative ones, and IndexError
        start = int(self._ends[number - 1]) if number else 0
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(int(self._ends[number]) - start)
        return parse_row(json.loads(line), f"{self.path}:{number + 1}")


def _line_ends(path: Path) -> NDArray[np.int64]:
    """Return the position after each line."""
    ends = []
    at = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            ends.append(np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n")).astype(np.int64) + at + 1)
            at += len(piece)
    found = np.concatenate(ends) if ends else np.zeros(0, np.int64)
    return found if at == (found[-1] if len(found) else 0) else np.append(found, at)
