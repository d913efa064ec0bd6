"""The tokenizer of a GGUF file as llama.cpp runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgestill.errors import ModelFileError
from edgestill.export.gguf_tokenizer import GgufTokenizer, open_writer


class Vocabulary:
    """The tokenizer of a GGUF file as llama.cpp runs it; made by :func:`open_vocabulary`."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return llama.cpp's ids; special tokens in the text are taken for what they are."""
        data = text.encode()
        room = len(data) + 8
        ids = (self._library.llama_token * room)()
        count = self._library.llama_tokenize(self._handle, data, len(data), ids, room, add_special, True)
        if count < 0:
            ids = (self._library.llama_token * -count)()
            count = self._library.llama_tokenize(self._handle, data, len(data), ids, -count, add_special, True)
        return list(ids[:count])

    def is_control(self, token_id: int) -> bool:
        """Whether llama.cpp takes this token for a control token, whatever the file says."""
        return bool(self._library.llama_vocab_is_control(self._handle, token_id))

    def ends_generation(self, token_id: int) -> bool:
        """Whether llama.cpp stops at this token."""
        return bool(self._library.llama_vocab_is_eog(self._handle, token_id))


@contextlib.contextmanager
def open_vocabulary(path: Path) -> Iterator[Vocabulary]:
    """Load only the tokenizer of a GGUF file. Raises ModelFileError when llama.cpp refuses it."""
    from edgestill.runtime.engines.llama_cpp import library

    llama_cpp = library()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise ModelFileError(f"{path}: llama.cpp can't load its tokenizer")
    try:
        yield Vocabulary(llama_cpp, llama_cpp.llama_model_get_vocab(model))
    finally:
        llama_cpp.llama_model_free(model)


@contextlib.contextmanager
def vocabulary_of(tokenizer: GgufTokenizer, architecture: str, scratch: Path) -> Iterator[Vocabulary]:
    """Load a tokenizer from a file of its own in the folder ``scratch``, removed again.

    Raises ModelFileError when llama.cpp refuses it.
    """
    path = scratch / "vocabulary.gguf"
    try:
        writer = open_writer(path, architecture)
        try:
            writer.add_name(tokenizer.model_name(architecture))
            tokenizer.write(writer)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        with open_vocabulary(path) as vocabulary:
            yield vocabulary
    finally:
        path.unlink(missing_ok=True)
