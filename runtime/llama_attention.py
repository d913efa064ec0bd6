"""Whether llama.cpp computes attention in one pass ("flash attention") or by the matrix of all scores."""

from __future__ import annotations

import platform
from typing import Final

from edgestill.errors import InputError
from edgestill.runtime.engine_options import KvPrecision

_SHORT: Final = 256
_X86: Final = ("x86_64", "AMD64", "i686")
MOST_SCORES: Final = 1 << 23
LONGEST_PIECE: Final = 256
LEAST_PIECE: Final = 32


def choose(kv_precision: KvPrecision, context_length: int, asked: bool | None, machine: str = "") -> bool:
    """Return whether flash attention is on; ``asked`` where the KV cache leaves a choice.

    With a quantised cache it must be, as nothing else reads quantised values; with ``f32`` it is off unless asked for,
    as it rounds to f16. With ``f16`` it is what x86 hasn't in its vectors: ggml's pass over fewer than 64 queries
    converts every value to f32 and back. At 1,000 tokens of 135 million parameters (9 heads of 64, 30 layers; one
    thread, ms of CPU) a token took 63 with it and 38 without, 12 tokens 397 and 89, where the same prompt of 1,000
    took 4,000 and 4,440. So there it is on for short contexts only, in which prompts count for more. ``machine`` is
    the processor's name (as ``platform.machine`` gives it, where empty). Raises InputError for a quantised cache
    without.
    """
    if kv_precision in ("q8_0", "q4_0"):
        if asked is False:
            raise InputError(f"a KV cache in {kv_precision} wants flash attention; leave it on, or take f16")
        return True
    if asked is not None:
        return asked
    if kv_precision == "f32":
        return False
    return (machine or platform.machine()) not in _X86 or context_length <= _SHORT


def longest_piece(heads: int, context_length: int) -> int:
    """Return how many tokens are best read at once: scores are heads x tokens x context floats.

    They take 32 MiB at most, as far as 32 tokens at once allow it (no prompt beyond 1,000 tokens was measured).
    ``heads`` is 0 with flash attention, which keeps no scores.
    """
    if not heads:
        return context_length
    return max(LEAST_PIECE, min(LONGEST_PIECE, MOST_SCORES // (heads * context_length) // LEAST_PIECE * LEAST_PIECE))
