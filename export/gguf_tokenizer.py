"""A checkpoint's tokenizer as GGUF metadata: tokens, types, scores, merges, special ids, chat template.

Two families are written, from tokenizer.json: byte-level BPE (GGUF model ``gpt2``) and SentencePiece-style
BPE with byte fallback (GGUF model ``llama``). Keys and meanings: the GGUF specification in ggml's docs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.artifact import Checkpoint, read_json_object
from edgestill.errors import CheckpointError, MissingDependencyError, UnsupportedError
from edgestill.export.source_tokenizer import SourceTokenizer, kinds

if TYPE_CHECKING:
    import gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's token types (``gguf.TokenType``)."""

BYTE_TOKENS: Final = tuple(f"<0x{byte:02X}>" for byte in range(256))

_END_TEXTS: Final = frozenset(
    {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>", "</s>"}
)
"""Tokens that llama.cpp takes for an end of generation by their text alone."""


@dataclass(frozen=True)
class GgufTokenizer:
    """Everything that GGUF says about a tokenizer.

    ``model`` is ``gpt2`` or ``llama``; ``pre`` the pre-tokenizer type (byte-level BPE only, ``""`` until
    chosen). ``tokens``, ``types`` and ``scores`` have one entry per row of the embedding. ``nfc`` says that
    the tokenizer composes its input (Unicode NFC), which llama.cpp doesn't do; ``strips_right`` that its special
    tokens take the white space after them, which llama.cpp does in a model with "phi-3" in its name (and refuses
    such a name without Phi-3's tokens). ``notes`` are lines for a person.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[str, ...] | None
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    eom_id: int | None
    unk_id: int | None
    pad_id: int | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool | None
    chat_template: str | None
    nfc: bool
    strips_right: bool
    notes: tuple[str, ...]

    def with_pre(self, pre: str) -> GgufTokenizer:
        """Return a copy with another pre-tokenizer type."""
        return replace(self, pre=pre)

    def with_space_prefix(self, add_space_prefix: bool) -> GgufTokenizer:
        """Return a copy that does or doesn't put a space before the text."""
        return replace(self, add_space_prefix=add_space_prefix)

    def model_name(self, name: str) -> str:
        """Return ``name`` changed as little as llama.cpp, which goes by it, needs to strip white space or not."""
        if not self.strips_right:
            return re.sub(r"(?i)phi-?3", "phi 3", name)
        return name if re.search(r"(?i)phi-?3", name) else f"{name} (phi-3)"

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add the ``tokenizer.*`` keys to a GGUF writer."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre or "default")
        writer.add_token_list(self.tokens)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        for add, token_id in (
            (writer.add_bos_token_id, self.bos_id),
            (writer.add_eos_token_id, self.eos_id),
            (writer.add_eot_token_id, self.eot_id),
            (writer.add_eom_token_id, self.eom_id),
            (writer.add_unk_token_id, self.unk_id),
            (writer.add_pad_token_id, self.pad_id),
        ):
            if token_id is not None:
                add(token_id)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def open_writer(path: Path, architecture: str) -> gguf.GGUFWriter:
    """Open a GGUF writer. Raises MissingDependencyError when the package ``gguf`` isn't installed."""
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError("GGUF export needs the package gguf: pip install 'edgestill[gguf]'") from error
    return gguf.GGUFWriter(path, architecture)


def read_tokenizer(checkpoint: Checkpoint, source: SourceTokenizer, rows: int) -> GgufTokenizer:
    """Turn a tokenizer into GGUF's terms, padded with unused tokens to ``rows`` rows of the embedding.

    ``pre`` and ``add_space_prefix`` are left for :mod:`edgestill.export.gguf_pretokenizer` to choose.
    Raises UnsupportedError for a tokenizer that is neither byte-level BPE nor byte-fallback BPE.
    """
    where, described = source.path, source.described
    model = described["model"]
    kind = model.get("type")
    if kind != "BPE":
        raise UnsupportedError(f"{where}: tokenizer model {kind!r} is not supported in GGUF (only BPE)")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UnsupportedError(f"{where}: {key} {model[key]!r} is not supported in GGUF")
    byte_level = "ByteLevel" in kinds(described["pre_tokenizer"])
    vocab = source.encoder.get_vocab(with_added_tokens=True)
    if not byte_level and not (model.get("byte_fallback") and all(token in vocab for token in BYTE_TOKENS)):
        raise UnsupportedError(
            f"{where}: GGUF needs byte-level BPE, or BPE with byte fallback and all of <0x00> to <0xFF>"
        )
    source.check_rows(rows)
    tokens = _tokens_by_id(vocab, rows, where)
    types = _types(
        tokens, set(vocab.values()), described["added_tokens"], None if byte_level else model.get("unk_token")
    )
    if not byte_level:
        tokens = _unescape_user_defined(tokens, types)
    merges = _merges(model["merges"], where) if byte_level else None
    scores = None if byte_level else _scores(model["merges"], vocab, rows)
    special = _special_ids(checkpoint, source, tokens)
    return GgufTokenizer(
        model="gpt2" if byte_level else "llama",
        pre="" if byte_level else "default",
        tokens=tuple(tokens),
        types=tuple(types),
        scores=scores,
        merges=merges,
        bos_id=special.bos,
        eos_id=special.eos,
        eot_id=special.eot,
        eom_id=special.eom,
        unk_id=vocab.get(model["unk_token"]) if model.get("unk_token") else None,
        pad_id=special.pad,
        add_bos=special.add_bos,
        add_eos=special.add_eos,
        add_space_prefix=None,
        chat_template=_chat_template(checkpoint),
        nfc=source.composes,
        strips_right=_strips_right(described["added_tokens"]),
        notes=special.notes,
    )


def _tokens_by_id(vocab: dict[str, int], rows: int, where: Path) -> list[str]:
    tokens = [""] * rows
    named: set[int] = set()
    for text, token_id in vocab.items():
        if token_id in named:
            raise CheckpointError(f"{where}: token id {token_id} has two texts, {tokens[token_id]!r} and {text!r}")
        named.add(token_id)
        tokens[token_id] = text
    taken = set(vocab)
    used = set(vocab.values())
    for token_id in range(rows):
        if token_id not in used:
            # llama.cpp aborts on two tokens of the same text, so a made-up one must be new.
            text = f"[PAD{token_id}]"
            while text in taken:
                text = f"[{text}]"
            taken.add(text)
            tokens[token_id] = text
    return tokens


def _types(tokens: list[str], used: set[int], added: list[dict[str, Any]], unk: str | None) -> list[int]:
    types = [NORMAL if token_id in used else UNUSED for token_id in range(len(tokens))]
    if unk is not None:
        for token_id, text in enumerate(tokens):
            if text in _BYTE_TOKEN_SET:
                types[token_id] = BYTE
    for entry in added:
        token_id = entry["id"]
        if token_id in used:
            types[token_id] = CONTROL if entry["special"] else USER_DEFINED
            if unk is not None and tokens[token_id] == unk:
                types[token_id] = UNKNOWN
    return types


_PHI3_TOKENS: Final = ("<unk>", "<s>", "</s>", "<|endoftext|>")


def _strips_right(added: list[dict[str, Any]]) -> bool:
    stripping = {entry["content"]: bool(entry.get("rstrip")) for entry in added if entry["special"]}
    return all(token in stripping for token in _PHI3_TOKENS) and any(stripping.values())


_BYTE_TOKEN_SET: Final = frozenset(BYTE_TOKENS)


def _unescape_user_defined(tokens: list[str], types: list[int]) -> list[str]:
    """Write user-defined tokens with real spaces: llama.cpp looks for them before it escapes the text."""
    taken = set(tokens)
    for token_id, text in enumerate(tokens):
        plain = text.replace("\u2581", " ")
        if types[token_id] == USER_DEFINED and plain not in taken:
            tokens[token_id] = plain
            taken.add(plain)
    return tokens


def _merge_pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _merges(merges: list[str | list[str]], where: Path) -> tuple[str, ...]:
    written = []
    for merge in merges:
        first, second = _merge_pair(merge)
        if " " in first or " " in second:
            raise UnsupportedError(f"{where}: merge {first!r} + {second!r} has a space in it, which GGUF can't hold")
        written.append(f"{first} {second}")
    return tuple(written)


def _scores(merges: list[str | list[str]], vocab: dict[str, int], rows: int) -> tuple[float, ...]:
    """Return scores that make llama.cpp merge in the order of the merge list.

    llama.cpp joins the neighbours whose joined token has the highest score; so a token's score is minus
    the place of the first merge that makes it. Tokens that no merge makes stand below all of them.
    """
    order: dict[int, int] = {}
    for merge in merges:
        token_id = vocab["".join(_merge_pair(merge))]
        order.setdefault(token_id, len(order))
    return tuple(-float(order.get(token_id, len(order))) for token_id in range(rows))


@dataclass(frozen=True)
class _SpecialIds:
    bos: int | None
    eos: int | None
    eot: int | None
    eom: int | None
    pad: int | None
    add_bos: bool
    add_eos: bool
    notes: tuple[str, ...]


def _special_ids(checkpoint: Checkpoint, source: SourceTokenizer, tokens: list[str]) -> _SpecialIds:
    notes: list[str] = []
    config = checkpoint.config()
    settings = _optional_json(checkpoint.path / "tokenizer_config.json")
    generation = _optional_json(checkpoint.path / "generation_config.json")

    def named(name: str) -> int | None:
        """The id of a token that tokenizer_config.json names as a string or as {content: ...}."""
        value = settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        return source.encoder.token_to_id(text) if isinstance(text, str) else None

    def listed(source: dict[str, object], key: str) -> list[int]:
        value = source.get(key)
        values = value if isinstance(value, list) else [value]
        return [item for item in values if type(item) is int and 0 <= item < len(tokens)]

    ends = list(dict.fromkeys(listed(generation, "eos_token_id") or listed(config, "eos_token_id")))
    own_eos = named("eos_token")
    if own_eos is not None and own_eos not in ends:
        ends.append(own_eos)
    preferred = [own_eos] if own_eos is not None else listed(config, "eos_token_id")
    eos = next((token_id for token_id in (*preferred, *ends) if token_id in ends), None)
    unnamed = [token_id for token_id in ends if token_id != eos and tokens[token_id] not in _END_TEXTS]
    for token_id in unnamed[2:]:
        notes.append(f"llama.cpp won't stop at token {token_id} {tokens[token_id]!r}: GGUF has no key for a fourth end")

    bos = next(iter(listed(config, "bos_token_id")), None)
    bos = named("bos_token") if bos is None else bos
    pad = next(iter(listed(config, "pad_token_id")), None)
    pad = named("pad_token") if pad is None else pad

    before, after = _added_around(source)
    if len(before) > 1 or len(after) > 1:
        raise UnsupportedError(f"{source.path}: adds {before} before and {after} after a text; GGUF can add one each")
    bos = before[0] if before else bos
    eos = after[0] if after else eos
    if eos is None:
        eos = pad
        notes.append("the checkpoint names no end-of-sequence token")
    if bos is None:
        # llama.cpp would take token 11 (byte-level) or 1; add_bos false keeps this from being used.
        bos = eos
    return _SpecialIds(
        bos=bos,
        eos=eos,
        eot=unnamed[0] if unnamed else None,
        eom=unnamed[1] if len(unnamed) > 1 else None,
        pad=pad,
        add_bos=bool(before),
        add_eos=bool(after),
        notes=tuple(notes),
    )


def _added_around(source: SourceTokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer really puts before and after a text."""
    plain = source.encode("a")
    full = source.encode("a", add_special=True)
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start], full[start + len(plain) :]
    return [], []


def _chat_template(checkpoint: Checkpoint) -> str | None:
    path = checkpoint.path / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = _optional_json(checkpoint.path / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _optional_json(path: Path) -> dict[str, object]:
    return read_json_object(path) if path.is_file() else {}
