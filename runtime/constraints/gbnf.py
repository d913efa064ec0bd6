"""Reading GBNF, llama.cpp's grammar notation, with errors that name the line and column.

llama.cpp parses it too, but prints what is wrong on stderr and says only that something is. The notation is that of
its grammars/README.md, without ``<token>`` elements: an answer's special tokens are never part of its text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from edgestill.errors import InputError
from edgestill.runtime.constraints.grammar import (
    ANY_CHAR,
    EMPTY,
    ROOT,
    Alt,
    Chars,
    Node,
    Ref,
    Repeat,
    Rules,
    Seq,
    Text,
    refuse_left_recursion,
)

MAX_CHARACTERS: Final = 1 << 20
_MAX_DEPTH: Final = 100
_MAX_CODE_POINT: Final = 0x10FFFF
_HEX_LENGTHS: Final = {"x": 2, "u": 4, "U": 8}
_ESCAPES: Final = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_REPEATS: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def parse_gbnf(text: str) -> Rules:
    """Return the rules of a GBNF text.

    Raises InputError, naming line and column, for text that isn't GBNF, a rule that isn't defined or is defined
    twice, no ``root``, or a rule that can begin with itself.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"grammar: {len(text)} characters are more than {MAX_CHARACTERS}; shorten it")
    return _Reader(text).rules()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.depth = 0
        self.mentions: list[tuple[str, int]] = []

    def rules(self) -> Rules:
        rules: dict[str, Node] = {}
        self.skip(newlines=True)
        while self.place < len(self.text):
            start = self.place
            name = self.name()
            self.skip(newlines=False)
            if not self.text.startswith("::=", self.place):
                self.fail("'::=' after the rule's name")
            self.place += 3
            self.skip(newlines=True)
            node = self.alternatives(nested=False)
            if name in rules:
                self.fail(f"one definition of {name!r}, this is its second", start)
            rules[name] = node
            if self.here not in ("\r", "\n", ""):
                self.fail("the end of the rule")
            self.skip(newlines=True)
        for mentioned, place in self.mentions:
            if mentioned not in rules:
                self.fail(f"a rule {mentioned!r} somewhere, which is not defined", place)
        if ROOT not in rules:
            raise InputError("grammar: no rule is called root; the answer begins there")
        refuse_left_recursion(rules, "grammar")
        return rules

    @property
    def here(self) -> str:
        return self.text[self.place : self.place + 1]

    def fail(self, expected: str, place: int | None = None) -> NoReturn:
        place = self.place if place is None else place
        line = self.text.count("\n", 0, place) + 1
        column = place - (self.text.rfind("\n", 0, place) + 1) + 1
        found = repr(self.text[place : place + 12]) if place < len(self.text) else "its end"
        raise InputError(f"grammar, line {line}, column {column}: {expected} is expected, {found} is there")

    def skip(self, *, newlines: bool) -> None:
        while (letter := self.here) and (letter in " \t#" or (newlines and letter in "\r\n")):
            if letter == "#":
                while self.here not in ("", "\r", "\n"):
                    self.place += 1
            else:
                self.place += 1

    def name(self) -> str:
        start = self.place
        while _is_word(self.here):
            self.place += 1
        if self.place == start:
            self.fail("a rule's name (letters, digits and -)")
        return self.text[start : self.place]

    def alternatives(self, *, nested: bool) -> Node:
        options = [self.sequence(nested=nested)]
        while self.here == "|":
            self.place += 1
            self.skip(newlines=True)
            options.append(self.sequence(nested=nested))
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def sequence(self, *, nested: bool) -> Node:
        parts: list[Node] = []
        while True:
            letter = self.here
            if letter and letter in "*+?{":
                if not parts:
                    self.fail("something to repeat")
                least, most = self.repetition()
                parts[-1] = Repeat(parts[-1], least, most)
            elif (read := self.element(letter)) is not None:
                parts.append(read())
            elif letter in ("<", "!"):
                self.fail("text; a token's number or name can't be asked for here, it")
            else:
                break
            self.skip(newlines=nested)
        if not parts:
            return EMPTY
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def element(self, letter: str) -> Callable[[], Node] | None:
        if _is_word(letter):
            return self.reference
        return {'"': self.literal, "[": self.characters, "(": self.group, ".": self.any}.get(letter)

    def reference(self) -> Node:
        start = self.place
        name = self.name()
        self.mentions.append((name, start))
        return Ref(name)

    def any(self) -> Node:
        self.place += 1
        return ANY_CHAR

    def group(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.fail(f"nesting of at most {_MAX_DEPTH} parentheses")
        self.place += 1
        self.skip(newlines=True)
        node = self.alternatives(nested=True)
        if self.here != ")":
            self.fail("')'")
        self.place += 1
        self.depth -= 1
        return Seq((node,))

    def literal(self) -> Node:
        self.place += 1
        letters = []
        while self.here != '"':
            letters.append(chr(self.character()))
        self.place += 1
        return Text("".join(letters))

    def characters(self) -> Node:
        self.place += 1
        negated = self.here == "^"
        self.place += negated
        ranges = []
        while self.here != "]":
            start = self.place
            first = last = self.character()
            if self.here == "-" and self.text[self.place + 1 : self.place + 2] != "]":
                self.place += 1
                last = self.character()
                if last < first:
                    self.fail("a range whose end isn't before its beginning", start)
            ranges.append((first, last))
        self.place += 1
        if not ranges:
            self.fail("a character between [ and ]", self.place - 1)
        return Chars(tuple(ranges), negated)

    def character(self) -> int:
        """Read one character or escape; return its code point."""
        start, letter = self.place, self.here
        if not letter:
            self.fail("the end of the text or character class")
        self.place += 1
        if letter != "\\":
            code = ord(letter)
        elif (kind := self.here) in _HEX_LENGTHS:
            digits = self.text[self.place + 1 : self.place + 1 + _HEX_LENGTHS[kind]]
            if len(digits) < _HEX_LENGTHS[kind] or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
                self.fail(f"\\{kind} and {_HEX_LENGTHS[kind]} hexadecimal digits", start)
            self.place += 1 + len(digits)
            code = int(digits, 16)
        elif kind and kind in _ESCAPES:
            self.place += 1
            code = ord(_ESCAPES[kind])
        else:
            self.fail('an escape of \\x \\u \\U \\t \\r \\n \\\\ \\" \\[ \\] \\-', start)
        if code == 0 or code > _MAX_CODE_POINT or 0xD800 <= code <= 0xDFFF:
            self.fail("a character that text can hold (no NUL, no surrogate)", start)
        return code

    def repetition(self) -> tuple[int, int | None]:
        start, letter = self.place, self.here
        self.place += 1
        if letter != "{":
            return _REPEATS[letter]
        self.skip(newlines=False)
        least = self.number()
        most: int | None = least
        if self.here == ",":
            self.place += 1
            self.skip(newlines=False)
            most = None if self.here == "}" else self.number()
        if self.here != "}":
            self.fail("'}'")
        self.place += 1
        if most is not None and most < least:
            self.fail(f"a repetition of at least {least}, at most no fewer", start)
        return least, most

    def number(self) -> int:
        start = self.place
        while self.here and self.here in "0123456789":
            self.place += 1
        if not 0 < self.place - start < 8:
            self.fail("a number of at most 7 digits", start)
        value = int(self.text[start : self.place])
        self.skip(newlines=False)
        return value


def _is_word(letter: str) -> bool:
    return letter != "" and letter.isascii() and (letter.isalnum() or letter == "-")
