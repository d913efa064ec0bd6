"""The special tokens and chat templates of a checkpoint, as GGUF names them.

A checkpoint of transformers 4 keeps its templates in tokenizer_config.json, one of transformers 5 in files of their own
(``chat_template.jinja`` and ``additional_chat_templates/NAME.jinja``); both are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgestill.artifact import Checkpoint, read_json_object
from edgestill.errors import CheckpointError, UnsupportedError
from edgestill.export.source_tokenizer import SourceTokenizer

_END_TEXTS: Final = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
        "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
        "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
    }
)  # fmt: skip
"""Tokens that llama.cpp takes for an end of generation by their text alone."""

_MAX_TEMPLATE_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class SpecialIds:
    """Ids of special tokens, None where there is none; whether a text gets a BOS before and an EOS after it."""

    bos: int | None
    eos: int | None
    eot: int | None
    eom: int | None
    pad: int | None
    add_bos: bool
    add_eos: bool
    notes: tuple[str, ...]


def special_ids(checkpoint: Checkpoint, source: SourceTokenizer, tokens: list[str]) -> SpecialIds:
    """Find the special tokens of a checkpoint whose tokens (one a row of the embedding) are ``tokens``.

    Raises UnsupportedError when more than one token is added before or after a text: GGUF can say one each.
    """
    notes: list[str] = []
    config = checkpoint.config()
    settings = {
        **_optional_json(checkpoint.path / "special_tokens_map.json"),
        **_optional_json(checkpoint.path / "tokenizer_config.json"),
    }
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
    return SpecialIds(
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


def chat_templates(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the chat templates by name; the one that is meant when none is named is ``default``.

    As in transformers, where there are files, tokenizer_config.json isn't asked.
    Raises CheckpointError for a template's file that isn't UTF-8 or is longer than 4 MiB.
    """
    files = {path.stem: path for path in sorted((checkpoint.path / "additional_chat_templates").glob("*.jinja"))}
    if (path := checkpoint.path / "chat_template.jinja").is_file():
        files["default"] = path
    if files:
        return {name: _template_text(path) for name, path in files.items()}
    value = _optional_json(checkpoint.path / "tokenizer_config.json").get("chat_template")
    entries = value if isinstance(value, list) else [{"name": "default", "template": value}]
    named = {item.get("name"): item.get("template") for item in entries if isinstance(item, dict)}
    return {name: text for name, text in named.items() if isinstance(name, str) and isinstance(text, str)}


def _template_text(path: Path) -> str:
    if path.stat().st_size > _MAX_TEMPLATE_BYTES:
        raise CheckpointError(f"{path}: longer than {_MAX_TEMPLATE_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text ({error})") from error


def _optional_json(path: Path) -> dict[str, object]:
    return read_json_object(path) if path.is_file() else {}
