"""The ways in which llama.cpp might tokenise as an original does, the likeliest first, each with its known limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from edgestill.export.gguf_tokenizer import (
    BYTE_TOKENS,
    NORMAL,
    USER_DEFINED,
    GgufTokenizer,
    merge_pair,
)
from edgestill.export.gguf_unigram import unigram_candidates
from edgestill.export.source_tokenizer import SourceTokenizer, kinds
from edgestill.export.tokenizer_limits import (
    AddedTokens,
    Limit,
    added_token_limits,
    case_limit,
    character_limits,
    newer_characters,
    prefix_limit,
    written_spaces,
)

_KNOWN: Final = (
    "gpt-2", "qwen2", "llama-bpe", "smollm", "dbrx", "gpt-4o", "tekken", "deepseek-llm", "deepseek-coder",
    "deepseek-v3", "falcon", "stablelm2", "seed-coder", "bailingmoe", "minicpm5", "qwen35", "chatglm-bpe", "glm4",
    "superbpe", "poro-chat", "viking", "exaone-moe", "jais-2", "youtu", "tiny_aya",
    "kimi-k2", "ufakzeka", "afmoe", "laguna", "spark2_5", "chameleon", "default",
)  # fmt: skip
"""Pre-tokenizer types with a behaviour of their own, the usual ones first."""

_SIGNS: Final = (
    (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*", ("granite-embed-multi-97m", "gpt-4o", "tekken")),
    (r"\p{L}\p{M}", ("qwen35", "deepseek-v3")),
    (r"\p{N}{1,3}", ("llama-bpe", "dbrx", "deepseek-v3", "minicpm5")),
    (r"|\p{N}|", ("qwen2", "ufakzeka")),
)
"""(what a split pattern contains, the types to try first)."""

_SUFFIX: Final = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?"


def _by_ascii_case(word: str, suffix: str, numbers: str) -> str:
    """Return the split of the types that know ASCII capitals only; ``word`` is what a letter is."""
    big, small = rf"(?=[{word}])[^a-z]", rf"(?=[{word}])[^A-Z]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{lead}(?:{big})*(?:{small})+{suffix}|{lead}(?:{big})+(?:{small})*{suffix}"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


_SPLIT_CASE: Final = {
    "gpt-4o": _by_ascii_case(r"\p{L}", _SUFFIX, r"\p{N}{1,3}"),
    "granite-embed-multi-97m": _by_ascii_case(r"\p{L}\p{M}", _SUFFIX, r"\p{N}{1,3}"),
    "tekken": _by_ascii_case(r"\p{L}", "", r"\p{N}"),
}
"""How the types split that tell capitals from small letters, in ASCII only."""

_RAW_BYTES: Final = "sarvam-moe"
"""A pre-tokenizer type of BPE over characters: spaces written as U+2581, bytes left alone, split at line ends only."""


@dataclass(frozen=True)
class Candidate:
    """One way, and the kinds of texts that it is known not to get right."""

    tokenizer: GgufTokenizer
    limits: tuple[Limit, ...]


def candidates(original: SourceTokenizer, tokenizer: GgufTokenizer) -> Iterator[Candidate]:
    """Yield the ways to try, the likeliest first; where two are as good the first is the one that more files use."""
    added = AddedTokens(original)
    limits = added_token_limits(original, added, strips_right=tokenizer.strips_right)
    if tokenizer.model == "gpt2":
        for pre in _pre_types(original):
            own = [newer_characters()]
            if pre in _SPLIT_CASE:
                own.append(case_limit(original, added, _SPLIT_CASE[pre]))
            yield Candidate(tokenizer.with_pre(pre), (*limits, *own))
    elif tokenizer.model == "t5":
        for way, own_limits in unigram_candidates(original, tokenizer, added):
            yield Candidate(way, (*limits, *own_limits))
    else:
        yield from _character_bpe(original, _spaces_as_spaces(tokenizer), added, limits)
        usual = _spaces_as_usual(tokenizer)
        ordinary = {token for token, kind in zip(usual.tokens, usual.types, strict=True) if kind == NORMAL}
        if (written := written_spaces(added, ordinary)) is not None:
            yield from _character_bpe(original, usual, added, [*limits, written])


def _pre_types(original: SourceTokenizer) -> list[str]:
    described = original.described
    pattern = json.dumps(described["pre_tokenizer"], ensure_ascii=False).replace("\\\\", "\\")
    likely: list[str] = ["smollm"] if "Digits" in kinds(described["pre_tokenizer"]) else []
    likely += [name for sign, names in _SIGNS if sign in pattern for name in names]
    if described["model"].get("ignore_merges"):
        likely.insert(0, "llama-bpe")
    return list(dict.fromkeys([*likely, *_KNOWN]))


def _character_bpe(
    original: SourceTokenizer, tokenizer: GgufTokenizer, added: AddedTokens, limits: list[Limit]
) -> Iterator[Candidate]:
    prefix = original.first_token("a b").startswith("\u2581")
    spared = prefix_limit(original, added)
    # Without a token for every byte, llama.cpp ends the process at a character that has none.
    if set(BYTE_TOKENS) <= set(tokenizer.tokens):
        scored = replace(
            tokenizer, scores=_scores(original, len(tokenizer.tokens)), merges=None, add_space_prefix=prefix
        )
        yield Candidate(scored, (*limits, spared) if spared is not None else tuple(limits))
    if not prefix:
        ranked = replace(tokenizer, model="gpt2", pre=_RAW_BYTES, add_space_prefix=False)
        yield Candidate(ranked, (*limits, *character_limits(original, added)))


def _spaces_as_spaces(tokenizer: GgufTokenizer) -> GgufTokenizer:
    """Return it with user-defined tokens written with real spaces: llama.cpp looks for them in the text as it is."""
    tokens, taken = list(tokenizer.tokens), set(tokenizer.tokens)
    for token_id, text in enumerate(tokens):
        plain = text.replace("\u2581", " ")
        if tokenizer.types[token_id] == USER_DEFINED and plain not in taken:
            tokens[token_id] = plain
            taken.add(plain)
    return replace(tokenizer, tokens=tuple(tokens))


def _spaces_as_usual(tokenizer: GgufTokenizer) -> GgufTokenizer:
    """Return it with user-defined tokens of spaces as ordinary ones, which merges make."""
    types = [
        NORMAL if kind == USER_DEFINED and "\u2581" in text else kind
        for text, kind in zip(tokenizer.tokens, tokenizer.types, strict=True)
    ]
    return replace(tokenizer, types=tuple(types))


def _scores(original: SourceTokenizer, rows: int) -> tuple[float, ...]:
    """Return scores that make llama.cpp merge in the order of the merge list.

    llama.cpp joins the neighbours whose joined token has the highest score; so a token's score is minus
    the place of the first merge that makes it. Tokens that no merge makes stand below all of them.
    """
    vocab = original.encoder.get_vocab(with_added_tokens=True)
    order: dict[int, int] = {}
    for merge in original.described["model"]["merges"]:
        token_id = vocab["".join(merge_pair(merge))]
        order.setdefault(token_id, len(order))
    return tuple(-float(order.get(token_id, len(order))) for token_id in range(rows))
