"""Numbers as people write them in options: ``5%``, ``128,512``."""

from __future__ import annotations

from edgestill.errors import InputError


def fraction(option: str, text: str) -> float:
    """Return ``5%`` or ``0.05`` as 0.05. Raises InputError."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 10:
        raise InputError(f"{option} {text!r} is not a fraction; give it like 5% or 0.05")
    return value


def counts(option: str, text: str, least: int) -> list[int]:
    """Return the whole numbers of a comma-separated list, each at least ``least``. Raises InputError."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text!r}: whole numbers with commas between them are expected") from error
    if min(found) < least:
        raise InputError(f"{option} {min(found)} is too small; give at least {least}")
    return found
