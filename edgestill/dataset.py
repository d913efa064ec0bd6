"""Examples from JSONL, CSV and Parquet: streamed row by row, a bad row named by file and line.

Shapes of row: ``{"messages": [{"role", "content"}, ...]}``, ``{"prompt", "completion"}``, ``{"text"}``, a
task's own columns (``premise`` and ``hypothesis``), ShareGPT's ``conversations``, and ``turns`` of
``[speaker, text]``; a recipe may name other columns for them. A ``.json`` file is a list of rows, or SQuAD's
layout. A plain ``.txt`` file is read as texts separated by a line ``<|endoftext|>``, or as one text.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast

from edgestill.errors import DataError, MissingDependencyError
from edgestill.storage import sha256_json

Role = Literal["system", "user", "assistant"]
ROLES: Final = ("system", "user", "assistant")
TEXT_SEPARATOR: Final = "<|endoftext|>"
_MAX_ROW_BYTES: Final = 16 << 20
_MAX_DOCUMENT_BYTES: Final = 256 << 20
_MARKS: Final = re.compile(r"(?<!\d)[.,:]|[.,:](?!\d)|[;!?\"'’‘“”…]")
_OPTIONAL: Final = ("completion", "label", "answer", "answers", "summary", "references")


@dataclass(frozen=True)
class BadRow:
    """A row that is no example: where it is, why, and what it holds (text where it couldn't be parsed)."""

    source: str
    error: str
    row: object


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Example:
    """One row: a conversation (``messages``) or a plain text (``text``); ``source`` is ``file:line``.

    ``references`` are further right answers beside the final assistant message.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    source: str = ""
    references: tuple[str, ...] = ()

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
        row: dict[str, object] = {"messages": [{"role": m.role, "content": m.content} for m in self.messages]}
        return {**row, "references": list(self.references)} if self.references else row


Row = Mapping[str, object]
"""One row of a data file as it was parsed: column name -> value."""


class Shape(Protocol):
    """How a task's own rows look: the columns that they have, and the example that they mean."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns by which such a row is known; none: there are no such rows."""

    def build(self, row: Row, source: str) -> Example:
        """Return the example. Raises DataError, naming ``source``, for a value that can't be used."""


def read_examples(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    shape: Shape | None = None,
    system: str | None = None,
    limit: int | None = None,
    set_aside: Callable[[BadRow], None] | None = None,
) -> Iterator[Example]:
    """Yield the examples of a data file, in order, one at a time.

    ``columns`` names the file's column for each of ours (``{"prompt": "question"}``). ``shape`` builds the
    rows that have all its fields; the others are messages, a prompt with its completion, or a text.
    ``system`` is put before conversations that have no system message. Raises DataError, naming file and
    line, for a missing file, an unknown suffix or a bad row; with ``set_aside`` a bad row goes there
    instead, and reading goes on.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such data file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: suffix {path.suffix!r} is not one of {', '.join(sorted(_READERS))}")
    renamed = {ours: theirs for ours, theirs in (columns or {}).items() if ours != theirs}
    for line, row in itertools.islice(reader(path), limit):
        source = f"{path}:{line}"
        try:
            if isinstance(row, BadRow):
                raise DataError(row.error)
            yield parse_row(_renamed(row, renamed, source), source, shape, system)
        except DataError as error:
            if set_aside is None:
                raise
            set_aside(row if isinstance(row, BadRow) else BadRow(source, str(error), row))


def _renamed(row: Row, columns: Mapping[str, str], source: str) -> Row:
    if not columns:
        return row
    values = dict(row)
    for ours, theirs in columns.items():
        if theirs in row:
            values[ours] = row[theirs]
        elif ours not in _OPTIONAL:
            raise DataError(f"{source}: no column {theirs!r}; the row has {', '.join(map(str, row)) or 'none'}")
        else:
            values.pop(ours, None)
    return values


def prompt_key(example: Example) -> int:
    """Return 64 bits, the same on every machine, that prompts share but for case, spacing and punctuation.

    Of a conversation, what the user said counts, and what the system message did (it may hold the text that
    is asked about); of a text, all of it. Marks that compute stay: "3 + 4" isn't "3 - 4", and "1.5" isn't "15".
    """
    context = "\n".join(message.content for message in example.prompt if message.role == "system")
    asked = " ".join(_MARKS.sub("", f"{context}\n{question_of(example)}".lower()).split())
    return int.from_bytes(hashlib.blake2b(asked.encode(), digest_size=8).digest(), "little")


def question_of(example: Example) -> str:
    """Return what the user said, all turns; of a text, all of it."""
    if example.text is not None:
        return example.text
    return "\n".join(message.content for message in example.prompt if message.role == "user")


def share_of(example: Example) -> float:
    """Return a number from 0 to 1 that the prompt determines: the same on every machine, as data grow."""
    return prompt_key(example) / 2**64


def write_examples(path: Path, examples: list[Example]) -> None:
    """Write examples as JSONL (UTF-8, one row a line)."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for example in examples:
            file.write(json.dumps(example.to_row(), ensure_ascii=False) + "\n")


Found = Iterator[tuple[int, "Row | BadRow"]]


def _jsonl_rows(path: Path) -> Found:
    with path.open("rb") as file:
        line = 0
        while raw := file.readline(_MAX_ROW_BYTES + 1):
            line += 1
            if line == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if len(raw) > _MAX_ROW_BYTES:
                error = f"{path}:{line}: row longer than {_MAX_ROW_BYTES} bytes; split it"
                yield line, BadRow(f"{path}:{line}", error, f"{raw[:1000].decode('utf-8', 'replace')} ...")
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(_MAX_ROW_BYTES)
            elif raw.strip():
                yield line, _json_row(raw, f"{path}:{line}")


def _json_row(raw: bytes, source: str) -> Row | BadRow:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError) as error:
        message = f"{source}: not JSON ({error}); one JSON object a line is expected"
        return BadRow(source, message, raw.decode("utf-8", "replace").rstrip("\r\n"))
    if not isinstance(row, dict):
        return BadRow(source, f"{source}: a JSON object is expected, found {type(row).__name__}", row)
    return row


