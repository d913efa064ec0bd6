"""A checkpoint's tokenizer as GGUF metadata: tokens, types, scores, merges, special ids, chat templates.

Three families are read, from tokenizer.json: byte-level BPE (GGUF model ``gpt2``), BPE over characters (``llama``, or
``gpt2`` with a pre-tokenizer type that leaves bytes alone) and Unigram (``t5``). Keys and meanings: the GGUF
specification in ggml's docs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError, MissingDependencyError, UnsupportedError
from edgestill.export.gguf_special_tokens import chat_templates, special_ids
from edgestill.export.source_tokenizer import SourceTokenizer, kinds
from edgestill.runtime.tokenizer import BYTE_FALLBACK_KEY

if TYPE_CHECKING:
    import gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's token types (``gguf.TokenType``)."""

BYTE_TOKENS: Final = tuple(f"<0x{byte:02X}>" for byte in range(256))
_BYTE_TOKEN_SET: Final = frozenset(BYTE_TOKENS)

NEVER: Final = -1e30
"""The score of a token that no text may become."""


@dataclass(frozen=True)
class GgufTokenizer:
    """Everything that GGUF says about a tokenizer.

    ``model`` is ``gpt2``, ``llama`` or ``t5``; ``pre`` the pre-tokenizer type (``""`` until chosen). ``tokens``,
    ``types`` and ``scores`` have one entry per row of the embedding. ``charsmap`` (``t5`` only) rewrites a text before
    it is split; ``byte_fallback`` (``t5`` only) says that it rewrites unknown characters to bytes. ``templates`` are
    the chat templates by name. ``nfc`` says that the tokenizer composes its input (Unicode NFC), which llama.cpp
    doesn't do; ``strips_right`` that its special tokens take the white space after them, which llama.cpp does in a
    model with "phi-3" in its name (and refuses such a name without Phi-3's tokens). ``notes`` are for a person.
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
    remove_extra_whitespaces: bool | None
    charsmap: bytes | None
    byte_fallback: bool
    templates: tuple[tuple[str, str], ...]
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
        if self.remove_extra_whitespaces is not None:
            writer.add_remove_extra_whitespaces(self.remove_extra_whitespaces)
        if self.charsmap is not None:
            writer.add_precompiled_charsmap(self.charsmap)
        if self.byte_fallback:
            writer.add_bool(BYTE_FALLBACK_KEY, True)
        if self.templates:
            self._write_templates(writer)

    def _write_templates(self, writer: gguf.GGUFWriter) -> None:
        # One named template at a time, for the writer lists names in an order of its own.
        names = []
        for name, text in self.templates:
            if name == "default":
                writer.add_chat_template(text)
            else:
                names.append(re.sub(r"[^0-9A-Za-z]", "_", name))
                writer.add_string(f"tokenizer.chat_template.{names[-1]}", text)
        if names:
            writer.add_array("tokenizer.chat_templates", names)


def open_writer(path: Path, architecture: str) -> gguf.GGUFWriter:
    """Open a GGUF writer. Raises MissingDependencyError when the package ``gguf`` isn't installed."""
    try:
        from edgestill.export.gguf_writer import Writer
    except ImportError as error:
        raise MissingDependencyError("GGUF export needs the package gguf: pip install 'edgestill[export]'") from error
    return Writer(path, architecture)


