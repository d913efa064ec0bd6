"""A checkpoint's tokenizer.json: opened with the library tokenizers, guarded against damaged files."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers

from edgestill.artifact import Checkpoint, read_json_object
from edgestill.errors import CheckpointError

_MOST_TOKENS: Final = 1 << 24
_LONG_NUMBER: Final = re.compile(rb"[0-9]{8}")


@dataclass(frozen=True)
class SourceTokenizer:
    """The original: ``encoder`` tokenises, ``described`` is its tokenizer.json, parsed."""

    path: Path
    encoder: tokenizers.Tokenizer
    described: dict[str, Any]

    @property
    def composes(self) -> bool:
        """Whether it composes its input (Unicode NFC or NFKC) before splitting."""
        return not {"NFC", "NFKC"}.isdisjoint(kinds(self.described["normalizer"]))

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return the ids of a text; special tokens in it are taken for what they are."""
        with _readable(self.path):
            ids: list[int] = self.encoder.encode(text, add_special_tokens=add_special).ids
        return ids

    def normalized(self, text: str) -> str:
        """Return ``text`` after the normalizer."""
        normalizer = self.encoder.normalizer
        with _readable(self.path):
            return str(normalizer.normalize_str(text)) if normalizer is not None else text

    def cut(self, text: str) -> list[str]:
        """Return the pieces that the pre-tokenizer cuts ``text`` (normalised already) in, as the model sees them."""
        splitter = self.encoder.pre_tokenizer
        if splitter is None:
            return [text]
        with _readable(self.path):
            return [piece for piece, _ in splitter.pre_tokenize_str(text)]

    def seen(self, text: str) -> str:
        """Return what the model sees of ``text`` (without added tokens in it), spaces written as U+2581."""
        return "".join(self.cut(self.normalized(text)))

    def with_model(self, model: dict[str, Any]) -> SourceTokenizer:
        """Return a copy with another model."""
        described = {**self.described, "model": model}
        with _readable(self.path):
            return SourceTokenizer(self.path, tokenizers.Tokenizer.from_str(json.dumps(described)), described)

    def check_rows(self, rows: int) -> None:
        """Raise CheckpointError when a token has no row in an embedding of so many."""
        highest = max(self.encoder.get_vocab(with_added_tokens=True).values(), default=-1)
        if highest >= rows:
            raise CheckpointError(f"{self.path}: token id {highest} has no row in the embedding ({rows} rows)")

    def first_token(self, text: str) -> str:
        """Return the text of the first token of ``text``, empty when it has none."""
        with _readable(self.path):
            return next(iter(self.encoder.encode(text, add_special_tokens=False).tokens), "")

    def spellings(self, ids: list[int]) -> list[str]:
        """Return each token decoded by itself."""
        with _readable(self.path):
            words: list[str] = self.encoder.decode_batch([[token_id] for token_id in ids], skip_special_tokens=False)
        return words


def load_tokenizer(checkpoint: Checkpoint) -> SourceTokenizer:
    """Load tokenizer.json, without truncation or padding. Raises CheckpointError when missing or damaged."""
    path = checkpoint.path / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; save the tokenizer in its fast form (tokenizer.json) beside the model")
    _check_ids(path)
    with _readable(path):
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return SourceTokenizer(path, tokenizer, json.loads(tokenizer.to_str()))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the library tokenizers raises over a damaged file into a CheckpointError."""
    try:
        yield
    except BaseException as error:
        # It raises bare Exception, and panics of Rust come as pyo3's PanicException, which isn't one.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path}: not a readable tokenizer ({' '.join(str(error).split())})") from error


def _check_ids(path: Path) -> None:
    """Raise CheckpointError for ids that would make the library allocate without end."""
    # Parsing takes a quarter of a second where a vocabulary is large, and hardly a file has a number so long.
    with contextlib.suppress(OSError):
        if _LONG_NUMBER.search(path.read_bytes()) is None:
            return
    values = read_json_object(path)
    model, added = values.get("model"), values.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    ids += [entry.get("id") for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
    for token_id in ids:
        if isinstance(token_id, int) and token_id >= _MOST_TOKENS:
            raise CheckpointError(f"{path}: token id {token_id} is past {_MOST_TOKENS}")


def kinds(part: object) -> list[str]:
    """Return the types in a tokenizer.json part (a normalizer or pre-tokenizer), sequences flattened."""
    if not isinstance(part, dict):
        return []
    inner = part.get("pretokenizers") or part.get("normalizers")
    return [kind for item in inner for kind in kinds(item)] if isinstance(inner, list) else [str(part.get("type"))]
