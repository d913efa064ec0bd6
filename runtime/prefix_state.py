"""Prefix state: what an engine computed for a system prompt, in a file, so that an answer begins with reading it.

File: the magic bytes, the header's length (uint32, little-endian), the header (JSON, UTF-8), zeros up to a multiple of
64 bytes, then the engine's own bytes (see :class:`edgestill.runtime.engine.KeepsState`). The header names the model by
sha256, the engine's layout, the token ids, and size and sha256 of what follows: a state of other weights, of another
engine, or with a changed byte is refused.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.dataset import Message
from edgestill.errors import InputError, ModelFileError, UnsupportedError
from edgestill.runtime.engine import Engine, KeepsState
from edgestill.runtime.tokenizer import Tokenizer
from edgestill.storage import whole_file

PREFIX_FILE: Final = "prefix.state"
"""Beside a model, where a session looks for it."""

SCHEMA: Final = "edgestill.prefix/1"
_MAGIC: Final = b"ESPREFIX"
_ALIGNMENT: Final = 64
_MAX_HEADER: Final = 16 << 20
_MAX_TOKENS: Final = 1 << 20
# No text after the system prompt begins like another of these, so what they share ends where the user's text begins.
_PROBES: Final = ("A", "7", "\u00e9", "\u4e2d", "(", " x", "\nx")


@dataclass(frozen=True)
class PrefixState:
    """An opened file: ``token_ids`` are those whose keys and values it holds, ``system`` the message that they say.

    ``model_sha256`` and ``layout`` are what it fits; ``offset``, ``size`` and ``sha256`` say where its bytes lie.
    """

    path: Path
    token_ids: tuple[int, ...]
    system: str | None
    model_sha256: str
    layout: str
    offset: int
    size: int
    sha256: str

    def misfit(self, engine: Engine, model_sha256: str) -> str | None:
        """Return why this engine, with a model of that hash loaded, can't take it; None when it can."""
        if not isinstance(engine, KeepsState):
            return f"{self.path}: the {engine.name} engine takes no state"
        if model_sha256 != self.model_sha256:
            return f"{self.path}: made for another model (sha256 {self.model_sha256[:12]}, not {model_sha256[:12]})"
        if engine.state_layout != self.layout:
            return f"{self.path}: made for {self.layout!r}, this engine is {engine.state_layout!r}"
        if len(self.token_ids) >= engine.context_length:
            return f"{self.path}: {len(self.token_ids)} tokens, and the context holds {engine.context_length}"
        if max(self.token_ids) >= engine.vocab_size:
            return f"{self.path}: token id {max(self.token_ids)} is outside the vocabulary of {engine.vocab_size}"
        return None

    def read(self) -> NDArray[np.uint8]:
        """Return the engine's bytes, uint8, memory-mapped, checked against their hash.

        Raises ModelFileError when they changed.
        """
        try:
            state: NDArray[np.uint8] = np.memmap(self.path, np.uint8, "r", self.offset, (self.size,))
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{self.path}: can't be read ({error})") from error
        if hashlib.sha256(state.data).hexdigest() != self.sha256:
            raise ModelFileError(f"{self.path}: its bytes changed (sha256 differs from the header); make it again")
        return state


def write_prefix_state(
    path: Path, engine: Engine, token_ids: Sequence[int], *, model_sha256: str, system: str | None = None
) -> PrefixState:
    """Compute ``token_ids`` from an empty KV cache and write the state to ``path``, whole or not at all.

    Raises UnsupportedError for an engine without states, InputError when there are no tokens or no room for more after
    them.
    """
    if not isinstance(engine, KeepsState):
        raise UnsupportedError(f"the {engine.name} engine keeps no state; give a GGUF or ONNX file")
    if not 0 < len(token_ids) < engine.context_length:
        raise InputError(
            f"a prefix of {len(token_ids)} tokens in a context of {engine.context_length}: "
            "at least one token, and room for one more, are wanted"
        )
    engine.rewind(0)
    engine.append(token_ids)
    state = engine.save_state()
    engine.rewind(0)
    header = {
        "schema": SCHEMA,
        "model_sha256": model_sha256,
        "layout": engine.state_layout,
        "system": system,
        "token_ids": [int(token) for token in token_ids],
        "size": len(state),
        "sha256": hashlib.sha256(state.data).hexdigest(),
    }
    text = json.dumps(header, ensure_ascii=False).encode()
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(_MAGIC + struct.pack("<I", len(text)) + text)
        file.write(bytes(-file.tell() % _ALIGNMENT))
        file.write(state.data)
    return open_prefix_state(path)


def open_prefix_state(path: Path) -> PrefixState:
    """Read a file's header; its state is read when it is needed.

    Raises ModelFileError for a file that isn't one, is cut short, or has a header that makes no sense.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC) + 4)
            if start[: len(_MAGIC)] != _MAGIC or len(start) < len(_MAGIC) + 4:
                raise ModelFileError(f"{path}: not a prefix state (it doesn't begin with {_MAGIC.decode()})")
            (length,) = struct.unpack("<I", start[len(_MAGIC) :])
            if length > _MAX_HEADER:
                raise ModelFileError(f"{path}: a header of {length} bytes; at most {_MAX_HEADER} are read")
            text = file.read(length)
            found = file.seek(0, 2)
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read ({error.strerror})") from error
    try:
        header = json.loads(text)
        if header["schema"] != SCHEMA:
            raise ModelFileError(f"{path}: schema {header['schema']!r} is not {SCHEMA!r}; make it again")
        offset = -(-(len(start) + length) // _ALIGNMENT) * _ALIGNMENT
        state = PrefixState(
            path=path,
            token_ids=tuple(_token(value) for value in header["token_ids"]),
            system=None if header["system"] is None else str(header["system"]),
            model_sha256=str(header["model_sha256"]),
            layout=str(header["layout"]),
            offset=offset,
            size=_token(header["size"]),
            sha256=str(header["sha256"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: not a prefix state's header ({error})") from error
    if not 0 < len(state.token_ids) <= _MAX_TOKENS:
        raise ModelFileError(f"{path}: {len(state.token_ids)} tokens; 1 to {_MAX_TOKENS} are expected")
    if found != state.offset + state.size:
        raise ModelFileError(f"{path}: {found} bytes, its header says {state.offset + state.size}; copy it again")
    return state


def system_prefix(tokenizer: Tokenizer, system: str) -> list[int]:
    """Return the token ids that every conversation with this system message begins with.

    They are what the rendered prompts of very different first questions share: where the template or the tokenizer
    joins the end of the message to what follows, the prefix ends before it. Raises InputError where the template has no
    place for a system message, or puts the question first.
    """
    from edgestill.runtime.session import render_prompt

    rendered = [render_prompt(tokenizer, (Message("system", system), Message("user", text))) for text in _PROBES]
    shortest = min(map(len, rendered))
    same = next((at for at in range(shortest) if len({ids[at] for ids in rendered}) > 1), shortest)
    alone = render_prompt(tokenizer, (Message("user", _PROBES[0]),))
    own = next((at for at in range(min(same, len(alone))) if alone[at] != rendered[0][at]), min(same, len(alone)))
    if same <= own:
        raise InputError("the chat template doesn't begin with the system message; there is nothing to keep ready")
    return rendered[0][:same]


def _token(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value
