"""Which rows are worth learning from: small filters, each with a count and an example of what it dropped.

A filter of one row registers itself with :func:`register` under the class of its recipe section, in a file of
this folder. Duplicates are found between all rows. Everything streams: memory doesn't grow with the rows.
"""

from __future__ import annotations

import collections
import hashlib
import importlib
import json
import pkgutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import numpy as np

from edgestill.dataset import Example, Message, share_of
from edgestill.distill.curate.minhash import Hashes, Signatures, bit
from edgestill.errors import DataError, UnsupportedError, disk_errors
from edgestill.filters import Balance, ExactFilter, Filter, NearFilter
from edgestill.progress import SILENT, Progress
from edgestill.storage import remove, whole_file

Fault = Callable[[Example], str | None]
"""Returns why a row is dropped (one short reason, the same words each time), or None."""

_BATCH: Final = 2000
_SHOWN: Final = 200


@dataclass(frozen=True)
class Context:
    """What filters know beside the row: the task's own check of an answer, and the rows that are tested on.

    ``rating`` returns what the judge said of a row (1 to 10, None where it gave no rating).
    """

    fault: Fault | None = None
    test: Sequence[Example] = ()
    rating: Callable[[Example], float | None] | None = None


@dataclass(frozen=True)
class Drop:
    """How many rows one filter dropped for one reason, and one of them."""

    filter: str
    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Curated:
    """What curating left: ``kept`` of ``read`` rows are in ``path``."""

    path: Path
    read: int
    kept: int
    dropped: tuple[Drop, ...]


SectionType = TypeVar("SectionType", bound=Filter)
_FILTERS: Final[dict[type[Filter], Callable[[Any, Context], Fault]]] = {}


def register(
    section: type[SectionType],
) -> Callable[[Callable[[SectionType, Context], Fault]], Callable[[SectionType, Context], Fault]]:
    """Register a function that makes a filter from its section and the context."""

    def keep(make: Callable[[SectionType, Context], Fault]) -> Callable[[SectionType, Context], Fault]:
        _FILTERS[section] = make
        return make

    return keep


