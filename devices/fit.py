"""Will it fit: how much memory a model needs on a device, told from its file before anything is sent there.

The parts are those of the bench's memory ledger (:mod:`edgestill.runtime.ledger`), each by a formula that was set
against ledgers of models of 260 thousand and 135 million parameters in GGUF and ONNX on x86-64, from short prompts to
full contexts. What is *needed* is less than the peak that a bench shows: pages of the file that are read once, to be
packed anew for the processor, stay in memory as long as nobody wants the room.

Three verdicts: it fits; it thrashes (everything of its own fits, but not the mapped weights beside it, so that each
token pages them in again); it doesn't fit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from edgestill.devices.model_facts import ModelFacts, Weights
from edgestill.devices.profile import Profile
from edgestill.figure import Figure
from edgestill.plan_results import Verdict
from edgestill.runtime.engine_options import KvPrecision
from edgestill.runtime.llama_attention import LEAST_PIECE, LONGEST_PIECE, MOST_SCORES, choose, longest_piece

Host = Literal["python", "native"]
Kind = Literal["own", "mapped", "reclaimable", "slack"]

_COUNTED: Final[tuple[Kind, ...]] = ("own", "mapped", "reclaimable")
_NEEDED: Final[tuple[Kind, ...]] = ("own", "mapped", "slack")

_PIECE: Final = 512
_ONNX_PIECE: Final = 128
_ONNX_LOGITS: Final = 1 << 23
_KV_STEP: Final = 256

_HOSTS: Final = {("python", "gguf"): (44e6, 8e6), ("native", "gguf"): (11e6, 4e6), ("python", "onnx"): (72e6, 14e6)}
"""Bytes of the program, the engine's libraries and what it imports, and how far that is off.

PSS divides what is shared among those that share it: alone on a device it is the most that was seen on a busy machine.
"""

_KERNEL: Final = {("python", "gguf"): (17e6, 5e6), ("native", "gguf"): (5e6, 3e6), ("python", "onnx"): (13e6, 6e6)}
"""Bytes that the kernel keeps for a program besides: page tables, threads, and its own files in the page cache."""
_UNTOLD: Final = 0.35
"""The share of weights that are only read once which must have room too: until it has seen which pages are read again,
the kernel drops those as well (with less, limits of 160 to 176 MiB paged for 20 tokens, or for as long as we looked).
"""

_PACKED_ON: Final[Mapping[int, tuple[str, ...]]] = {
    2: ("avx2", "dotprod", "i8mm", "v"), 8: ("dotprod", "i8mm", "v"), 10: ("avx512f", "v"),
    12: ("avx2", "dotprod", "i8mm", "v"), 13: ("dotprod", "i8mm"), 14: ("dotprod", "i8mm"),
    20: ("avx2", "dotprod", "v"), 39: ("avx2", "dotprod"),
}  # fmt: skip
"""ggml's types that llama.cpp packs anew, and the vector extensions of which one is enough for it."""


@dataclass(frozen=True)
class Setting:
    """How a model is run: context in tokens, the KV cache's precision (None: the engine's own), and by what.

    ``mmap``: weights are mapped from the file (llama.cpp).
    """

    context: int
    kv_precision: KvPrecision | None = None
    host: Host = "python"
    mmap: bool = True


@dataclass(frozen=True)
class Part:
    """One line: bytes, and how far they may be off.

    ``own`` memory can't be given back, ``mapped`` is read at each token,
    ``reclaimable`` only while loading; ``slack`` is what the kernel needs beside mapped weights to keep them there.
    """

    name: str
    kind: Kind
    bytes: float
    error: float


@dataclass(frozen=True)
class Need:
    """What a model needs in a setting: its parts."""

    parts: tuple[Part, ...]

    def total(self, *kinds: Kind) -> float:
        """Return the bytes of some kinds of parts; where none is named of all that PSS counts."""
        return sum(part.bytes for part in self.parts if part.kind in (kinds or _COUNTED))

    def error(self, *kinds: Kind) -> float:
        """Return how far that total may be off: the parts' errors are taken as independent."""
        return math.sqrt(sum(part.error**2 for part in self.parts if part.kind in (kinds or _COUNTED)))

    def figure(self, *kinds: Kind) -> Figure:
        """Return that total with its stated error as the interval."""
        total, error = self.total(*kinds), self.error(*kinds)
        chosen = [part for part in self.parts if part.kind in (kinds or _COUNTED)]
        largest = sorted(chosen, key=lambda part: -part.bytes)
        said = ", ".join(f"{part.name} {part.bytes / 1e6:,.1f} MB" for part in largest[:3])
        return Figure(
            value=total,
            unit="bytes",
            n=1,
            ci95=(max(0.0, total - error), total + error),
            basis="derived",
            source=f"from the file: {said}" + (", ..." if len(largest) > 3 else ""),
        )

    @property
    def needed(self) -> Figure:
        """What must be in memory for it to decode without paging."""
        return self.figure(*_NEEDED)

    @property
    def peak(self) -> Figure:
        """What a bench shows as peak PSS where memory is plentiful."""
        return self.figure()


