"""Constrained decoding: answers that satisfy a JSON schema or a grammar, and nothing else.

A matcher follows the answer and says which tokens may come next. llama.cpp's grammar and llguidance are one file
each in :mod:`edgestill.runtime.constraints`; they register themselves there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import InputError

Syntax = Literal["gbnf", "lark"]

_MAX_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class JsonSchema:
    """The answer is one compact JSON text (no white space) that satisfies ``schema`` (draft 2020-12).

    A keyword that can't be enforced is refused when the answer is asked for (UnsupportedError).
    """

    schema: Mapping[str, object]

    def __post_init__(self) -> None:
        if not isinstance(self.schema, Mapping):
            raise InputError(f"a JSON schema is an object, not {json.dumps(self.schema, default=str)[:60]}")


@dataclass(frozen=True)
class Grammar:
    """The answer is a text of the grammar, from its rule ``root`` on (``start`` in Lark).

    ``gbnf`` (llama.cpp's notation) means the same on every engine; ``lark`` is llguidance's variant of Lark.
    """

    text: str
    syntax: Syntax = "gbnf"

    def __post_init__(self) -> None:
        if self.syntax not in ("gbnf", "lark"):
            raise InputError(f"a grammar's syntax is gbnf or lark, not {self.syntax!r}")


Constraint = JsonSchema | Grammar


def read_json_schema(path: Path) -> JsonSchema:
    """Read a schema from a JSON file. Raises InputError when it isn't one."""
    try:
        return JsonSchema(json.loads(_read(path)))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error


def read_grammar(path: Path) -> Grammar:
    """Read a grammar from a file: Lark when it is called ``*.lark``, else GBNF. Raises InputError."""
    return Grammar(_read(path), "lark" if path.suffix == ".lark" else "gbnf")


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable text file ({error})") from error


class Matcher(Protocol):
    """Follows one answer under one constraint.

    It speaks of tokens that add text: ends and special tokens are never among those allowed.
    """

    def few(self) -> bool:
        """Return whether :meth:`allowed` is quick at this point; if not, ask :meth:`allows` first."""

    def allows(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each of ``ids`` whether it may come next."""

    def allowed(self) -> NDArray[np.int64]:
        """Return all ids that may come next, in order."""

    def accept(self, token_id: int) -> None:
        """Take the next token, which is allowed."""

    @property
    def complete(self) -> bool:
        """Whether the answer satisfies the constraint as it stands."""

    @property
    def finished(self) -> bool:
        """Whether it is complete and nothing may follow."""

    def close(self) -> None:
        """Free it; it must not be used after."""


@dataclass(frozen=True)
class ConstraintOutcome:
    """What became of an answer's constraint.

    ``enforced_by`` is ``llama.cpp`` or ``llguidance``, ``note`` why it wasn't the engine's own. ``complete`` is
    True when the text satisfies the constraint; an answer that was cut (length, stop string, cancelled) doesn't.
    """

    enforced_by: str
    complete: bool
    note: str | None = None