def _json_rows(path: Path) -> Found:
    """Read one JSON document: a list of rows, or question answering in SQuAD's layout (data, paragraphs, qas)."""
    try:
        if path.stat().st_size > _MAX_DOCUMENT_BYTES:
            raise DataError(f"{path}: larger than {_MAX_DOCUMENT_BYTES} bytes; write it as JSONL, one row a line")
        document = json.loads(path.read_bytes())
        squad = isinstance(document, dict) and isinstance(document.get("data"), list)
        rows = list(_squad_rows(document["data"])) if squad else document
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a JSON list of rows, nor SQuAD's layout ({error})") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: a JSON list of rows or SQuAD's layout is expected, found {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        source = f"{path}:{number}"
        is_row = isinstance(row, dict)
        yield number, row if is_row else BadRow(source, f"{source}: a JSON object is expected", row)


def _squad_rows(articles: Iterable[Any]) -> Iterator[Row]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield {
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": [answer["text"] for answer in question["answers"]],
                }


def _delimited_rows(path: Path, delimiter: str) -> Found:
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Quotes in TSV data are mere characters.
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
        reader = csv.DictReader(file, delimiter=delimiter, strict=delimiter == ",", quoting=quoting)
        try:
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    error = f"{path}:{line}: the row doesn't have the header's columns"
                    yield line, BadRow(f"{path}:{line}", error, [value for value in row.values() if value is not None])
                else:
                    yield line, cast(Row, row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}:{reader.line_num + 1}: not a readable row ({error})") from error


def _csv_rows(path: Path) -> Found:
    return _delimited_rows(path, ",")


def _tsv_rows(path: Path) -> Found:
    return _delimited_rows(path, "\t")


def _parquet_rows(path: Path) -> Found:
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


def _text_rows(path: Path) -> Found:
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
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_rows,
}


def parse_row(row: Row, source: str, shape: Shape | None = None, system: str | None = None) -> Example:
    """Return the example that a row means; see :func:`read_examples`. Raises DataError, naming ``source``."""
    if shape is not None and shape.fields and all(field in row for field in shape.fields) and "messages" not in row:
        example = shape.build(row, source)
    elif turns := next((name for name in _TURNS if name in row), None):
        example = Example(_TURNS[turns](row[turns], source), None, source)
    elif "prompt" in row:
        said = [Message("user", string_of(row, "prompt", source))]
        if row.get("completion") is not None:
            said.append(Message("assistant", string_of(row, "completion", source)))
        example = Example(tuple(said), None, source)
    elif "text" in row:
        return Example(text=string_of(row, "text", source), source=source)
    else:
        own = "" if shape is None else f"{', '.join(map(repr, shape.fields))}, "
        found = ", ".join(sorted(str(key) for key in row)) or "nothing"
        raise DataError(f"{source}: {own}'messages', 'prompt' (with 'completion') or 'text' is expected, found {found}")
    if system is not None and example.messages and example.messages[0].role != "system":
        example = replace(example, messages=(Message("system", system), *example.messages))
    if row.get("references") is None:
        return example
    return replace(example, references=strings_of(row, "references", source))


def string_of(row: Row, key: str, source: str) -> str:
    """Return a row's value that must be a string. Raises DataError that names row and key."""
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{source}: {key!r} must be a string, found {type(value).__name__}")
    return value


def strings_of(row: Row, key: str, source: str) -> tuple[str, ...]:
    """Return a row's value that must be a list of strings. Raises DataError that names row and key."""
    values = row[key]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{source}: {key!r} must be a list of strings")
    return tuple(values)


def _messages(value: object, source: str) -> tuple[Message, ...]:
    return _turns(value, source, "role", "content", dict.fromkeys(ROLES), "messages")


def _conversations(value: object, source: str) -> tuple[Message, ...]:
    """ShareGPT's layout: ``{"from": "human" | "gpt" | "system", "value"}``."""
    return _turns(value, source, "from", "value", {"human": "user", "gpt": "assistant"}, "conversations")


def _pairs(value: object, source: str) -> tuple[Message, ...]:
    """A list of ``[speaker, text]``, as of dialogue data: USER and SYSTEM, of whom the latter is the assistant."""
    pairs = isinstance(value, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in value)
    if not pairs:
        raise DataError(f"{source}: 'turns' must be a list of [speaker, text]")
    rows = [{"role": str(speaker).lower(), "content": text} for speaker, text in cast("list[list[object]]", value)]
    return _turns(rows, source, "role", "content", {"system": "assistant", "bot": "assistant"}, "turns")


def _turns(
    value: object, source: str, role_key: str, content_key: str, names: Mapping[str, str | None], what: str
) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{source}: {what!r} must be a non-empty list")
    messages = []
    for turn in value:
        given = turn.get(role_key) if isinstance(turn, dict) else None
        role = (names.get(given) or given) if isinstance(given, str) else None
        content = turn.get(content_key) if isinstance(turn, dict) else None
        if role not in ROLES or not isinstance(content, str):
            raise DataError(f"{source}: each message needs a role ({', '.join(ROLES)}) and a string content")
        messages.append(Message(cast(Role, role), content))
    return tuple(messages)


_TURNS: Final = {"messages": _messages, "conversations": _conversations, "turns": _pairs}
