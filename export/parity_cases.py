"""What the parity check runs: the held-out text, and named hard cases as large as the model's size allows.

A case is planned once, from token ids alone, and holds for every file that is compared with one reference.

Cost: running ``n`` positions of a model of ``b`` bytes costs about ``n * b``, whatever the kernels. Hard cases get
at most ``COST_BYTES`` / b positions of the reference (2,962 for 135M parameters in float32, 340 for 1.2 billion),
between 96 and 3,072, and the file that is checked runs about twice as many: some 30 seconds of two cores where the
limit is reached. Their logits take at most a quarter of the bytes that a reference may have on disk, and what held-out
text leaves free of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final, Literal

import numpy as np

Tokens = tuple[int, ...]
PiecesOf = Callable[[Tokens], Sequence[tuple[int, int]]]

MAX_REFERENCE_BYTES: Final = 1 << 30
"""A reference keeps at most so many bytes of logits on disk."""

MAX_POSITIONS: Final = 4096
"""Held-out text is compared on at most so many positions."""

COST_BYTES: Final = 1_600_000_000_000
HARD_POSITIONS: Final = (96, 3072)
LONGEST: Final = 1024
MOST_SPECIAL_TOKENS: Final = 512
TEXT_TOKENS: Final = 256
"""Unicode, special tokens and the vocabulary are cut into texts of so many tokens."""

BOUNDARY_POSITIONS: Final = 4096 + 64
"""A rotary scaling's boundary is crossed where that takes at most so many positions (attention costs their square)."""

BOUNDARY_MARGIN: Final = 16

LENGTHS: Final = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513)
"""Engines choose kernels by the number of rows: these are around the usual tiles."""

STEP_TOKENS: Final = 64
_CHUNKS: Final = ((0, (1, 7, 64, 33)), (40, (16, 1, 48)), (8, (3, 90)), (64, (1, 128)), (0, (5, 1)))
"""(the position to rewind to, the pieces that follow)."""

LLAMA_CPP_CONTEXT_STEP: Final = 256
"""llama.cpp rounds a session's context up to a multiple of this."""

CaseName = Literal[
    "held-out",
    "built-in",
    "unicode",
    "special-tokens",
    "vocabulary",
    "long",
    "lengths",
    "steps",
    "chunks",
    "rope-boundary",
]


@dataclass(frozen=True)
class Run:
    """One text for an engine: whole, or in ``pieces``.

    A piece (start, length) rewinds to ``start`` tokens and appends the next ``length``; the logits after each
    piece are compared. Without pieces the logits of every position are.
    """

    text: Tokens
    pieces: tuple[tuple[int, int], ...] = ()

    @property
    def positions(self) -> int:
        """How many positions are compared."""
        return len(self.pieces) or len(self.text)

    @property
    def ends(self) -> list[int]:
        """The positions after which the logits of pieces are taken."""
        return [start + length - 1 for start, length in self.pieces]


@dataclass(frozen=True)
class Case:
    """A named part of the check; ``skipped`` says why it has no runs."""

    name: CaseName
    runs: tuple[Run, ...] = ()
    skipped: str = ""


@dataclass(frozen=True)
class RopeBoundary:
    """Rotary scaling (``kind``) of a model that was first trained on ``original`` tokens, fewer than its context.

    ``follows_length``: its frequencies depend on how long the whole sequence is (LongRoPE).
    """

    kind: str
    original: int

    @property
    def follows_length(self) -> bool:
        """Whether frequencies depend on the length of the sequence, not on the position alone."""
        return self.kind in ("longrope", "su")

    @property
    def within(self) -> int:
        """The longest text that every engine can compute as one within the original context."""
        if not self.follows_length:
            return self.original
        return self.original // LLAMA_CPP_CONTEXT_STEP * LLAMA_CPP_CONTEXT_STEP or self.original

    @property
    def always_beyond(self) -> bool:
        """Whether llama.cpp has no session so short that it takes LongRoPE's short factors."""
        return self.follows_length and self.original < LLAMA_CPP_CONTEXT_STEP


