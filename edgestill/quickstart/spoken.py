"""How people say numbers, units and times of day, with the value that each stands for.

Times are written ``HH:MM`` (24 hours), or ``+N`` for "in N minutes". An hour that is said without "am"
means the one from noon to midnight: "at eight" is 20:00, "at twelve" is 12:00.
"""

from __future__ import annotations

from typing import Final, Literal

from edgestill.quickstart.home import SlotValue, Unit

_ONES: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS: Final = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_FRACTIONS: Final = {25: "a quarter", 50: "half", 75: "three quarters"}


def number_in_words(number: int) -> str:
    """Return a number from 0 to 999 in English words ("one hundred eighty", "twenty one")."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return f"{_TENS[number // 10]} {_ONES[number % 10]}" if number % 10 else _TENS[number // 10]
    rest = f" {number_in_words(number % 100)}" if number % 100 else ""
    return f"{_ONES[number // 100]} hundred{rest}"


def ways_to_say(value: SlotValue, unit: Unit | Literal["bare"]) -> tuple[str, ...]:
    """Return the ways to say a value with its unit (``bare``: the number alone)."""
    if isinstance(value, str):
        return (value,)
    digits, words = str(value), number_in_words(value)
    match unit:
        case "percent":
            fraction = (_FRACTIONS[value],) if value in _FRACTIONS else ()
            return (f"{digits} percent", f"{digits}%", f"{words} percent", *fraction)
        case "degrees":
            return (f"{digits} degrees", f"{words} degrees")
        case "minutes":
            plural = "" if value == 1 else "s"
            hour = {30: ("half an hour",), 60: ("an hour",)}.get(value, ())
            return (f"{digits} minute{plural}", f"{words} minute{plural}", *hour)
        case "cups":
            plural = "" if value == 1 else "s"
            return (f"{digits} cup{plural}", f"{words} cup{plural}")
        case "level" | "channel" | "color" | "bare":
            return (digits, words)


def _clock(hour: int, minute: int = 0) -> str:
    return f"{hour % 24:02d}:{minute:02d}"


def _times() -> tuple[tuple[str, str], ...]:
    said = [("at noon", "12:00"), ("at midnight", "00:00")]
    for hour in range(1, 13):
        said += [(f"at {_ONES[hour]}", _clock(hour % 12 + 12)), (f"at {hour} pm", _clock(hour % 12 + 12))]
        said += [(f"at {hour}:30 pm", _clock(hour % 12 + 12, 30)), (f"at {hour} am", _clock(hour % 12))]
    said += [(f"in {minutes} minutes", f"+{minutes}") for minutes in (5, 10, 15, 20, 30, 45)]
    said += [("in half an hour", "+30"), ("in an hour", "+60")]
    return tuple(said)


# (what is said, the time it stands for)
TIMES: Final = _times()
