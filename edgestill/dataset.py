"""Examples from JSONL, CSV and Parquet: streamed row by row, a bad row named by file and line.

Three shapes of row: ``{"messages": [{"role", "content"}, ...]}``, ``{"prompt", "completion"}`` (or the
columns that a recipe names), ``{"text"}``. A plain ``.txt`` file is read as texts separated by a line
``<|endoftext|>``, or as one text.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from edgestill.errors import DataError, MissingDependencyError
from edgestill.storage import sha256_json

Role = Literal["system", "user", "assistant"]
ROLES: Final = ("system", "user", "assistant")
TEXT_SEPARATOR: Final = "<|endoftext|>"
_MAX_ROW_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Example:
    """One row: a conversation (``messages``) or a plain text (``text``); ``source`` is ``file:line``."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    source: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the final answer (all of them when there is no final answer)."""
        return self.messages[:-1] if self.completion is not None else self.messages

    @property
    def completion(self) -> str | None:
        """The final assistant message, or None when the row is a prompt without an answer."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[-1].content
        return None

    def answered(self, completion: str) -> Example:
        """Return this prompt with ``completion`` as its final assistant message."""
        return Example((*self.prompt, Message("assistant", completion)), None, self.source)

    def prompt_sha256(self) -> str:
        """Hash of what the model is shown; stable over runs and machines."""
        shown = self.text if self.text is not None else [[m.role, m.content] for m in self.prompt]
        return sha256_json(shown)

    def to_row(self) -> dict[str, object]:
        """Return the row as it is written to JSONL."""
        if self.text is not None:
            return {"text": self.text}
        return {"messages": [{"role": m.role, "content": m.content} for m in self.messages]}


def read_examples(
    path: Path,
    *,
    prompt_column: str = "prompt",
    completion_column: str = "completion",
    system: str | None = None,
    limit: int | None = None,
) -> Iterator[Example]:
    """Yield the examples of a data file, in order.

    ``system`` is put before conversations that have no system message. Raises DataError, naming file
    and line, for a missing file, an unknown suffix or a bad row.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such data file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: suffix {path.suffix!r} is not one of {', '.join(sorted(_READERS))}")
    rows = (_example(row, f"{path}:{line}", prompt_column, completion_column, system) for line, row in reader(path))
    yield from itertools.islice(rows, limit)


def split_by_prompt(examples: Iterator[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Split into (train, validation) by hash of the prompt: stable as data grow, no prompt in both."""
    train: list[Example] = []
    validation: list[Example] = []
    for example in examples:
        digest = hashlib.sha256(example.prompt_sha256().encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        (validation if share < fraction else train).append(example)
    return train, validation


def write_examples(path: Path, examples: list[Example]) -> None:
    """Write examples as JSONL (UTF-8, one row a line)."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for example in examples:
            file.write(json.dumps(example.to_row(), ensure_ascii=False) + "\n")


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    with path.open("rb") as file:
        for line, raw in enumerate(iter(lambda: file.readline(_MAX_ROW_BYTES + 1), b""), 1):
            if len(raw) > _MAX_ROW_BYTES:
                raise DataError(f"{path}:{line}: row longer than {_MAX_ROW_BYTES} bytes; split it")
            if line == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            try:
                row = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{line}: not JSON ({error}); one JSON object a line is expected") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{line}: a JSON object is expected, found {type(row).__name__}")
            yield line, row


def _delimited_rows(path: Path, delimiter: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}:{reader.line_num}: the row doesn't have the header's columns")
                yield reader.line_num, cast(Mapping[str, object], row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}:{reader.line_num + 1}: not a readable row ({error})") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    return _delimited_rows(path, ",")


def _tsv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    return _delimited_rows(path, "\t")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("Parquet needs pyarrow; pip install 'edgestill[distill]'") from error
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def _text_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    lines: list[str] = []
    start = 1
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip() == TEXT_SEPARATOR:
                    if text := "".join(lines).strip():
                        yield start, {"text": text}
                    lines, start = [], number + 1
                else:
                    lines.append(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from error
    if text := "".join(lines).strip():
        yield start, {"text": text}


_READERS: Final = {
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_rows,
}


def _example(
    row: Mapping[str, object], source: str, prompt_column: str, completion_column: str, system: str | None
) -> Example:
    if "messages" in row:
        messages = _messages(row["messages"], source)
    elif prompt_column in row:
        turns = [Message("user", _string(row, prompt_column, source))]
        if row.get(completion_column) is not None:
            turns.append(Message("assistant", _string(row, completion_column, source)))
        messages = tuple(turns)
    elif "text" in row:
        return Example(text=_string(row, "text", source), source=source)
    else:
        found = ", ".join(sorted(str(key) for key in row)) or "nothing"
        raise DataError(
            f"{source}: 'messages', '{prompt_column}' (with '{completion_column}') or 'text' is expected, found {found}"
        )
    if system is not None and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return Example(messages, None, source)


def _string(row: Mapping[str, object], key: str, source: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{source}: {key!r} must be a string, found {type(value).__name__}")
    return value


def _messages(value: object, source: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{source}: 'messages' must be a non-empty list")
    messages = []
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise DataError(f"{source}: each message needs a role ({', '.join(ROLES)}) and a string content")
        messages.append(Message(turn["role"], turn["content"]))
    return tuple(messages)