@dataclass(frozen=True)
class Fit:
    """The verdict on one model, and why in one line.

    ``likely`` is False where the margin is within the stated error. ``largest_context`` is the most tokens that fit
    (None: not even one).
    """

    verdict: Verdict
    reason: str
    need: Need
    free_bytes: float
    likely: bool
    largest_context: int | None


def packs_anew(weights: Weights, isa_features: tuple[str, ...]) -> bool:
    """Tell whether llama.cpp makes a second copy of such weights on a processor with these vector extensions."""
    enough = _PACKED_ON.get(weights.type, ())
    return weights.rows % (8 if "avx2" in isa_features else 4) == 0 and any(one in isa_features for one in enough)


def need_of(facts: ModelFacts, setting: Setting, isa: str, isa_features: tuple[str, ...] = ()) -> Need:
    """Return what a model needs with its context full, on a processor of this instruction set.

    With vector extensions unknown (empty, other than on RISC-V) no second copy of weights is counted.
    """
    base, off = _HOSTS.get((setting.host, facts.kind), _HOSTS["python", facts.kind])
    parts = [Part("program and engine", "own", base, off)]
    parts += _gguf(facts, setting, isa, isa_features) if facts.kind == "gguf" else _onnx(facts, setting)
    return Need(tuple(part for part in parts if part.bytes > 0))


