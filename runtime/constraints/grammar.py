"""The one form that every grammar has here: rules of nodes over characters, and what is checked on them.

GBNF text (:mod:`.gbnf`) and JSON schemas (:mod:`.schema_grammar`) become it; :mod:`.grammar_text` writes it for
llama.cpp and for llguidance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from edgestill.errors import InputError

ROOT: Final = "root"


@dataclass(frozen=True)
class Text:
    """These characters, one after another; the empty text is allowed."""

    text: str


@dataclass(frozen=True)
class Chars:
    """One character in (or, ``negated``, outside) the code point ranges ``(first, last)``, both inclusive."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False


@dataclass(frozen=True)
class Ref:
    """Another rule, by name."""

    name: str


@dataclass(frozen=True)
class Seq:
    """All of these, in order."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    """One of these."""

    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """``node`` at least ``least`` times and at most ``most`` (None: without end)."""

    node: Node
    least: int
    most: int | None


@dataclass(frozen=True)
class Lexeme:
    """A node without references whose text ends where the longest match ends (a JSON string or number)."""

    node: Node


@dataclass(frozen=True)
class Foreign:
    """A JSON schema (as JSON text) that llguidance compiles itself; llama.cpp's grammar can't hold it."""

    schema: str


Node = Text | Chars | Ref | Seq | Alt | Repeat | Lexeme | Foreign
Rules = Mapping[str, Node]

ANY_CHAR: Final = Chars((), negated=True)
EMPTY: Final = Text("")


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes directly inside a node."""
    if isinstance(node, Seq):
        return node.parts
    if isinstance(node, Alt):
        return node.options
    if isinstance(node, Repeat | Lexeme):
        return (node.node,)
    return ()


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and everything inside it."""
    yield node
    for child in children(node):
        yield from walk(child)


def optional(node: Node) -> Node:
    """Return a node that may be left out."""
    return Repeat(node, 0, 1)


def refuse_left_recursion(rules: Rules, what: str) -> None:
    """Raise InputError when a rule can begin with itself: no parser here could read it."""
    empty = _may_be_empty(rules)
    begins = {name: {ref for ref in _first_refs(node, empty)} for name, node in rules.items()}
    done: set[str] = set()
    for start in rules:
        path: list[str] = []
        waiting: list[tuple[str, bool]] = [(start, False)]
        while waiting:
            name, leaving = waiting.pop()
            if leaving:
                path.pop()
                done.add(name)
            elif name in path:
                raise InputError(
                    f"{what}: {' -> '.join([*path[path.index(name) :], name])} begins with itself (left recursion); "
                    "write the repeated part after something that takes a character"
                )
            elif name not in done:
                path.append(name)
                waiting.append((name, True))
                waiting += [(ref, False) for ref in begins[name]]


def _may_be_empty(rules: Rules) -> frozenset[str]:
    found: frozenset[str] = frozenset()
    while True:
        now = frozenset(name for name, node in rules.items() if _empty(node, found))
        if now == found:
            return found
        found = now


def _empty(node: Node, empty: frozenset[str]) -> bool:
    if isinstance(node, Text):
        return not node.text
    if isinstance(node, Ref):
        return node.name in empty
    if isinstance(node, Seq):
        return all(_empty(part, empty) for part in node.parts)
    if isinstance(node, Alt):
        return any(_empty(option, empty) for option in node.options)
    if isinstance(node, Repeat):
        return node.least == 0 or _empty(node.node, empty)
    return isinstance(node, Lexeme) and _empty(node.node, empty)


def _first_refs(node: Node, empty: frozenset[str]) -> Iterator[str]:
    """Yield the rules that a node may begin with."""
    if isinstance(node, Ref):
        yield node.name
    elif isinstance(node, Seq):
        for part in node.parts:
            yield from _first_refs(part, empty)
            if not _empty(part, empty):
                break
    else:
        for child in children(node):
            yield from _first_refs(child, empty)
