"""The formats of strings that are enforced: dates that exist, times, UUIDs and IPv4 addresses.

RFC 3339 in its plainest form: years from 1000 on, no leap day, times in UTC. Every reader takes those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgestill.runtime.constraints.grammar import Alt, Chars, Node, Repeat, Seq, Text, optional


def _range(first: str, last: str) -> Chars:
    return Chars(((ord(first), ord(last)),))


def _words(*texts: str) -> Alt:
    return Alt(tuple(Text(text) for text in texts))


_DIGIT: Final = _range("0", "9")
_DAYS_28: Final = Alt(
    (Seq((Text("0"), _range("1", "9"))), Seq((Text("1"), _DIGIT)), Seq((Text("2"), _range("0", "8"))))
)
_DAYS_30: Final = Alt((_DAYS_28, Text("29"), Text("30")))
_MONTH_AND_DAY: Final = Alt(
    (
        Seq((_words("01", "03", "05", "07", "08", "10", "12"), Text("-"), Alt((_DAYS_30, Text("31"))))),
        Seq((_words("04", "06", "09", "11"), Text("-"), _DAYS_30)),
        Seq((Text("02-"), _DAYS_28)),
    )
)
_DATE: Final = Seq((_range("1", "9"), Repeat(_DIGIT, 3, 3), Text("-"), _MONTH_AND_DAY))
_SIXTY: Final = Seq((_range("0", "5"), _DIGIT))
_HOURS: Final = Alt((Seq((_range("0", "1"), _DIGIT)), Seq((Text("2"), _range("0", "3")))))
_FRACTION: Final = Seq((Text("."), Repeat(_DIGIT, 1, 3)))
_TIME: Final = Seq((_HOURS, Text(":"), _SIXTY, Text(":"), _SIXTY, optional(_FRACTION), Text("Z")))
_HEX: Final = Chars(((0x30, 0x39), (0x61, 0x66)))
_BYTE: Final = Alt(
    (
        Seq((Text("25"), _range("0", "5"))),
        Seq((Text("2"), _range("0", "4"), _DIGIT)),
        Seq((Text("1"), _DIGIT, _DIGIT)),
        Seq((_range("1", "9"), _DIGIT)),
        _DIGIT,
    )
)


def _hex(count: int) -> Repeat:
    return Repeat(_HEX, count, count)


FORMATS: Final[Mapping[str, Node]] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": Seq((_DATE, Text("T"), _TIME)),
    "uuid": Seq((_hex(8), *(part for count in (4, 4, 4, 12) for part in (Text("-"), _hex(count))))),
    "ipv4": Seq((_BYTE, *(part for _ in range(3) for part in (Text("."), _BYTE)))),
}
