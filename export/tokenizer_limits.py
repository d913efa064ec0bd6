"""Texts that no vocabulary of llama.cpp tokenises as an original does, kind by kind, with what to tell a person."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from edgestill.export.source_tokenizer import SourceTokenizer


@dataclass(frozen=True)
class Limit:
    """One kind of such texts: ``touches`` says whether a text is of this kind, ``note`` what is different there."""

    note: str
    touches: Callable[[str], bool]


_UNICODE_16: Final = (
    (0x897, 0x897), (0x1B4E, 0x1B4F), (0x1B7F, 0x1B7F), (0x1C89, 0x1C8A), (0x2427, 0x2429), (0x31E4, 0x31E5),
    (0xA7CB, 0xA7CD), (0xA7DA, 0xA7DC), (0x105C0, 0x105F3), (0x10D40, 0x10D65), (0x10D69, 0x10D85), (0x10D8E, 0x10D8F),
    (0x10EC2, 0x10EC4), (0x10EFC, 0x10EFC), (0x11380, 0x11389), (0x1138B, 0x1138B), (0x1138E, 0x1138E),
    (0x11390, 0x113B5), (0x113B7, 0x113C0), (0x113C2, 0x113C2), (0x113C5, 0x113C5), (0x113C7, 0x113CA),
    (0x113CC, 0x113D5), (0x113D7, 0x113D8), (0x113E1, 0x113E2), (0x116D0, 0x116E3), (0x11BC0, 0x11BE1),
    (0x11BF0, 0x11BF9), (0x11F5A, 0x11F5A), (0x13460, 0x143FA), (0x16100, 0x16139), (0x16D40, 0x16D79),
    (0x18CFF, 0x18CFF), (0x1CC00, 0x1CCF9), (0x1CD00, 0x1CEB3), (0x1E5D0, 0x1E5FA), (0x1E5FF, 0x1E5FF),
    (0x1F8B2, 0x1F8BB), (0x1F8C0, 0x1F8C1), (0x1FA89, 0x1FA89), (0x1FA8F, 0x1FA8F), (0x1FABE, 0x1FABE),
    (0x1FAC6, 0x1FAC6), (0x1FADC, 0x1FADC), (0x1FADF, 0x1FADF), (0x1FAE9, 0x1FAE9), (0x1FBCB, 0x1FBEF),
)  # fmt: skip
"""Characters that Unicode 16 brought: the library tokenizers knows them, llama.cpp's tables are those of 15.1."""

_NEWER: Final = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNICODE_16) + "]")


class AddedTokens:
    """The tokens that are looked for in a text before anything else, and how the two libraries find them."""

    def __init__(self, original: SourceTokenizer) -> None:
        self.entries: list[dict[str, Any]] = [one for one in original.described["added_tokens"] if one["content"]]
        texts = sorted((one["content"] for one in self.entries), key=len, reverse=True)
        self._texts = texts
        self._any = re.compile("|".join(map(re.escape, texts))) if texts else None

    def segments(self, text: str) -> list[str]:
        """Return the parts of ``text`` between added tokens, from left to right, empty ones left out."""
        return [part for part in self._any.split(text) if part] if self._any is not None else [text] * bool(text)

    def found_in(self, text: str) -> bool:
        """Whether an added token is written in ``text``."""
        return self._any is not None and self._any.search(text) is not None

    def overlap_in(self, text: str) -> bool:
        """Whether the first token from the left and the longest token anywhere cut ``text`` differently."""
        if self._any is None or self._any.search(text) is None:
            return False
        left = [(match.start(), match.end()) for match in self._any.finditer(text)]
        return left != sorted(self._longest_first(text))

    def _longest_first(self, text: str) -> Iterator[tuple[int, int]]:
        free = [(0, len(text))]
        # llama.cpp counts bytes.
        for token in sorted(self._texts, key=lambda token: len(token.encode()), reverse=True):
            rest = []
            for first, end in free:
                while (at := text.find(token, first, end)) >= 0:
                    yield at, at + len(token)
                    rest.append((first, at))
                    first = at + len(token)
                rest.append((first, end))
            free = rest


def newer_characters() -> Limit:
    """Return the limit of pre-tokenizers that ask what a character is."""
    note = "llama.cpp doesn't know the characters that Unicode 16 brought (2024), this tokenizer does"
    return Limit(f"{note}: give it token ids for text with them", lambda text: _NEWER.search(text) is not None)


