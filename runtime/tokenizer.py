"""Tokenizers: text to token ids and back, from tokenizer.json or from a GGUF file's own vocabulary."""

from __future__ import annotations

import codecs
import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from edgestill.artifact import read_json_object
from edgestill.errors import CheckpointError, InputError, StageError

if TYPE_CHECKING:
    from edgestill.runtime.engines.llama_cpp import LlamaCppEngine

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_MAX_TEMPLATE_BYTES: Final = 4 << 20

EOS_METADATA_KEY: Final = "edgestill.eos_token_ids"
"""GGUF metadata (a string of comma-separated ids): every id that ends an answer, where there are several."""

BYTE_FALLBACK_KEY: Final = "edgestill.byte_fallback"
"""GGUF metadata (a bool) of a Unigram vocabulary: its tokens <0x00> to <0xFF> are bytes, though llama.cpp has none."""


class Tokenizer(Protocol):
    """Text to token ids and back.

    ``eos_ids`` end an answer; ``special_ids`` are control tokens that :meth:`decode` skips;
    ``bos_token`` and ``eos_token`` are the texts that a chat template writes.
    """

    vocab_size: int
    bos_id: int | None
    eos_ids: frozenset[int]
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of control tokens."""

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Return the ids of ``text``; special tokens written in it are recognised.

        ``add_special`` adds what the model expects around a text (usually the BOS token before it).
        """

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of ``ids``; bytes that aren't UTF-8 become U+FFFD."""


@runtime_checkable
class BytePieces(Protocol):
    """A tokenizer whose text is the bytes of its tokens, one after another, where ``joins_bytes`` is True."""

    joins_bytes: bool
    strips_first_space: bool

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token adds to the text (none for a special one)."""


class StreamDecoder:
    """Decodes token by token; the pieces together equal ``tokenizer.decode`` of all ids.

    A piece never ends inside a UTF-8 character: what isn't whole yet waits for the next token, and
    :meth:`finish` returns what is left.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = tokenizer if isinstance(tokenizer, BytePieces) and tokenizer.joins_bytes else None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = self._bytes is not None and self._bytes.strips_first_space
        # Without pieces of bytes: the window that is decoded again, and how much of it was returned.
        self._ids: list[int] = []
        self._settled = 0
        self._shown = ""

    def push(self, token_id: int) -> str:
        """Return the text that ``token_id`` completes, perhaps none."""
        if self._bytes is not None:
            return self._decode_bytes(self._bytes.token_bytes(token_id))
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(_REPLACEMENT) or len(text) <= len(self._shown):
            return ""
        piece = text[len(self._shown) :]
        # The last settled tokens stay in the window: some decoders treat the first one differently.
        self._ids = self._ids[self._settled :]
        self._settled = len(self._ids)
        self._shown = self._tokenizer.decode(self._ids)
        return piece

    def finish(self) -> str:
        """Return the text that was held back; the decoder must not be used after."""
        if self._bytes is not None:
            return self._utf8.decode(b"", final=True)
        return self._tokenizer.decode(self._ids)[len(self._shown) :] if self._ids else ""

    def _decode_bytes(self, data: bytes) -> str:
        if self._at_start and data:
            self._at_start = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)


class FastTokenizer:
    """A tokenizer.json and the files beside it, as transformers reads them.

    What is added around a text is the post-processor's in tokenizer.json; like transformers 5, no
    ``add_bos_token`` beside it is asked.
    """

    def __init__(self, folder: Path) -> None:
        """Read a model folder's tokenizer. Raises CheckpointError when a file is missing or damaged."""
        import tokenizers
        import tokenizers.decoders

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{folder}: no tokenizer.json in it; save the tokenizer in its fast form beside the model"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{path}: not a readable tokenizer ({str(error).splitlines()[0]})") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = _optional_json(folder / "tokenizer_config.json")
        names = {**_optional_json(folder / "special_tokens_map.json"), **config}
        self.bos_token = _token_text(names.get("bos_token"))
        self.eos_token = _token_text(names.get("eos_token"))
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.bos_id = self._id(self.bos_token)
        self.chat_template = _chat_template(folder, config)
        self.joins_bytes = isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel)
        self.strips_first_space = False
        self._pieces: dict[int, bytes] = {}
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        self.eos_ids = _eos_ids(folder) | ({end} if (end := self._id(self.eos_token)) is not None else set())

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special).ids
        return ids

    def encode_within(self, text: str, longest: int) -> tuple[list[int], list[int], bool]:
        """Return at most ``longest`` ids, special tokens among them, their segments, and whether it was cut."""
        encoding = self._tokenizer.encode(text)
        cut = len(encoding.ids) > longest
        if cut:
            self._tokenizer.enable_truncation(longest)  # leaves room for the special tokens
            try:
                encoding = self._tokenizer.encode(text)
            finally:
                self._tokenizer.no_truncation()
        return encoding.ids, encoding.type_ids, cut

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def to_json(self) -> str:
        """Return the tokenizer as the text of a tokenizer.json."""
        return str(self._tokenizer.to_str())

    def token_bytes(self, token_id: int) -> bytes:
        piece = self._pieces.get(token_id)
        if piece is None:
            token = None if token_id in self.special_ids else self._tokenizer.id_to_token(token_id)
            piece = self._pieces[token_id] = b"" if token is None else _byte_level(token)
        return piece

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._tokenizer.token_to_id(token)


