"""Unigram tokenizers as llama.cpp's ``t5`` vocabulary, whose character map we write ourselves.

The map says what the original's normalizer and pre-tokenizer do to a text, whatever they are made of. It also does
byte fallback, which that vocabulary hasn't: a character without a token is rewritten, byte by byte, to the texts of
its byte tokens ("<0xE3><0x81><0x82>"), which then stand for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from edgestill.export.charsmap import build_charsmap
from edgestill.export.gguf_tokenizer import BYTE_TOKENS, CONTROL, NEVER, NORMAL, UNUSED, USER_DEFINED, GgufTokenizer
from edgestill.export.source_tokenizer import SourceTokenizer
from edgestill.export.tokenizer_limits import AddedTokens, Limit, parts, written_spaces
from edgestill.export.unigram_text import SPACE, UnigramText, has_cluster, read_unigram_text

_LEAD_OR_ASCII: Final = [byte for byte in range(1, 256) if not 0x80 <= byte < 0xC0]
_CONTINUATION: Final = range(0x80, 0xC0)

_BARE_SPACE: Final = re.compile(f"(^|[ {SPACE}]){SPACE}")

BYTE_NOTE: Final = (
    "llama.cpp has no byte fallback for Unigram: token ids are equal, but it shows what a model writes in byte tokens "
    "as '<0xE3>' and so on; edgestill, or joining these to bytes, gives the text"
)


def unigram_candidates(
    original: SourceTokenizer, tokenizer: GgufTokenizer, added: AddedTokens
) -> Iterator[tuple[GgufTokenizer, list[Limit]]]:
    """Yield the ways to write a Unigram tokenizer, and the kinds of texts that each can't get right."""
    text = read_unigram_text(original)
    in_bytes = bool(original.described["model"].get("byte_fallback")) and set(BYTE_TOKENS) <= set(tokenizer.tokens)
    rules = {key.encode(): value.encode() for key, value in text.rules.items() if "\0" not in key + value}
    if in_bytes:
        known = {token for token, kind in zip(tokenizer.tokens, tokenizer.types, strict=True) if kind == NORMAL}
        rules = _with_bytes(rules, {token for token in known if len(token) == 1})
        # Written in a text as they are, these are found before any of their letters is.
        rules |= {token.encode(): token.encode() for token in BYTE_TOKENS if text.rewritten(token) == token}
        tokenizer = replace(tokenizer, byte_fallback=True, notes=(*tokenizer.notes, BYTE_NOTE))
    tokenizer = _added_apart(original, tokenizer, text)
    ordinary = {token for token, kind in zip(tokenizer.tokens, tokenizer.types, strict=True) if kind == NORMAL}
    written = written_spaces(added, ordinary)
    limits = [
        *([written] if written is not None else []),
        Limit(
            "this tokenizer normalises a character together with the marks after it, and may drop or keep apart a mark "
            "where llama.cpp does not: give it token ids for text with several marks or marks on unusual characters",
            lambda one: has_cluster(one) and any(_unlike(original, text, part) for part in added.segments(one)),
        ),
        *([_zero_limit()] if in_bytes else []),
        *_score_limits(original),
        Limit(
            "this tokenizer finds added tokens also where its normalizer makes one, llama.cpp only as they are written",
            lambda one: any(added.found_in(text.by_longest_rule(part)) for part in added.segments(one)),
        ),
        *_prefix_limits(original, added),
    ]
    tokenizer = _without_unreachable(original, tokenizer)
    spaces = {key for key, value in rules.items() if value == b" "} | {b" "}
    unseen = {key for key, value in rules.items() if not value}
    if text.prefix and text.joins and text.strips:
        yield _written(tokenizer, rules, prefix=True, joins=True), [*limits, _edge(text, added, _stripped_edge)]
    elif text.prefix and text.joins:
        way = _written(tokenizer, _with_last_space(rules, spaces), spaces, unseen, prefix=True, joins=True)
        yield way, [*limits, _edge(text, added, _kept_edge)]
    elif text.prefix:
        way = _written(tokenizer, rules, prefix=True, joins=False)
        yield way, [*limits, _edge(text, added, _spared_edge if text.spares else _blank)]
    else:
        joined = {key: value for key, value in rules.items() if key not in spaces} | {b" ": b" "}
        if text.joins:
            way = _written(tokenizer, joined, spaces, unseen, prefix=False, joins=False)
        else:
            way = _written(tokenizer, rules, prefix=False, joins=False)
        yield way, [*limits, *([_edge(text, added, _stripped_edge)] if text.strips else [])]


def _written(
    tokenizer: GgufTokenizer,
    rules: dict[bytes, bytes],
    spaces: Collection[bytes] = (),
    unseen: Collection[bytes] = (),
    *,
    prefix: bool,
    joins: bool,
) -> GgufTokenizer:
    charsmap = build_charsmap(rules, spaces, unseen) if rules else None
    return replace(tokenizer, charsmap=charsmap, add_space_prefix=prefix, remove_extra_whitespaces=joins)


def _with_bytes(rules: dict[bytes, bytes], known: set[str]) -> dict[bytes, bytes]:
    """Add rules that spell every character outside ``known`` (single characters with a token) in byte tokens."""

    def spelled(text: str) -> bytes:
        return "".join(
            letter if letter in known or letter == " " else "".join(BYTE_TOKENS[byte] for byte in letter.encode())
            for letter in text
        ).encode()

    single: dict[bytes, bytes] = {bytes([byte]): BYTE_TOKENS[byte].encode() for byte in range(1, 256)}
    kept = {letter.encode(): letter.encode() for letter in (*known, " ")}
    return {**single, **kept, **{key: spelled(value.decode()) for key, value in rules.items()}}


