"""Numbers between bounds, as grammar nodes: JSON's notation, shortest form, digits bounded.

What is written stays exact in float64: integers have at most 15 digits, numbers with bounds at most 9 digits
before the point and 6 after. So no reader rounds a number past its bound, and no answer is digits for ever.
"""

from __future__ import annotations

from typing import Final

from edgestill.runtime.constraints.grammar import Alt, Chars, Lexeme, Node, Repeat, Seq, Text, optional

MAX_INTEGER: Final = 10**15 - 1
MAX_BOUND: Final = 10**9 - 1
"""The largest bound of a number that isn't an integer."""

_DIGIT: Final = Chars(((0x30, 0x39),))
_NONZERO: Final = Chars(((0x31, 0x39),))
_MINUS: Final = Text("-")
_SIGN: Final = Chars(((0x2B, 0x2B), (0x2D, 0x2D)))
_FRACTION: Final = Seq((Text("."), Repeat(_DIGIT, 1, 6)))
_ZEROS: Final = Seq((Text("."), Repeat(Text("0"), 1, 6)))
# At most six digits, not all zero: some zeros, the first other digit, and any others.
_NONZERO_FRACTION: Final = Seq(
    (Text("."), Alt(tuple(Seq((Text("0" * zeros), _NONZERO, Repeat(_DIGIT, 0, 5 - zeros))) for zeros in range(6))))
)


def any_integer() -> Node:
    """Return the node of every integer of at most 15 digits."""
    return Lexeme(Seq((optional(_MINUS), Alt((Text("0"), Seq((_NONZERO, Repeat(_DIGIT, 0, 14))))))))


def any_number() -> Node:
    """Return the node of every number of at most 15 digits before the point, 15 after, and an exponent of two."""
    whole = Alt((Text("0"), Seq((_NONZERO, Repeat(_DIGIT, 0, 14)))))
    fraction = Seq((Text("."), Repeat(_DIGIT, 1, 15)))
    exponent = Seq(
        (Chars(((0x45, 0x45), (0x65, 0x65))), optional(Chars(((0x2B, 0x2B), (0x2D, 0x2D)))), Repeat(_DIGIT, 1, 2))
    )
    return Lexeme(Seq((optional(_MINUS), whole, optional(fraction), optional(exponent))))


def integers(lowest: int, highest: int) -> Node | None:
    """Return the node of the integers from ``lowest`` to ``highest`` (None: there are none)."""
    options: list[Node] = []
    if lowest < 0 and (negative := _natural(max(1, -highest), -lowest)) is not None:
        options.append(Seq((_MINUS, negative)))
    if highest >= 0 and (positive := _natural(max(0, lowest), highest)) is not None:
        options.append(positive)
    return Lexeme(Alt(tuple(options))) if options else None


def numbers(lowest: int, highest: int, *, above: bool, below: bool) -> Node | None:
    """Return the node of the decimals between two integers (None: there are none).

    ``above`` leaves ``lowest`` itself out, ``below`` leaves out ``highest``.
    """
    options: list[Node] = []
    if highest > 0 or (highest == 0 and not below and lowest <= 0):
        options += _magnitudes(max(0, lowest), highest, above=above and lowest >= 0, below=below)
    if lowest < 0:
        mirrored = _magnitudes(max(0, -highest), -lowest, above=highest >= 0 or below, below=above)
        options += [Seq((_MINUS, one)) for one in mirrored]
    return Lexeme(Alt(tuple(options))) if options else None


def _magnitudes(lowest: int, highest: int, *, above: bool, below: bool) -> list[Node]:
    """Return the nodes of the unsigned decimals from ``lowest`` to ``highest``, the ends left out as asked."""
    options: list[Node] = []
    if above and lowest < highest:
        options.append(Seq((Text(str(lowest)), _NONZERO_FRACTION)))
    between = _natural(lowest + above, highest - 1)
    if between is not None:
        options.append(Seq((between, optional(_FRACTION))))
    if not below and (lowest < highest or not above):
        options.append(Seq((Text(str(highest)), optional(_ZEROS))))
    return options


def _natural(lowest: int, highest: int) -> Node | None:
    """Return the node of the integers from ``lowest`` to ``highest``, neither negative."""
    options: list[Node] = []
    start = lowest
    while start <= highest:
        end = min(highest, 10 ** len(str(start)) - 1)
        options.append(_same_length(str(start), str(end)))
        start = end + 1
    return Alt(tuple(options)) if options else None


def _same_length(lowest: str, highest: str) -> Node:
    """Return the node of the digit strings between two of one length."""
    rest = len(lowest) - 1
    if set(lowest) <= {"0"} and set(highest) <= {"9"}:
        return Repeat(_DIGIT, len(lowest), len(lowest)) if rest else _DIGIT
    if not rest:
        return _digits(lowest, highest)
    if lowest[0] == highest[0]:
        return Seq((Text(lowest[0]), _same_length(lowest[1:], highest[1:])))
    first, last = int(lowest[0]), int(highest[0])
    options: list[Node] = []
    if set(lowest[1:]) != {"0"}:
        options.append(Seq((Text(lowest[0]), _same_length(lowest[1:], "9" * rest))))
        first += 1
    upper: Node | None = None
    if set(highest[1:]) != {"9"}:
        upper = Seq((Text(highest[0]), _same_length("0" * rest, highest[1:])))
        last -= 1
    if first <= last:
        options.append(Seq((_digits(str(first), str(last)), Repeat(_DIGIT, rest, rest))))
    return Alt((*options, upper)) if upper is not None else Alt(tuple(options))


def _digits(first: str, last: str) -> Node:
    return Text(first) if first == last else Chars(((ord(first), ord(last)),))
