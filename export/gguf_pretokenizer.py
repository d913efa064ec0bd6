"""Choosing by behaviour how llama.cpp is to tokenise, and comparing its tokens with the original's.

llama.cpp knows pre-tokenizers by name only, so a file must name one that splits text as the original
tokenizer does. Nothing is looked up by hash: each plausible way is tried in a file that holds just the
vocabulary, and the first that gives equal ids on hard texts is taken. A custom tokenizer that splits
like a known one is therefore no special case.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tokenizers.normalizers import NFC

from edgestill.artifact import Checkpoint
from edgestill.errors import ModelFileError, UnsupportedError
from edgestill.export.fuzzed_texts import TextSource, fuzzed_texts
from edgestill.export.gguf_candidates import Candidate, candidates
from edgestill.export.gguf_tokenizer import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, GgufTokenizer
from edgestill.export.hard_texts import HARD_TEXTS
from edgestill.export.llama_vocabulary import Vocabulary, open_vocabulary, vocabulary_of
from edgestill.export.source_tokenizer import SourceTokenizer, load_tokenizer
from edgestill.export.tokenizer_limits import Limit

__all__ = ["HARD_TEXTS", "TokenizerMismatch", "choose_pretokenizer", "open_vocabulary", "tokenizer_mismatches"]

_SAMPLED_TOKENS: Final = 4096
_FUZZED_TEXTS: Final = 256
_COMPOSED: Final = NFC()


@dataclass(frozen=True)
class TokenizerMismatch:
    """A text that llama.cpp tokenises otherwise than the original tokenizer."""

    text: str
    expected: tuple[int, ...]
    found: tuple[int, ...]

    def __str__(self) -> str:
        at = next(
            (i for i, (a, b) in enumerate(zip(self.expected, self.found, strict=False)) if a != b),
            min(len(self.expected), len(self.found)),
        )
        around = slice(max(at - 2, 0), at + 4)
        return (
            f"text {self.text[:60]!r}: from token {at} on {list(self.expected[around])} "
            f"became {list(self.found[around])}"
        )


@dataclass(frozen=True)
class ChosenTokenizer:
    """A tokenizer whose ids llama.cpp gives, but for texts that a limit touches."""

    tokenizer: GgufTokenizer
    limits: tuple[Limit, ...]


def tokenizer_mismatches(checkpoint: Checkpoint, gguf_path: Path, texts: Sequence[str]) -> list[TokenizerMismatch]:
    """Return the texts that llama.cpp on ``gguf_path`` tokenises otherwise than tokenizer.json.

    Compared with and without the special tokens that the tokenizer adds. When the tokenizer composes its
    input (NFC), texts are composed first: llama.cpp has no normaliser. Raises ModelFileError when
    llama.cpp can't load the file.
    """
    original = load_tokenizer(checkpoint)
    with open_vocabulary(gguf_path) as vocabulary:
        return mismatches(original, vocabulary, texts)


def choose_pretokenizer(
    original: SourceTokenizer, tokenizer: GgufTokenizer, architecture: str, scratch: Path
) -> GgufTokenizer:
    """Return ``tokenizer`` with the settings under which llama.cpp gives the original's ids.

    Tries the plausible ways in turn on vocabulary-only files in the folder ``scratch`` (removed again).
    Raises UnsupportedError when none fits, with the text where the likeliest one first differed.
    """
    return choose_tokenizer(original, tokenizer, architecture, scratch).tokenizer


def choose_tokenizer(
    original: SourceTokenizer, tokenizer: GgufTokenizer, architecture: str, scratch: Path
) -> ChosenTokenizer:
    """Like :func:`choose_pretokenizer`, and say which kinds of texts llama.cpp can't do in the way that was chosen."""
    texts = _texts(original, tokenizer)
    first: tuple[GgufTokenizer, TokenizerMismatch] | None = None
    best: tuple[int, ChosenTokenizer] | None = None
    unloaded: ModelFileError | None = None
    for candidate in candidates(original, tokenizer):
        try:
            tried = _tried(original, candidate, texts, architecture, scratch)
        except ModelFileError as error:
            # A type that this version of llama.cpp doesn't know.
            unloaded = error
            continue
        if isinstance(tried, TokenizerMismatch):
            first = first or (candidate.tokenizer, tried)
            continue
        if best is None or tried[0] < best[0]:
            best = tried
        if not tried[0] or tokenizer.model == "gpt2":
            break
    if best is None and first is None and unloaded is not None:
        raise unloaded
    if best is None:
        raise UnsupportedError(_refusal(original, first))
    return best[1]


def _tried(
    original: SourceTokenizer, candidate: Candidate, texts: list[str], architecture: str, scratch: Path
) -> TokenizerMismatch | tuple[int, ChosenTokenizer]:
    """Return how many texts that a limit touches differ, with what to write; or a text that no limit explains."""
    with vocabulary_of(candidate.tokenizer, architecture, scratch) as vocabulary:
        forced = _forced_controls(candidate.tokenizer, vocabulary)
        limits = (*candidate.limits, *forced)
        touched = {text for text in texts if any(limit.touches(text) for limit in limits)}
        if found := mismatches(original, vocabulary, [text for text in texts if text not in touched], stop=True):
            return found[0]
        differs = [one.text for one in mismatches(original, vocabulary, [text for text in texts if text in touched])]
        blamed = _blamed(limits, differs)
        told = [limit.note for limit in limits if limit in forced or limit in blamed]
        notes = (*candidate.tokenizer.notes, *told, *_end_notes(candidate.tokenizer, vocabulary))
        return len(differs), ChosenTokenizer(replace(candidate.tokenizer, notes=notes), limits)