def _with_last_space(rules: dict[bytes, bytes], spaces: set[bytes]) -> dict[bytes, bytes]:
    """Make spaces at the end of a text one token, where llama.cpp drops them, by rules for a space and what follows.

    A space before something is a space before it, however many there are; one before nothing is U+2581 itself.
    """
    followed = {key: value for key, value in rules.items() if key not in spaces}
    bytewise = {bytes([byte]): bytes([byte]) for byte in _LEAD_OR_ASCII if bytes([byte]) not in spaces}
    continued = {bytes([byte]): bytes([byte]) for byte in _CONTINUATION}
    after = {b" " + key: b" " + value for key, value in {**bytewise, **followed}.items() if value}
    return {**continued, **followed, **after, b" ": SPACE.encode()}


def _added_apart(original: SourceTokenizer, tokenizer: GgufTokenizer, text: UnigramText) -> GgufTokenizer:
    """Keep user-defined tokens from the rewriting: llama.cpp leaves what begins as one of them as it is.

    Those with spaces in them that a text's own spaces may become are ordinary tokens; those that begin as characters
    which must be rewritten, or as part of a character, control tokens.
    """
    types = list(tokenizer.types)
    shown = []
    for token_id, (token, kind) in enumerate(zip(tokenizer.tokens, tokenizer.types, strict=True)):
        if kind != USER_DEFINED:
            continue
        if SPACE in token and len(original.cut(token)) == 1:
            types[token_id] = NORMAL
        elif not token.isascii() or any(rule[0] in token for rule in text.rules):
            types[token_id] = CONTROL
            shown.append(token)
    notes = tokenizer.notes
    if shown:
        names = ", ".join(map(repr, shown[:4])) + (" ..." if len(shown) > 4 else "")
        notes = (
            *notes,
            f"added tokens {names} are control tokens in the file: llama.cpp shows them only when asked to",
        )
    return replace(tokenizer, types=tuple(types), notes=notes)


def _without_unreachable(original: SourceTokenizer, tokenizer: GgufTokenizer) -> GgufTokenizer:
    """Mark tokens that the pre-tokenizer cuts in two as unused, or llama.cpp, which doesn't cut, would take them."""
    if original.encoder.pre_tokenizer is None or tokenizer.scores is None:
        return tokenizer
    types, scores = list(tokenizer.types), list(tokenizer.scores)
    for token_id, (token, kind) in enumerate(zip(tokenizer.tokens, tokenizer.types, strict=True)):
        if kind == NORMAL and len(token) > 1 and len(original.cut(token)) > 1:
            types[token_id], scores[token_id] = UNUSED, NEVER
    return replace(tokenizer, types=tuple(types), scores=tuple(scores))


def _unlike(original: SourceTokenizer, text: UnigramText, part: str) -> bool:
    """Whether the original rewrites a cluster of ``part`` otherwise than the rules do, spaces left aside."""
    return _spaceless(original.seen(part)) != _spaceless(text.by_longest_rule(part))


def _spaceless(text: str) -> str:
    return text.replace(SPACE, "").replace(" ", "")


def _score_limits(original: SourceTokenizer) -> list[Limit]:
    """Return the limit of scores that float32 can't hold: of two splits as good, rounding decides."""
    model = original.described["model"]
    rounded = [[token, float(np.float32(score))] for token, score in model["vocab"]]
    if rounded == [[token, float(score)] for token, score in model["vocab"]]:
        return []
    other = original.with_model({**model, "vocab": rounded})
    note = (
        "this tokenizer's scores have more digits than GGUF can hold: between two splits that are as likely (long runs "
        "of a character) llama.cpp may take the other one"
    )
    return [Limit(note, lambda text: other.encode(text) != original.encode(text))]


def _zero_limit() -> Limit:
    return Limit("llama.cpp takes a zero byte for an unknown character here", lambda text: "\0" in text)


def _prefix_limits(original: SourceTokenizer, added: AddedTokens) -> list[Limit]:
    first_only = any(part.get("prepend_scheme") == "first" for part in parts(original.described["pre_tokenizer"]))
    note = (
        "llama.cpp puts a prefix space after a special token, this tokenizer doesn't: give llama.cpp token ids, as "
        "edgestill does, rather than such text"
    )
    return [Limit(note, added.found_in)] if first_only else []


def _edge(text: UnigramText, added: AddedTokens, differs: Callable[[str], bool]) -> Limit:
    note = (
        "llama.cpp treats white space at the beginning or the end of a text, or beside a special token, otherwise than "
        "this tokenizer in some cases: give it token ids for such text"
    )
    return Limit(note, lambda one: any(differs(text.rewritten(part)) for part in added.segments(one)))


def _stripped_edge(part: str) -> bool:
    """Text with a word that begins with U+2581 itself, or that ends in white space that isn't a space."""
    return _BARE_SPACE.search(part) is not None or part.rstrip(" ")[-1:].isspace()


def _kept_edge(part: str) -> bool:
    return _BARE_SPACE.search(part) is not None or part[:2] == " \0" or _blank(part)


def _spared_edge(part: str) -> bool:
    return part[:1] in ("", " ", SPACE)


def _blank(part: str) -> bool:
    return not part.strip(" ")
