"""The one place where values become words of a shell's line."""

from __future__ import annotations

import shlex


def quoted(*words: str) -> str:
    """Return words as one line of POSIX sh, each exactly itself there: spaces, quotes, ``$`` and newlines too.

    Raises ValueError for a NUL, which no argument can hold.
    """
    for word in words:
        if "\0" in word:
            raise ValueError(f"{word!r} holds a NUL, which no argument can")
    return " ".join(shlex.quote(word) for word in words)
