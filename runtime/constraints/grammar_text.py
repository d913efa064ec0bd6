"""Writing a grammar for llama.cpp (GBNF) and for llguidance (its variant of Lark)."""

from __future__ import annotations

import json
from typing import Final

from edgestill.errors import UnsupportedError
from edgestill.runtime.constraints.grammar import (
    ROOT,
    Alt,
    Chars,
    Lexeme,
    Node,
    Ref,
    Repeat,
    Rules,
    Seq,
    Text,
    children,
)

LLAMA_MAX_REPEATS: Final = 2000
"""llama.cpp refuses a repetition whose count times its new rules is more, and reads a larger maximum as none at all."""


def to_gbnf(rules: Rules) -> str:
    """Return the grammar as GBNF. Raises UnsupportedError for what llama.cpp would refuse or not enforce."""
    for node in rules.values():
        _new_symbols(node)
    return "\n".join(f"{name} ::= {_gbnf(node)}" for name, node in rules.items())


def _gbnf(node: Node) -> str:
    if isinstance(node, Text):
        return '"' + "".join(_gbnf_character(ord(letter)) for letter in node.text) + '"'
    if isinstance(node, Chars):
        if not node.ranges:
            return "."
        parts = [_gbnf_character(a) if a == b else f"{_gbnf_character(a)}-{_gbnf_character(b)}" for a, b in node.ranges]
        return f"[{'^' if node.negated else ''}{''.join(parts)}]"
    if isinstance(node, Ref):
        return node.name
    if isinstance(node, Seq):
        return "(" + " ".join(_gbnf(part) for part in node.parts) + ")"
    if isinstance(node, Alt):
        return "(" + " | ".join(_gbnf(option) for option in node.options) + ")"
    if isinstance(node, Lexeme):
        return _gbnf(node.node)
    if isinstance(node, Repeat):
        inner = _gbnf(node.node)
        return f"({inner}){_times(node)}" if isinstance(node.node, Repeat) else inner + _times(node)
    raise UnsupportedError(f"schema: llama.cpp's grammar can't hold {node.schema}")


def _gbnf_character(code: int) -> str:
    letter = chr(code)
    return letter if letter.isascii() and (letter.isalnum() or letter in " {}:,._") else f"\\U{code:08X}"


def _times(node: Repeat) -> str:
    plain = {(0, 1): "?", (0, None): "*", (1, None): "+"}.get((node.least, node.most))
    if plain is not None:
        return plain
    if node.least == node.most:
        return f"{{{node.least}}}"
    return f"{{{node.least},{'' if node.most is None else node.most}}}"


def _new_symbols(node: Node) -> int:
    """Return at least as many rules as llama.cpp makes of a node. Raises UnsupportedError above its limit."""
    inside = sum(_new_symbols(child) for child in children(node))
    if not isinstance(node, Repeat):
        return inside + 1
    times = node.most or node.least or 1
    if max(inside, 1) * times > LLAMA_MAX_REPEATS:
        raise UnsupportedError(
            f"llama.cpp's grammar repeats at most {LLAMA_MAX_REPEATS} rules, {times} times {inside} are asked for"
        )
    return inside + (1 if node.most is None else node.most - node.least)


def to_lark(rules: Rules) -> str:
    """Return the grammar for llguidance.

    llguidance takes the longest match of a terminal and forgets shorter ones, which GBNF doesn't: so each character
    is a terminal of its own, except in a Lexeme, which ends at its longest match anyway. Nothing is forced: a text
    that the grammar leaves no choice of may still be spelt in any tokens, as with llama.cpp.
    """
    names = {name: "start" if name == ROOT else f"r{number}" for number, name in enumerate(rules)}
    lines = [f"{names[name]}: {_lark(node, names)}" for name, node in rules.items()]
    return "\n".join(['%llguidance {"no_forcing": true}', *lines])


def _lark(node: Node, names: dict[str, str]) -> str:
    if isinstance(node, Text):
        return " ".join(json.dumps(letter, ensure_ascii=False) for letter in node.text) or '""'
    if isinstance(node, Chars | Lexeme):
        return f"/{_regex(node)}/"
    if isinstance(node, Ref):
        return names[node.name]
    if isinstance(node, Seq):
        return "(" + " ".join(_lark(part, names) for part in node.parts) + ")"
    if isinstance(node, Alt):
        return "(" + " | ".join(_lark(option, names) for option in node.options) + ")"
    if isinstance(node, Repeat):
        return f"({_lark(node.node, names)}){_times(node)}"
    return f"%json {node.schema}"


def _regex(node: Node) -> str:
    if isinstance(node, Text):
        return "".join(_regex_character(ord(letter)) for letter in node.text)
    if isinstance(node, Chars):
        if not node.ranges:
            return "(?s:.)"
        inside = "".join(f"{_regex_character(a)}-{_regex_character(b)}" for a, b in node.ranges)
        return f"[{'^' if node.negated else ''}{inside}]"
    if isinstance(node, Lexeme):
        return _regex(node.node)
    if isinstance(node, Seq):
        return "".join(f"(?:{_regex(part)})" for part in node.parts)
    if isinstance(node, Alt):
        return "(?:" + "|".join(_regex(option) for option in node.options) + ")"
    if isinstance(node, Repeat):
        return f"(?:{_regex(node.node)}){_times(node)}"
    raise AssertionError(f"no regular expression: {node}")


def _regex_character(code: int) -> str:
    letter = chr(code)
    return letter if letter.isascii() and letter.isalnum() else f"\\u{{{code:X}}}"
