"""Does a file's tokenizer give the original's ids, and the same bytes back?

The original is the checkpoint's tokenizer.json (or that of the file that another is made from); the other is what the
artifact's runtime uses: llama.cpp's own vocabulary for GGUF, the tokenizer.json in the folder for ONNX.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgestill.export.parity_texts import hard_texts, texts_with_tokens
from edgestill.results import TokenizerMismatch, TokenizerParity
from edgestill.runtime.tokenizer import Tokenizer

_SHOWN: Final = 5
_SHOWN_CHARACTERS: Final = 60
_SHOWN_IDS: Final = 8
_SPECIAL_IN_TEXT: Final = 16
_SPELLED: Final = 1024
_SPELLED_TOGETHER: Final = 32


@dataclass(frozen=True)
class TokenizedText:
    """A text with the original's ids, plain and with the special tokens that it adds, and the bytes of the former."""

    text: str
    plain: tuple[int, ...]
    full: tuple[int, ...]
    decoded: bytes


@dataclass(frozen=True)
class OriginalTokens:
    """What the original tokenizer (``name`` says whose) makes of a corpus; ``special`` are its special tokens' texts.

    ``sha256`` is that of its tokenizer.json (None: it is inside a GGUF file).
    """

    name: str
    sha256: str | None
    texts: tuple[TokenizedText, ...]
    special: tuple[str, ...]


def original_tokens(name: str, sha256: str | None, tokenizer: Tokenizer) -> OriginalTokens:
    """Tokenise the corpus: hard texts, special tokens in text, and texts spelled with the tokenizer's own tokens."""
    special = [text for number in sorted(tokenizer.special_ids) if (text := _spelled(tokenizer, number))]
    every = -(-len(special) // _SPECIAL_IN_TEXT) or 1
    corpus = [*hard_texts(), *texts_with_tokens(special[::every]), *_spelled_texts(tokenizer)]
    texts = tuple(_tokenized(tokenizer, text) for text in dict.fromkeys(corpus))
    return OriginalTokens(name, sha256, texts, tuple(special))


def compare_tokenizer(
    original: OriginalTokens, tokenizer: Tokenizer, runtime: str, notes: Sequence[str], *, same_file: bool = False
) -> TokenizerParity:
    """Tokenise and decode the corpus with ``tokenizer`` and count what is equal.

    ``notes`` are the artifact's own: a mismatch that one of them announces is counted as such.
    """
    equal = round_trips = announced = 0
    mismatches: list[TokenizerMismatch] = []
    for expected in original.texts:
        found = _tokenized(tokenizer, expected.text)
        same_ids = (found.plain, found.full) == (expected.plain, expected.full)
        same_bytes = found.decoded == expected.decoded
        equal += same_ids
        round_trips += same_bytes
        if same_ids and same_bytes:
            continue
        note = _announcing_note(tokenizer, expected, original.special, notes)
        announced += note is not None
        mismatches.append(_mismatch(expected, found, note))
    # What nothing announces comes first: it is what somebody must look at.
    mismatches.sort(key=lambda mismatch: mismatch.announced is not None)
    reasons = []
    if len(mismatches) > announced:
        shown = mismatches[0]
        where = f"from token {shown.first_difference} on {list(shown.expected)} became {list(shown.found)}"
        if shown.expected == shown.found:
            where = "equal ids decode to other bytes"
        count = f"{len(mismatches) - announced} of {len(original.texts)} texts"
        reasons.append(f"{runtime} takes {count} otherwise than the original, {shown.text!r} first: {where}")
    return TokenizerParity(
        reference=original.name,
        runtime=runtime,
        same_file=same_file,
        texts=len(original.texts),
        ids_equal=equal,
        round_trips=round_trips,
        announced=announced,
        mismatches=tuple(mismatches[:_SHOWN]),
        passed=not reasons,
        reasons=tuple(reasons),
    )


def _announcing_note(
    tokenizer: Tokenizer, expected: TokenizedText, special: Sequence[str], notes: Sequence[str]
) -> str | None:
    """Return the note of an artifact that says that llama.cpp takes such a text otherwise, if one does."""
    text = expected.text
    composed = unicodedata.normalize("NFC", text)
    spaced = text.startswith((" ", "\u2581")) or any(token in text for token in special)
    for note in notes:
        if "NFC" in note and composed != text:
            found = _tokenized(tokenizer, composed)
            if (found.plain, found.full, found.decoded) == (expected.plain, expected.full, expected.decoded):
                return note
        if "prefix space" in note and spaced:
            return note
        if "for a control token" in note and any(quoted in text for quoted in note.split("'")[1::2]):
            return note
    return None


def unusable_tokenizer(original: OriginalTokens, runtime: str, reason: str) -> TokenizerParity:
    """Return the result for an artifact whose tokenizer is lost or damaged."""
    return TokenizerParity(
        reference=original.name,
        runtime=runtime,
        same_file=False,
        texts=len(original.texts),
        ids_equal=0,
        round_trips=0,
        announced=0,
        passed=False,
        reasons=(reason,),
    )


def _tokenized(tokenizer: Tokenizer, text: str) -> TokenizedText:
    plain = tuple(tokenizer.encode(text, add_special=False))
    decoded = tokenizer.decode(plain, skip_special=False).encode("utf-8", "surrogatepass")
    return TokenizedText(text, plain, tuple(tokenizer.encode(text)), decoded)


def _spelled(tokenizer: Tokenizer, number: int) -> str:
    return tokenizer.decode([number], skip_special=False)


def _spelled_texts(tokenizer: Tokenizer) -> list[str]:
    """Return texts made of tokens from all over the vocabulary, side by side and with spaces between."""
    every = tokenizer.vocab_size // _SPELLED + 1
    words = [_spelled(tokenizer, number) for number in range(0, tokenizer.vocab_size, every)]
    parts = [words[at : at + _SPELLED_TOGETHER] for at in range(0, len(words), _SPELLED_TOGETHER)]
    return [glue.join(part) for glue in ("", " ") for part in parts]


def _mismatch(expected: TokenizedText, found: TokenizedText, note: str | None) -> TokenizerMismatch:
    wanted, given = (expected.plain, found.plain) if expected.plain != found.plain else (expected.full, found.full)
    at = next((place for place, (a, b) in enumerate(zip(wanted, given, strict=False)) if a != b), 0)
    shown = slice(max(at - 2, 0), at - 2 + _SHOWN_IDS if at > 2 else _SHOWN_IDS)
    return TokenizerMismatch(
        text=expected.text[:_SHOWN_CHARACTERS],
        first_difference=at,
        expected=wanted[shown],
        found=given[shown],
        announced=note,
    )