def curate(
    examples: Iterable[Example],
    out_file: Path,
    filters: Sequence[Filter],
    context: Context,
    *,
    balance: Balance | None = None,
    progress: Progress = SILENT,
) -> Curated:
    """Write the rows that every filter lets through to ``out_file`` (JSONL), in their order.

    Row filters come first, in order; then repetitions of what is left, then ``balance``. Temporary files
    beside ``out_file`` take about 600 bytes a row for near duplicates. Raises DataError when nothing is left.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    out_file.parent.mkdir(parents=True, exist_ok=True)
    for left in out_file.parent.glob(f".{out_file.name}.*"):
        remove(left)  # a kill's
    with (
        disk_errors(f"curating into {out_file.parent}"),
        tempfile.TemporaryDirectory(dir=out_file.parent, prefix=f".{out_file.name}.") as temporary,
    ):
        run = _Run(Path(temporary), filters, context)
        with progress.task("curating", unit="rows") as task:
            for number, example in enumerate(examples, 1):
                run.take(example)
                if number % _BATCH == 0:
                    task.advance(_BATCH, kept=f"{run.survivors:,}")
        dropped = run.repetitions(progress)
        kept = 0
        with whole_file(out_file) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            for line in run.balanced(dropped, balance):
                file.write(line)
                kept += 1
        result = Curated(out_file, run.read, kept, run.tally.result())
        if not kept:
            out_file.unlink()
            raise DataError(f"none of {run.read} rows is left: {run.tally.summary()}")
        return result


@dataclass
class _Tally:
    counts: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    def drop(self, name: str, reason: str, shown: str) -> None:
        self.counts.setdefault((name, reason), [0, shown])[0] += 1

    def result(self) -> tuple[Drop, ...]:
        return tuple(Drop(name, reason, count, shown) for (name, reason), (count, shown) in self.counts.items())

    def summary(self) -> str:
        return "; ".join(f"{d.count} by {d.filter}: {d.reason} ({d.example})" for d in self.result()) or "no rows"


class _Run:
    """One pass over the rows, and what it leaves on disk for the second."""

    def __init__(self, folder: Path, filters: Sequence[Filter], context: Context) -> None:
        self.read = self.survivors = 0
        self.tally = _Tally()
        self._folder = folder
        self._near = next((section for section in filters if isinstance(section, NearFilter)), None)
        self._exact = any(isinstance(section, ExactFilter) for section in filters)
        self._row_filters: list[tuple[str, Fault]] = []
        for section in filters:
            if isinstance(section, NearFilter | ExactFilter):
                continue
            if type(section) not in _FILTERS:
                raise UnsupportedError(f"no filter of kind {section.kind!r}")
            self._row_filters.append((section.kind, _FILTERS[type(section)](section, context)))
        self._lines: IO[str] = (folder / "rows.jsonl").open("w", encoding="utf-8", newline="\n")
        self._hashes = Hashes(folder / "hashes.u64")
        self._signatures = Signatures(folder) if self._near is not None else None
        self._pending: list[str] = []
        self._pending_hashes: list[int] = []

    def take(self, example: Example) -> None:
        self.read += 1
        for name, fault in self._row_filters:
            reason = fault(example)
            if reason is not None:
                self.tally.drop(name, reason, _shown(example))
                return
        self._lines.write(json.dumps(example.to_row(), ensure_ascii=False) + "\n")
        self.survivors += 1
        content = _content(example)
        if self._exact:
            digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
            self._pending_hashes.append(int.from_bytes(digest, "little"))
        if self._signatures is not None:
            self._pending.append(content)
        if len(self._pending_hashes) >= _BATCH or len(self._pending) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._hashes.add(np.array(self._pending_hashes, np.uint64))
        if self._signatures is not None:
            self._signatures.add(self._pending)
        self._pending, self._pending_hashes = [], []

    def repetitions(self, progress: Progress) -> list[tuple[str, str, Any]]:
        """Return (filter, reason, bitmap over the survivors) of exact and near repetitions."""
        self._flush()
        self._lines.close()
        found: list[tuple[str, str, Any]] = []
        if self._exact and self.survivors:
            found.append(("exact", "the same row again", self._hashes.repeated()))
        if self._signatures is not None and self._near is not None and self.survivors:
            progress.note(f"looking for near duplicates among {self.survivors:,} rows")
            exact = found[0][2] if found else None
            near = self._signatures.near(self._near.similarity, exact)
            found.append(("near", "nearly the same as an earlier row", near))
            self._signatures.close()
        self._hashes.close()
        return found

    def balanced(self, dropped: Sequence[tuple[str, str, Any]], balance: Balance | None) -> Iterator[str]:
        """Yield the lines that stay; a group that is too large loses the rows whose prompts hash highest."""
        if balance is None:
            for line, _ in self._left(dropped):
                yield line
            return
        counts: collections.Counter[str] = collections.Counter()
        for line, _ in self._left(dropped, count=False):
            counts[_group(line, balance)] += 1
        most = min(counts.values(), default=0) * balance.ratio
        for line, example in self._left(dropped):
            group = _group(line, balance)
            if share_of(example) < most / counts[group]:
                yield line
            else:
                self.tally.drop("balance", f"too many of {group!r}", _shown(example))

    def _left(self, dropped: Sequence[tuple[str, str, Any]], *, count: bool = True) -> Iterator[tuple[str, Example]]:
        with (self._folder / "rows.jsonl").open(encoding="utf-8", newline="\n") as file:
            for row, line in enumerate(file):
                by = next(((name, reason) for name, reason, bitmap in dropped if bit(bitmap, row)), None)
                if by is None:
                    yield line, _example(line)
                elif count:
                    self.tally.drop(*by, _shown(_example(line)))


def _example(line: str) -> Example:
    row = json.loads(line)
    if "text" in row:
        return Example(text=row["text"])
    return Example(tuple(Message(turn["role"], turn["content"]) for turn in row["messages"]))


def _group(line: str, balance: Balance) -> str:
    """Return a row's label (its answer), or the range of its answer's words: 1, 2-3, 4-7, 8-15 ..."""
    example = _example(line)
    answer = (example.completion or example.text or "").strip()
    if balance.by == "label":
        return answer[:_SHOWN]
    low = 1 << max(len(answer.split()), 1).bit_length() - 1
    return f"{low}-{2 * low - 1} words"


def _content(example: Example) -> str:
    if example.text is not None:
        return example.text
    return "\n".join(f"{message.role}: {message.content}" for message in example.messages)


def _shown(example: Example) -> str:
    prompt = example.prompt[-1].content if example.prompt else example.text or ""
    answer = example.completion
    return repr(prompt[:_SHOWN]) + (f" -> {answer[:_SHOWN]!r}" if answer is not None else "")