@functools.cache
def _byte_of() -> dict[str, int]:
    """Return GPT-2's alphabet of byte-level BPE: printable Latin-1 stands for itself, the rest from U+0100 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + rank): byte for rank, byte in enumerate(others)}


def _byte_level(token: str) -> bytes:
    """Return the bytes that a token of byte-level BPE stands for; an added token is its own text."""
    alphabet = _byte_of()
    try:
        return bytes([alphabet[letter] for letter in token])
    except KeyError:
        return token.encode()


def _optional_json(path: Path) -> dict[str, object]:
    return read_json_object(path) if path.is_file() else {}


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):  # an AddedToken written out
        value = value.get("content")
    return value if isinstance(value, str) else None


def _eos_ids(folder: Path) -> frozenset[int]:
    """Return the ids that generation_config.json, else config.json, lists as ends (a number or a list)."""
    for name in ("generation_config.json", "config.json"):
        value = _optional_json(folder / name).get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if found := frozenset(number for number in ids if isinstance(number, int)):
            return found
    return frozenset()


def _chat_template(folder: Path, config: dict[str, object]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        if path.stat().st_size > _MAX_TEMPLATE_BYTES:
            raise CheckpointError(f"{path}: longer than {_MAX_TEMPLATE_BYTES} bytes")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: not UTF-8 text ({error})") from error
    value = config.get("chat_template")
    if isinstance(value, list):  # several named ones
        value = next(
            (one.get("template") for one in value if isinstance(one, dict) and one.get("name") == "default"), None
        )
    return value if isinstance(value, str) else None


class GgufTokenizer:
    """The tokenizer inside a loaded GGUF file, run by llama.cpp.

    ``folder`` (optional) holds a generation_config.json, whose ends are added to the file's own.
    """

    def __init__(self, engine: LlamaCppEngine, folder: Path | None = None) -> None:
        from edgestill.runtime.engines.llama_cpp import library

        self._llama = llama = library()
        self._engine = engine
        self._vocab = vocab = engine.vocab_pointer
        self.vocab_size: int = engine.vocab_size
        bos: int = llama.llama_vocab_bos(vocab)
        eos: int = llama.llama_vocab_eos(vocab)
        self.bos_id = bos if bos >= 0 else None
        self.bos_token = llama.llama_vocab_get_text(vocab, bos).decode() if bos >= 0 else None
        self.eos_token = llama.llama_vocab_get_text(vocab, eos).decode() if eos >= 0 else None
        template = llama.llama_model_chat_template(engine.model_pointer, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        self._pieces: dict[int, bytes] = {}
        self.joins_bytes = True
        spm = llama.llama_vocab_type(vocab) == llama.LLAMA_VOCAB_TYPE_SPM
        unigram = llama.llama_vocab_type(vocab) == llama.LLAMA_VOCAB_TYPE_UGM
        prefixed = self._metadata("tokenizer.ggml.add_space_prefix")
        self.strips_first_space = (spm and prefixed != "false") or (unigram and prefixed == "true")
        fallback = unigram and self._metadata(BYTE_FALLBACK_KEY) == "true"
        self._byte_tokens = self._spelled_bytes() if fallback else {}
        is_end = llama.llama_vocab_is_eog
        own = frozenset(number for number in range(self.vocab_size) if is_end(vocab, number))
        listed = (self._metadata(EOS_METADATA_KEY) or "").split(",")
        more = frozenset(int(number) for number in listed if number.strip().isdecimal())
        self.eos_ids = own | more | (_eos_ids(folder) if folder is not None else frozenset())

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        control = self._llama.llama_vocab_is_control
        return frozenset(number for number in range(self.vocab_size) if control(self._vocab, number))

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        if self._engine.model_pointer is None:
            raise StageError("the model was closed; open it again")
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8
        for _ in range(2):
            ids = (ctypes.c_int32 * room)()
            count: int = self._llama.llama_tokenize(self._vocab, data, len(data), ids, room, add_special, True)
            if count >= 0:
                return list(ids[:count])
            room = -count
        raise InputError(f"llama.cpp can't tokenize a text of {len(data)} bytes")

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        if skip_special:
            try:
                data = b"".join(map(self._pieces.__getitem__, ids))
            except KeyError:
                data = b"".join(map(self.token_bytes, ids))
        else:
            data = b"".join(self._piece(number, True) for number in ids)
        return (data.removeprefix(b" ") if self.strips_first_space else data).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._piece(token_id, False)
        return piece

    def _piece(self, token_id: int, special: bool) -> bytes:
        if not 0 <= token_id < self.vocab_size:
            raise InputError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        if (byte := self._byte_tokens.get(token_id)) is not None:
            return byte
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size: int = self._llama.llama_token_to_piece(self._vocab, token_id, buffer, room, 0, special)
            if size >= 0:
                return buffer.raw[:size]
            room = -size

    def _spelled_bytes(self) -> dict[int, bytes]:
        """Return the bytes of the tokens <0x00> to <0xFF>, by token id."""
        texts = {b"<0x%02X>" % byte: bytes([byte]) for byte in range(256)}
        get_text = self._llama.llama_vocab_get_text
        named = ((number, get_text(self._vocab, number)) for number in range(self.vocab_size))
        return {number: texts[text] for number, text in named if text in texts}

    def _metadata(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(4096)
        size = self._llama.llama_model_meta_val_str(self._engine.model_pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None