def read_tokenizer(checkpoint: Checkpoint, source: SourceTokenizer, rows: int) -> GgufTokenizer:
    """Turn a tokenizer into GGUF's terms, padded with unused tokens to ``rows`` rows of the embedding.

    What llama.cpp is to do with a text is left for :mod:`edgestill.export.gguf_pretokenizer` to choose.
    Raises UnsupportedError for a tokenizer that is neither BPE nor Unigram, or that isn't deterministic.
    """
    where, described = source.path, source.described
    model = described["model"]
    kind = model.get("type")
    if kind not in ("BPE", "Unigram"):
        raise UnsupportedError(f"{where}: tokenizer model {kind!r} is not supported in GGUF (only BPE and Unigram)")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise UnsupportedError(f"{where}: {key} {model[key]!r} is not supported in GGUF")
    vocab = source.encoder.get_vocab(with_added_tokens=True)
    source.check_rows(rows)
    tokens = _tokens_by_id(vocab, rows, where)
    used = set(vocab.values())
    types = [NORMAL if token_id in used else UNUSED for token_id in range(rows)]
    family, unk_id, scores, merges = "llama", None, None, None
    if kind == "Unigram":
        family, unk_id, scores = "t5", _unigram_unk(model), _unigram_scores(model, rows)
    else:
        if "ByteLevel" in kinds(described["pre_tokenizer"]):
            family = "gpt2"
        unk_id = vocab.get(model["unk_token"]) if model.get("unk_token") else None
        merges = tuple(merge_pair(merge) for merge in model["merges"])
    if family == "llama":
        _mark_bytes(tokens, types)
    _mark_added(described["added_tokens"], vocab, types, unk_id if family != "gpt2" else None)
    special = special_ids(checkpoint, source, tokens)
    return GgufTokenizer(
        model=family,
        pre="default" if family != "gpt2" else "",
        tokens=tuple(tokens),
        types=tuple(types),
        scores=scores,
        merges=_joined(merges, where) if merges is not None else None,
        bos_id=special.bos,
        eos_id=special.eos,
        eot_id=special.eot,
        eom_id=special.eom,
        unk_id=unk_id,
        pad_id=special.pad,
        add_bos=special.add_bos,
        add_eos=special.add_eos,
        add_space_prefix=None,
        remove_extra_whitespaces=None,
        charsmap=None,
        byte_fallback=False,
        templates=tuple(sorted(chat_templates(checkpoint).items())),
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
        if "\0" in text:
            raise UnsupportedError(f"{where}: token {text!r} has a zero byte in it, which llama.cpp can't hold")
        named.add(token_id)
        tokens[token_id] = text
    taken = set(vocab)
    for token_id in range(rows):
        if token_id not in named:
            # llama.cpp aborts on two tokens of the same text, so a made-up one must be new.
            text = f"[PAD{token_id}]"
            while text in taken:
                text = f"[{text}]"
            taken.add(text)
            tokens[token_id] = text
    return tokens


def _mark_bytes(tokens: list[str], types: list[int]) -> None:
    for token_id, text in enumerate(tokens):
        if text in _BYTE_TOKEN_SET:
            types[token_id] = BYTE


def _mark_added(added: list[dict[str, Any]], vocab: dict[str, int], types: list[int], unk_id: int | None) -> None:
    for entry in added:
        if vocab.get(entry["content"]) == entry["id"]:
            types[entry["id"]] = CONTROL if entry["special"] else USER_DEFINED
            if entry["id"] == unk_id:
                types[entry["id"]] = UNKNOWN


_PHI3_TOKENS: Final = ("<unk>", "<s>", "</s>", "<|endoftext|>")


def _strips_right(added: list[dict[str, Any]]) -> bool:
    stripping = {entry["content"]: bool(entry.get("rstrip")) for entry in added if entry["special"]}
    return all(token in stripping for token in _PHI3_TOKENS) and any(stripping.values())


def merge_pair(merge: str | list[str]) -> tuple[str, str]:
    """Return the two parts of a merge, in either form that tokenizer.json has."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _joined(merges: tuple[tuple[str, str], ...], where: Path) -> tuple[str, ...]:
    for first, second in merges:
        if " " in first or " " in second:
            raise UnsupportedError(f"{where}: merge {first!r} + {second!r} has a space in it, which GGUF can't hold")
    return tuple(f"{first} {second}" for first, second in merges)


def _unigram_unk(model: dict[str, Any]) -> int | None:
    unk_id = model.get("unk_id")
    return unk_id if isinstance(unk_id, int) else None


def _unigram_scores(model: dict[str, Any], rows: int) -> tuple[float, ...]:
    scores = [float(score) for _, score in model["vocab"]]
    return tuple([*scores, *[NEVER] * (rows - len(scores))][:rows])