def _blamed(limits: Sequence[Limit], differs: Sequence[str]) -> list[Limit]:
    """Return the limits that some differing text is touched by alone, or by no other of these."""
    blamed: list[Limit] = []
    for touching in sorted(([one for one in limits if one.touches(text)] for text in differs), key=len):
        if not any(limit in blamed for limit in touching):
            blamed += touching
    return blamed


def _refusal(original: SourceTokenizer, first: tuple[GgufTokenizer, TokenizerMismatch] | None) -> str:
    if first is None:
        return (
            f"{original.path}: no tokenizer of llama.cpp has both a prefix space and characters without a token; "
            "train the tokenizer with byte fallback or without a dummy prefix, or export to onnx"
        )
    candidate, mismatch = first
    shown = {"llama": "the SentencePiece tokenizer", "t5": "the Unigram tokenizer"}.get(
        candidate.model, f"pre-tokenizer {candidate.pre!r}"
    )
    return (
        f"{original.path}: no tokenizer of llama.cpp gives the same ids; with {shown}, {mismatch}; "
        "export to onnx, or train the tokenizer with a known split pattern"
    )


def _texts(original: SourceTokenizer, tokenizer: GgufTokenizer) -> list[str]:
    """Return what a way is tried on: hard texts, the tokenizer's own tokens, added tokens in text, random texts."""
    kinds = zip(tokenizer.tokens, tokenizer.types, strict=True)
    specials = [text for text, kind in kinds if kind in (CONTROL, USER_DEFINED, UNKNOWN)][:32]
    texts = [*HARD_TEXTS, *_vocabulary_texts(original, tokenizer)]
    texts += [f"{text}Hello {text} there{text}\n{text}{text}" for text in specials[:8]]
    ids = [token_id for token_id, kind in enumerate(tokenizer.types) if kind == NORMAL]
    words = [word for word in original.spellings(ids[:: len(ids) // 1024 + 1]) if word]
    source = TextSource(words, specials, [text for text in HARD_TEXTS if len(text) > 40])
    texts += itertools.islice(fuzzed_texts(0, source), _FUZZED_TEXTS)
    composed = [_COMPOSED.normalize_str(text) for text in texts] if original.composes else texts
    return list(dict.fromkeys(composed))


def _vocabulary_texts(original: SourceTokenizer, tokenizer: GgufTokenizer) -> list[str]:
    """Return texts made of the tokenizer's own tokens, where merges of a custom vocabulary meet."""
    ids = [token_id for token_id, kind in enumerate(tokenizer.types) if kind == NORMAL]
    ids = ids[:: len(ids) // _SAMPLED_TOKENS + 1]
    words = original.spellings(ids)
    # Short words are shown in pairs: that is where a merge that shouldn't be would join them.
    short = [word for word in words if 0 < len(word) <= 4][:48]
    pairs = [first + second for first in short for second in short]
    texts = [glue.join(words[at : at + 64]) for glue in ("", " ") for at in range(0, len(words), 64)]
    return [*texts, *(" ".join(pairs[at : at + 64]) for at in range(0, len(pairs), 64))]


def _forced_controls(chosen: GgufTokenizer, vocabulary: Vocabulary) -> tuple[Limit, ...]:
    """Return the limit of ordinary tokens that llama.cpp takes for control tokens, by their text alone."""
    forced = [
        text
        for token_id, (text, kind) in enumerate(zip(chosen.tokens, chosen.types, strict=True))
        if kind == NORMAL and text[:1] in "<[_\u2581" and vocabulary.is_control(token_id)
    ]
    note = (
        f"llama.cpp takes {', '.join(map(repr, forced))} in a text for a control token; this tokenizer has an "
        "ordinary one: give it token ids for text from outside"
    )
    return (Limit(note, lambda one: any(text in one for text in forced)),) if forced else ()


def _end_notes(chosen: GgufTokenizer, vocabulary: Vocabulary) -> list[str]:
    notes = []
    if chosen.nfc:
        notes.append("the tokenizer composes its input (Unicode NFC), llama.cpp doesn't: give it composed text or ids")
    if chosen.eos_id is None or not vocabulary.ends_generation(chosen.eos_id):
        notes.append("llama.cpp knows no end-of-sequence token of this file")
    return notes


def mismatches(
    original: SourceTokenizer, vocabulary: Vocabulary, texts: Sequence[str], *, stop: bool = False
) -> list[TokenizerMismatch]:
    """Return the texts that ``vocabulary`` tokenises otherwise than the original; with ``stop``, at most one."""
    found = []
    for text in texts:
        composed = _COMPOSED.normalize_str(text) if original.composes else text
        for add_special in (False, True):
            expected = original.encode(composed, add_special=add_special)
            ids = vocabulary.tokenize(composed, add_special=add_special)
            if ids != expected:
                found.append(TokenizerMismatch(text, tuple(expected), tuple(ids)))
                if stop:
                    return found
                break
    return found
