"""What each token of a model adds to an answer's text, in bytes, and which tokens may be part of it."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import UnsupportedError
from edgestill.runtime.engine import Engine
from edgestill.runtime.tokenizer import BytePieces, FastTokenizer, Tokenizer

_NUL: Final = b"\0"


class Vocabulary:
    """The tokens of one engine and tokenizer.

    ``size`` is the engine's, which may be padded beyond the tokenizer's. ``drops_space`` says that a space at the
    beginning of an answer is lost when it is decoded.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.size = engine.vocab_size
        self.end_ids = np.array(sorted(one for one in tokenizer.eos_ids if one < self.size), np.int64)

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each token, none for what isn't text (special tokens, ends, padding)."""
        tokenizer = self.tokenizer
        silent = tokenizer.special_ids | tokenizer.eos_ids
        known = min(self.size, tokenizer.vocab_size)
        if isinstance(tokenizer, BytePieces) and tokenizer.joins_bytes:
            read = tokenizer.token_bytes
        else:
            read = _decoded(tokenizer)
        pieces = [b"" if number in silent else read(number) for number in range(known)]
        return pieces + [b""] * (self.size - known)

    @functools.cached_property
    def text_ids(self) -> NDArray[np.bool_]:
        """For each token whether it may be part of an answer: it adds text, without NUL."""
        return np.array([bool(piece) and _NUL not in piece for piece in self.pieces])

    @functools.cached_property
    def spaced_ids(self) -> NDArray[np.bool_]:
        """For each token whether its text would be cut at the beginning of an answer."""
        tokenizer = self.tokenizer
        if isinstance(tokenizer, BytePieces) and tokenizer.joins_bytes and not tokenizer.strips_first_space:
            return np.zeros(self.size, bool)
        return np.array([piece.startswith(b" ") for piece in self.pieces])


def _decoded(tokenizer: Tokenizer) -> functools.partial[bytes]:
    """Return the function from a token to its bytes for a tokenizer.json that isn't byte-level."""
    if not isinstance(tokenizer, FastTokenizer):
        raise UnsupportedError(
            f"a constraint needs the bytes of each token, which {type(tokenizer).__name__} doesn't say"
        )
    from edgestill.runtime.constraints.guidance import library

    try:
        reader = library().LLTokenizer(tokenizer.to_json())
    except ValueError as error:
        raise UnsupportedError(f"the tokenizer's tokens have no bytes of their own ({error})") from error
    return functools.partial(lambda number: bytes(reader.decode_bytes([number])))
