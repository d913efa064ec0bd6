"""Which tokens go on with UTF-8: text is cut into tokens anywhere, inside characters too.

llama.cpp's grammar reads the bytes of tokens without checking them: overlong forms, surrogates and bytes that
aren't a continuation pass as some character. What isn't UTF-8 isn't JSON, and its length isn't what was counted.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def unfinished(data: bytes) -> bytes | None:
    """Return the bytes of the character that ``data`` ends inside of (none: it ends after one), None if not UTF-8."""
    try:
        _, used = codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return None
    begun = data[used:]
    # Python's decoder waits for the third byte of a surrogate before it refuses it; no byte would do.
    return None if begun[:1] == b"\xed" and begun[1:2] >= b"\xa0" else begun


class Utf8Filter:
    """Says of each token whether it goes on with UTF-8 after an unfinished character."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._whole = np.array([unfinished(piece) is not None for piece in pieces])
        # After the beginning of a character only a token that begins with a continuation byte goes on.
        self._going_on = [number for number, piece in enumerate(pieces) if piece and 0x80 <= piece[0] < 0xC0]
        self._after: dict[bytes, NDArray[np.bool_]] = {}

    def after(self, begun: bytes) -> NDArray[np.bool_]:
        """Return ``[vocab]``: the tokens that may follow the ``begun`` bytes of a character (none: its end)."""
        if not begun:
            return self._whole
        # Only the first byte, and how many there are, decide what may follow.
        key = begun if len(begun) == 1 else begun[:1] + b"?" * (len(begun) - 1)
        mask = self._after.get(key)
        if mask is None:
            mask = np.zeros(len(self._pieces), bool)
            for number in self._going_on:
                mask[number] = unfinished(begun + self._pieces[number]) is not None
            self._after[key] = mask
        return mask