def _gguf(facts: ModelFacts, setting: Setting, isa: str, isa_features: tuple[str, ...]) -> list[Part]:
    context = setting.context
    layers = sum(one.packed for one in facts.weights if packs_anew(one, isa_features))
    head = facts.head.packed if facts.head is not None and packs_anew(facts.head, isa_features) else 0
    packed = layers + head
    # A table of which only rows are looked up needn't stay; one that is the head too does, unless that was packed anew.
    passing = layers + (head if not facts.tied else 0) + (facts.embedding_bytes if head or not facts.tied else 0)
    whole = facts.mapped_bytes - passing
    kept: list[Part] = [Part("weights packed anew", "own", packed, 0.02 * packed)]
    if setting.mmap:
        kept.append(Part("weights in the file", "mapped", whole, 0.02 * whole))
        beside, beside_off = _KERNEL[setting.host, "gguf"]
        slack = beside + _UNTOLD * passing
        kept.append(Part("room for the kernel to tell pages apart", "slack", slack, beside_off + 0.1 * passing))
        kept.append(Part("weights in the file, hardly read again", "reclaimable", passing, 0.02 * passing))
    else:
        kept.append(Part("weights read into memory", "own", whole + passing - layers, 0.02 * whole))
    cache = facts.kv_values * facts.kv_bytes(setting.kv_precision) * (-(-context // _KV_STEP) * _KV_STEP)
    precision: KvPrecision = setting.kv_precision or ("f32" if facts.all_float32 else "f16")
    flash = choose(precision, context, None, isa)
    compute = 2.2e6 + _piece_bytes(facts, context, 0 if flash else facts.heads) + 4 * facts.vocabulary
    structures = 1.5e6 + 9.1 * facts.metadata_bytes
    return [
        *kept,
        Part("KV cache", "own", cache, 0.005 * cache),
        Part("compute buffers", "own", compute, 0.3 * compute),
        Part("vocabulary and structures", "own", structures, 0.35 * structures),
    ]


def _piece_bytes(facts: ModelFacts, context: int, heads: int) -> float:
    """Return what reading the largest piece of a prompt takes; ``heads`` is 0 with flash attention.

    A longer context makes pieces shorter, in steps, and may so take a little less than a shorter one. It isn't counted:
    what fits shall fit with any context below.
    """
    each = 4 * (6 * facts.hidden + 3 * facts.feed_forward)
    # Where pieces of a length are last read whole, and here.
    lengths = range(LEAST_PIECE, LONGEST_PIECE + 1, LEAST_PIECE) if heads else ()
    ends = [MOST_SCORES // (heads * piece) for piece in lengths]
    tried = [context, *(end for end in ends if 0 < end < context)]
    pieces = [(min(_PIECE, longest_piece(heads, at), at), at) for at in tried]
    # Scores are held in float32, and again in float16 as the other side of the product with the values.
    return max(piece * (each + 6.0 * heads * at) for piece, at in pieces)


def _onnx(facts: ModelFacts, setting: Setting) -> list[Part]:
    context = setting.context
    packed = sum(one.packed for one in facts.weights)
    cache = facts.kv_values * facts.kv_item * context
    chunk = max(32, min(_ONNX_PIECE, _ONNX_LOGITS // max(facts.vocabulary, 1)))
    piece = min(chunk, context)
    compute = 1e6 + piece * 80 * facts.hidden + 4 * facts.heads * piece * context
    # Logits of every position of a piece, while those of the piece before are still there.
    logits = 4 * facts.vocabulary * piece * (2 if context > chunk else 1)
    structures = 0.5e6 + 0.18e6 * facts.layers
    tokenizer = 0.4e6 + 4.0 * facts.tokenizer_bytes
    return [
        Part("weights packed by onnxruntime", "own", packed, 0.03 * packed),
        Part("weights in the file", "reclaimable", facts.mapped_bytes, 0.05 * facts.mapped_bytes),
        Part("room for the kernel", "slack", *_KERNEL["python", "onnx"]),
        Part("KV cache", "own", cache, 0.01 * cache),
        Part("compute buffers", "own", compute, 0.3 * compute),
        Part("logits of a prompt", "own", logits, 0.3 * logits),
        Part("graph", "own", structures, 0.5 * structures),
        Part("tokenizer", "own", tokenizer, 0.35 * tokenizer),
    ]


def fit(
    facts: ModelFacts,
    setting: Setting,
    free_bytes: float,
    isa: str,
    isa_features: tuple[str, ...] = (),
    *,
    longest: int | None = None,
) -> Fit:
    """Judge whether a model fits into so much free memory.

    ``longest`` is the most tokens that the model is made for (None: the setting's own).
    """
    need = need_of(facts, setting, isa, isa_features)
    verdict = _verdict(need, free_bytes)
    own, needed = need.total("own"), need.total(*_NEEDED)
    decisive, off = (own, need.error("own")) if verdict == "doesn't fit" else (needed, need.error(*_NEEDED))
    if verdict == "fits":
        reason = f"it needs {_megabytes(needed)}, {_megabytes(free_bytes)} are free"
        if need.total() > free_bytes:
            reason += "; its first tokens page, until what was read once to be packed anew has made room"
    elif verdict == "thrashes":
        mapped = need.total("mapped")
        reason = (
            f"its mapped weights of {_megabytes(mapped)} don't stay in the {_megabytes(max(0.0, free_bytes - own))} "
            f"that are left beside {_megabytes(own)} of its own: each token reads them from disk again"
        )
    else:
        largest = max((part for part in need.parts if part.kind == "own"), key=lambda part: part.bytes)
        reason = (
            f"it needs {_megabytes(own)} of its own, {_megabytes(free_bytes)} are free; "
            f"the largest part is {largest.name}, {_megabytes(largest.bytes)}"
        )
    return Fit(
        verdict=verdict,
        reason=reason,
        need=need,
        free_bytes=free_bytes,
        likely=abs(decisive - free_bytes) > off,
        largest_context=largest_context(facts, setting, free_bytes, isa, isa_features, longest=longest),
    )


def fit_on(facts: ModelFacts, setting: Setting, profile: Profile, *, longest: int | None = None) -> Fit | None:
    """Judge whether a model fits on a kind of device; None where the profile doesn't say how much memory is free."""
    if profile.free_ram_bytes is None:
        return None
    return fit(facts, setting, profile.free_ram_bytes.value, profile.isa, profile.isa_features, longest=longest)


def _verdict(need: Need, free_bytes: float) -> Verdict:
    if need.total("own") > free_bytes:
        return "doesn't fit"
    return "thrashes" if need.total(*_NEEDED) > free_bytes else "fits"


def largest_context(
    facts: ModelFacts,
    setting: Setting,
    free_bytes: float,
    isa: str,
    isa_features: tuple[str, ...] = (),
    *,
    longest: int | None = None,
) -> int | None:
    """Return the most tokens of context with which a model fits, at most ``longest``; None where none do."""
    most = max(1, longest or setting.context)

    def fits(context: int) -> bool:
        tried = dataclasses.replace(setting, context=context)
        return _verdict(need_of(facts, tried, isa, isa_features), free_bytes) == "fits"

    if fits(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low or None


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"