def added_token_limits(original: SourceTokenizer, added: AddedTokens, *, strips_right: bool) -> list[Limit]:
    """Return the limits of added tokens: overlaps, and flags that llama.cpp has not.

    ``strips_right`` says that llama.cpp was told to strip the white space after special tokens.
    """
    limits = [
        Limit(
            "where two added tokens overlap in a text, llama.cpp takes the longer one, this tokenizer the first one",
            added.overlap_in,
        )
    ]
    for flag, what in (
        ("single_word", "only as whole words"),
        ("lstrip", "with the white space before them"),
        ("rstrip", "with the white space after them"),
    ):
        texts = [one["content"] for one in added.entries if one.get(flag)]
        if texts and not (flag == "rstrip" and strips_right):
            shown = ", ".join(map(repr, texts[:4])) + (" ..." if len(texts) > 4 else "")
            limits.append(
                Limit(
                    f"this tokenizer takes {shown} {what} ({flag}), llama.cpp wherever and as they are written",
                    _any_of(texts, r"\s" if flag == "lstrip" else "", r"\s" if flag == "rstrip" else ""),
                )
            )
    late = [one["content"] for one in added.entries if one.get("normalized")]
    normal = [text for text in late if original.normalized(text) != text]
    if normal:
        shown = ", ".join(map(repr, normal[:4])) + (" ..." if len(normal) > 4 else "")
        note = f"this tokenizer looks for {shown} after it has normalised a text, llama.cpp before"
        limits.append(Limit(note, _any_of(normal, "", "")))
    return limits


def _any_of(texts: list[str], before: str, after: str) -> Callable[[str], bool]:
    pattern = re.compile(f"{before}(?:{'|'.join(map(re.escape, texts))}){after}")
    return lambda text: pattern.search(text) is not None


def prefix_limit(original: SourceTokenizer, added: AddedTokens) -> Limit | None:
    """Return the limit of a prefix space that the tokenizer spares before a space, or after a special token."""
    spaces = [part for part in parts(original.described["pre_tokenizer"]) if part.get("type") == "Metaspace"]
    if not spaces or spaces[0].get("prepend_scheme") == "never":
        return None
    note = (
        "llama.cpp puts a prefix space before text that begins with a space or follows a special token, this "
        "tokenizer doesn't: give llama.cpp token ids, as edgestill does, rather than such text"
    )
    first_only = spaces[0].get("prepend_scheme") == "first"

    def touches(text: str) -> bool:
        segments = added.segments(text)
        return any(part[0] in " \u2581" for part in segments) or (first_only and added.found_in(text))

    return Limit(note, touches)


def character_limits(original: SourceTokenizer, added: AddedTokens) -> list[Limit]:
    """Return the limits of BPE over characters, without bytes for the rest: unknown characters, ends of lines."""
    model, vocab = original.described["model"], original.encoder.get_vocab(with_added_tokens=False)
    known = {token for token in vocab if len(token) == 1} | ({" "} if "\u2581" in vocab else set())
    unk_text = model.get("unk_token")
    becomes = f"becomes {unk_text!r}" if unk_text else "joins its neighbours"
    note = (
        f"a character without a token {becomes} in this tokenizer and is left out in llama.cpp: give it token ids for "
        "text with such characters, or train the tokenizer with byte fallback"
    )
    fallback = bool(model.get("byte_fallback"))

    def unknown(letter: str) -> bool:
        return letter not in known and not (fallback and all(f"<0x{byte:02X}>" in vocab for byte in letter.encode()))

    def has_unknown(text: str) -> bool:
        return any(unknown(letter) for part in added.segments(text) for letter in set(part))

    over = frozenset(number for token, number in vocab.items() if "\n" in token and token.strip("\n"))
    limits = [Limit(note, has_unknown)]
    if over:
        note = "this tokenizer has tokens that go over the end of a line, which llama.cpp cuts there"
        limits.append(Limit(note, lambda text: "\n" in text and not over.isdisjoint(original.encode(text))))
    return limits


def written_spaces(added: AddedTokens, ordinary: Collection[str]) -> Limit | None:
    """Return the limit of added tokens with U+2581 in them that are written as ``ordinary`` tokens."""
    texts = [one["content"] for one in added.entries if "\u2581" in one["content"] and one["content"] in ordinary]
    note = "this tokenizer takes U+2581 in a text for one of its added tokens, llama.cpp for a space"
    return Limit(note, _any_of(texts, "", "")) if texts else None


def case_limit(original: SourceTokenizer, added: AddedTokens, split: str) -> Limit:
    """Return the limit of a pre-tokenizer type that splits by ``split`` where the original has another pattern."""
    import tokenizers

    ours = tokenizers.pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
    theirs = [
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(part["pattern"]["Regex"]), "isolated")
        for part in parts(original.described["pre_tokenizer"])
        if part.get("type") == "Split" and "Regex" in part["pattern"]
    ]
    note = (
        "llama.cpp tells capitals from small letters in ASCII only where it splits words, this tokenizer in every "
        "script: give it token ids for mixed case in other alphabets"
    )

    def touches(text: str) -> bool:
        return len(theirs) == 1 and any(
            ours.pre_tokenize_str(part) != theirs[0].pre_tokenize_str(part)
            for part in added.segments(text)
            if not part.isascii()
        )

    return Limit(note, touches)


def parts(part: object) -> list[dict[str, Any]]:
    """Return the parts of a normalizer or pre-tokenizer of tokenizer.json, sequences flattened."""
    if not isinstance(part, dict):
        return []
    inner = part.get("pretokenizers") or part.get("normalizers")
    return [one for item in inner for one in parts(item)] if isinstance(inner, list) else [part]
