"""EngineOptions: how a model is held in memory, where its engine leaves a choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, Literal, cast, get_args

from edgestill.errors import InputError

KvPrecision = Literal["f32", "f16", "q8_0", "q4_0"]

KV_BYTES: Final = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of one value in a KV cache. The quantised ones are ggml's blocks of 32 values with a scale in float16."""


@dataclass(frozen=True)
class EngineOptions:
    """What may be asked of an engine beyond threads and context; the defaults are every engine's own.

    ``mmap``: weights are mapped from the file, not read into memory. ``kv_precision``: that of the KV cache.
    ``flash_attention``: attention without the matrix of all scores (None: as the engine finds best).
    ``huge_pages``: what was loaded is moved into huge pages. ``arena``: the engine keeps an arena for its buffers.
    ``trace``: the engine notes what it allocates while loading, for the memory ledger. Raises InputError for a
    ``kv_precision`` that no engine has.
    """

    mmap: bool = True
    kv_precision: KvPrecision | None = None
    flash_attention: bool | None = None
    huge_pages: bool = True
    arena: bool = True
    trace: bool = False

    def __post_init__(self) -> None:
        kv_precision_named(self.kv_precision)

    def asked(self) -> Iterator[str]:
        """Yield the names of the options that an engine must have, as they differ from the defaults."""
        for field in fields(self):
            if field.name != "trace" and getattr(self, field.name) != field.default:
                yield field.name


def kv_precision_named(text: str | None) -> KvPrecision | None:
    """Return ``text`` when it names a precision of a KV cache (None: the engine's own). Raises InputError."""
    for known in get_args(KvPrecision):
        if text == known:
            return cast("KvPrecision", known)
    if text is not None:
        raise InputError(f"kv_precision {text!r} is unknown; choose one of {', '.join(get_args(KvPrecision))}")
    return None


DEFAULTS: Final = EngineOptions()
"""Every engine's own choice."""