def rope_boundary(config: Mapping[str, object]) -> RopeBoundary | None:
    """Return where a config.json's rotary scaling (llama3, longrope, su, yarn) begins to matter, if it does."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(parameters, dict):
        return None
    context = config.get("max_position_embeddings")
    kind = parameters.get("rope_type") or parameters.get("type")
    original = config.get("original_max_position_embeddings") or parameters.get("original_max_position_embeddings")
    if kind not in ("llama3", "longrope", "su", "yarn") or not isinstance(original, int):
        return None
    return RopeBoundary(kind, original) if isinstance(context, int) and 0 < original < context else None


@dataclass(frozen=True)
class HardIds:
    """Token ids of the hard texts (one sequence a text) and of all special and added tokens.

    ``unicode`` is empty where the reference has no tokenizer.
    """

    unicode: tuple[Tokens, ...] = ()
    special: Tokens = ()


@dataclass(frozen=True)
class Model:
    """What of a reference's model decides the plan: sizes in tokens, logits a position, and bytes.

    ``no_boundary`` says why there is no ``boundary`` to cross.
    """

    vocab_size: int
    context_length: int
    weights_bytes: int
    boundary: RopeBoundary | None = None
    no_boundary: str = "config.json has no rotary scaling whose original context is below its context"

    @property
    def affordable(self) -> int:
        """How many positions of this model the hard cases may cost."""
        return COST_BYTES // max(self.weights_bytes, 1)

    @property
    def longest_text(self) -> int:
        """The most tokens of a text, but for the one that crosses a boundary."""
        follows = self.boundary is not None and self.boundary.follows_length
        return min(self.context_length, self.boundary.within) if follows and self.boundary else self.context_length


def within_room(texts: Sequence[Sequence[int]], longest: int, room: int) -> list[Tokens]:
    """Return the texts that are kept: none empty, each cut to ``longest`` tokens, all within ``room``."""
    kept = []
    for ids in texts:
        text = tuple(int(token) for token in ids[: min(longest, max(room, 0))])
        if text:
            kept.append(text)
            room -= len(text)
    return kept


def plan_cases(name: CaseName, texts: Sequence[Sequence[int]], hard: HardIds, model: Model) -> tuple[Case, ...]:
    """Return all cases, those left out with their reason; ``name`` is that of the first one, made of ``texts``.

    The first case is empty when the texts hold no token.
    """
    most = MAX_REFERENCE_BYTES // (4 * model.vocab_size)
    wanted = min(MAX_POSITIONS, sum(min(len(ids), model.longest_text) for ids in texts))
    least, largest = HARD_POSITIONS
    room = max(least, min(largest, model.affordable, max(most // 4, most - wanted)))
    longest = model.longest_text
    own = within_room(texts, longest, min(MAX_POSITIONS, most - room))
    short = min(TEXT_TOKENS, longest)
    endless = [*own, *hard.unicode]
    long = _repeated(endless, min(longest, LONGEST, room // 3))
    cases = [
        Case(name, tuple(map(Run, own))),
        _unicode(hard, short, room // 6),
        _special(hard, endless, short, min(2 * MOST_SPECIAL_TOKENS, room // 3)),
        Case("vocabulary", tuple(map(Run, _pieces_of(_spread(model.vocab_size, room // 6), short)))),
        Case("long", (Run(long),) if long else ()),
    ]
    walked = [long]
    boundary = model.boundary
    if boundary is not None and boundary.always_beyond:
        # llama.cpp can't run these texts as transformers does unless they are longer: each comes twice.
        filler = _repeated(endless, min(model.context_length, boundary.original + TEXT_TOKENS))
        cases = [_extended(case, filler, boundary.original + 1) for case in cases[:-1]]
        walked.append(filler)
        cases.append(Case("long", tuple(map(Run, walked))))
    cases += [
        _walks("lengths", walked, lambda text: _lengths(len(text), model.affordable // 2)),
        _walks("steps", walked, lambda text: [(at, 1) for at in range(min(len(text), STEP_TOKENS))]),
        _walks("chunks", walked, lambda text: _chunks(min(len(text), max(STEP_TOKENS, room // 4)))),
        _boundary(endless, model),
    ]
    return tuple(cases)


def boundary_length(boundary: RopeBoundary | None, context_length: int | None = None) -> int | None:
    """Return the length of a text that crosses a boundary by a margin, within a context (None: any)."""
    if boundary is None:
        return None
    length = boundary.original + BOUNDARY_MARGIN
    return length if context_length is None else min(length, context_length)


def _walks(name: CaseName, texts: Sequence[Tokens], pieces: PiecesOf) -> Case:
    runs = tuple(Run(text, tuple(pieces(text))) for text in texts if text)
    return Case(name, runs, "" if runs else "no text")


def _unicode(hard: HardIds, longest: int, room: int) -> Case:
    if not hard.unicode:
        return Case("unicode", (), "the reference has no tokenizer")
    # A part of each, where there isn't room for all: scripts differ more than sentences of one script.
    share = max(4, room // len(hard.unicode))
    ids = [token for text in hard.unicode for token in text[:share]]
    return Case("unicode", tuple(map(Run, _pieces_of(ids[:room], longest))))


def _special(hard: HardIds, ordinary: Sequence[Tokens], longest: int, room: int) -> Case:
    if not hard.special:
        reason = "the tokenizer has no special tokens" if hard.unicode else "the reference has no tokenizer"
        return Case("special-tokens", (), reason)
    every = -(-2 * len(hard.special) // room)
    chosen = hard.special[::every]
    known = set(hard.special)
    between = [token for text in ordinary for token in text if token not in known] or [hard.special[0]]
    ids = [token for pair in zip(chosen, cycle(between), strict=False) for token in pair]
    return Case("special-tokens", tuple(map(Run, _pieces_of(ids, longest))))


def _spread(rows: int, count: int) -> list[int]:
    """Return at most ``count`` ids spread evenly over ``rows``, the first and the last among them."""
    found: list[int] = np.unique(np.linspace(0, rows - 1, min(rows, max(count, 2))).round().astype(int)).tolist()
    return found


def _pieces_of(ids: Sequence[int], longest: int) -> list[Tokens]:
    return [tuple(ids[at : at + longest]) for at in range(0, len(ids), longest)]


def _repeated(texts: Sequence[Tokens], length: int) -> Tokens:
    """Return ``length`` tokens: the texts one after another, again and again."""
    every = [token for text in texts for token in text]
    return tuple(islice(cycle(every), length)) if every else ()


def _extended(case: Case, filler: Tokens, length: int) -> Case:
    more = tuple(Run((run.text + filler)[: max(length, len(run.text))]) for run in case.runs)
    return Case(case.name, case.runs + more, case.skipped)


def _lengths(longest: int, room: int) -> list[tuple[int, int]]:
    pieces = []
    for length in LENGTHS:
        room -= length
        if length <= longest and room >= 0:
            pieces.append((0, length))
    return pieces


def _chunks(length: int) -> list[tuple[int, int]]:
    pieces = []
    at = 0
    for start, sizes in _CHUNKS:
        at = min(start, at)
        for size in sizes:
            taken = min(size, length - at)
            if taken > 0:
                pieces.append((at, taken))
                at += taken
    return pieces


def _boundary(texts: Sequence[Tokens], model: Model) -> Case:
    boundary, length = model.boundary, boundary_length(model.boundary, model.context_length)
    if boundary is None or length is None:
        return Case("rope-boundary", (), model.no_boundary)
    allowed = min(BOUNDARY_POSITIONS, model.affordable)
    where = f"{boundary.kind} scaling from token {boundary.original:,} on"
    if length > allowed:
        reason = f"{where}: crossing it takes {length:,} positions, the check runs {allowed:,} of a model of this size"
        return Case("rope-boundary", (), reason)
    if length <= boundary.original:
        return Case("rope-boundary", (), f"{where}, past the {model.context_length:,} tokens that are run")
    if boundary.follows_length and 8 * length * model.vocab_size > MAX_REFERENCE_BYTES:
        return Case("rope-boundary", (), f"{where}: the logits of {length:,} positions are too large to hold")
    text = _repeated(texts, length)
    first = max(1, boundary.original - BOUNDARY_MARGIN)
    pieces = [(0, first), *((at, 1) for at in range(first, length))]
    # One piece that ends just past the boundary: positions before it are rotated as those behind it.
    back = max(0, boundary.original - 31)
    pieces.append((back, boundary.original + 1 - back))
    return Case("rope-boundary", (Run(text, tuple(pieces)),) if text else ())
