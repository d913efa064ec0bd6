"""The loop of a greedy answer over llama.cpp, without Python between its tokens.

It is a small library of C (token_loop.c), compiled when edgestill is installed where there is a C compiler. Without it
answers are the same, and each token takes 2 to 4 us more: 1 to 2% with a model of 260,000 parameters, nothing that
counts with one of 100 million. What does count there is other threads: a thread that computes in Python keeps the
interpreter's lock for 5 ms at a time, and a loop in Python waits for it after every token, so that 64 tokens of 135
million parameters took 1.4 times as long (benchmarks/bench/busy_thread.py).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

_MOST_TOKENS: Final = 256
_LONGEST: Final = 0.1  # seconds: Ctrl-C waits so long


class Decoded(NamedTuple):
    """Tokens that were chosen, what each took in seconds, llama.cpp's code (0: good), and whether a logit was NaN."""

    tokens: list[int]
    seconds: list[float]
    code: int
    not_numbers: bool


class _Loop(ctypes.Structure):
    _fields_ = (
        ("decode", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("one", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
        ("cancelled", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("seconds", ctypes.c_void_p),
        ("longest", ctypes.c_double),
        ("vocabulary", ctypes.c_int32),
        ("end_count", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("made", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("not_numbers", ctypes.c_int32),
    )


class TokenLoop:
    """The loop for one context of llama.cpp.

    ``decode`` is llama_decode, ``one`` a llama_batch of one token, which the loop writes its tokens to; both, and what
    they point to, must live as long as this does.
    """

    def __init__(self, library: Any, decode: Any, context: int, one: Any, vocabulary: int) -> None:
        self._run = library.edgestill_decode_greedily
        self._kept = (decode, one)
        self._tokens = (ctypes.c_int32 * _MOST_TOKENS)()
        self._seconds = (ctypes.c_double * _MOST_TOKENS)()
        self._loop = _Loop(
            decode=ctypes.cast(decode, ctypes.c_void_p).value,
            context=context,
            one=ctypes.addressof(one),
            tokens=ctypes.addressof(self._tokens),
            seconds=ctypes.addressof(self._seconds),
            longest=_LONGEST,
            vocabulary=vocabulary,
        )
        self._pointer = ctypes.pointer(self._loop)

    def decode(self, logits: int, count: int, ends: Iterable[int], cancelled: bytearray) -> Decoded:
        """Go on from the token in the batch: compute it, choose the likeliest, and so on, ``count`` tokens at most.

        It comes back earlier after a token of ``ends``, when ``cancelled[0]`` isn't 0 any more, and now and then, so
        that Python can look after its signals. ``logits`` is the address that llama.cpp writes to.
        """
        loop = self._loop
        numbers = (*ends,)
        listed = (ctypes.c_int32 * len(numbers))(*numbers)
        flag = ctypes.c_uint8.from_buffer(cancelled)
        loop.logits = logits
        loop.cancelled = ctypes.addressof(flag)
        loop.ends = ctypes.addressof(listed)
        loop.end_count = len(numbers)
        loop.count = min(count, _MOST_TOKENS)
        self._run(self._pointer)
        made = loop.made
        return Decoded(self._tokens[:made], self._seconds[:made], loop.code, bool(loop.not_numbers))


@functools.cache
def token_loop_library(batch_bytes: int) -> Any:
    """Return the compiled library; None where there is none, or where llama_batch has another size by now."""
    try:
        library = ctypes.CDLL(str(Path(__file__).parent / "_token_loop.abi3.so"))
        library.edgestill_batch_bytes.restype = library.edgestill_loop_bytes.restype = ctypes.c_size_t
        fits = library.edgestill_batch_bytes() == batch_bytes
        fits = fits and library.edgestill_loop_bytes() == ctypes.sizeof(_Loop)
        library.edgestill_decode_greedily.restype = None
    except (OSError, AttributeError):
        return None
    return library if fits else None
