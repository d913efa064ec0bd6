"""The C library in Python by ctypes: the same answers as :class:`edgestill.runtime.session.Session`.

For tests of the library, and for whoever has it and no llama-cpp-python.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from edgestill.dataset import Message
from edgestill.errors import (
    BundleError,
    ContextFullError,
    EdgestillError,
    GateError,
    InputError,
    ModelFileError,
    StageError,
)
from edgestill.runtime.generation import GenerationOptions

ABI_VERSION: Final = 2
_CANCELLED: Final = 8
_ROOM: Final = 10
_ERRORS: Final[dict[int, type[EdgestillError]]] = {
    1: InputError,
    2: InputError,
    3: ModelFileError,
    4: BundleError,
    5: StageError,
    6: ContextFullError,
    7: StageError,
    8: StageError,
    9: GateError,
    10: StageError,
    11: StageError,
}
"""es_status -> what it is raised as."""


class _Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int32),
        ("context_length", ctypes.c_int32),
        ("no_mmap", ctypes.c_int32),
        ("no_verify", ctypes.c_int32),
        ("kv_precision", ctypes.c_char_p),
        ("no_repack", ctypes.c_int32),
    ]


class _Generation(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("max_new_tokens", ctypes.c_int32),
        ("ignore_eos", ctypes.c_int32),
        ("temperature", ctypes.c_float),
        ("top_k", ctypes.c_int32),
        ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float),
        ("seed", ctypes.c_uint64),
        ("stop", ctypes.POINTER(ctypes.c_char_p)),
        ("stops", ctypes.c_size_t),
    ]


_OnToken = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t
)
_OnText = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t)

Consumer = Callable[[int, str], bool | None]
"""Gets each token and the text that it completes; True ends the answer."""


class NativeLibrary:
    """``libedgestill.so``, loaded. Raises InputError when it isn't one of this version."""

    def __init__(self, path: Path) -> None:
        try:
            self.functions: Any = ctypes.CDLL(str(path))
            version = self.functions.es_abi_version()
        except (OSError, AttributeError) as error:
            raise InputError(f"{path}: not edgestill's library ({error})") from error
        if version != ABI_VERSION:
            raise InputError(f"{path}: its ABI is version {version}, not {ABI_VERSION}; build it again")
        self.functions.es_error.restype = ctypes.c_char_p

    def check(self, status: int) -> None:
        """Raise what a status stands for, unless it is ES_OK."""
        if status:
            text = self.functions.es_error().decode("utf-8", "replace")
            raise _ERRORS.get(status, StageError)(text)

    def probe(self) -> dict[str, Any]:
        """Measure what this device reads and computes in a second, by one core and by all (see ``es_probe``)."""
        found: list[bytes] = []
        self.check(self.functions.es_probe(_OnText(lambda _user, text, length: found.append(text[:length])), None))
        value: dict[str, Any] = json.loads(found[0])
        return value

    def open(
        self,
        path: Path,
        artifact: str | None = None,
        *,
        threads: int = 0,
        context_length: int = 0,
        mmap: bool = True,
        verify: bool = True,
        kv_precision: str | None = None,
        repack: bool = True,
    ) -> NativeSession:
        """Open a bundle's artifact or a .gguf file (see ``es_open``); without ``verify`` no file is hashed.

        Raises EdgestillError's kinds.
        """
        options = _Options(
            ctypes.sizeof(_Options),
            threads,
            context_length,
            not mmap,
            not verify,
            kv_precision.encode() if kv_precision else None,
            not repack,
        )
        pointer = ctypes.c_void_p()
        name = artifact.encode() if artifact is not None else None
        self.check(self.functions.es_open(bytes(path), name, ctypes.byref(options), ctypes.byref(pointer)))
        return NativeSession(self, pointer)


class NativeSession:
    """One opened model. ``last`` is what the library says of the last answer."""

    def __init__(self, library: NativeLibrary, pointer: ctypes.c_void_p) -> None:
        self._library = library
        self._functions = library.functions
        self._pointer = pointer
        # Made once: a callback costs as much as a small model's token.
        self._given = given = list[bytes]()
        self._give = _OnText(lambda _user, text, length: given.append(text[:length]))

    def __enter__(self) -> NativeSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._functions.es_close(self._pointer)
        self._pointer = ctypes.c_void_p()

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Return a text's token ids."""
        data = text.encode("utf-8", "surrogatepass")

        def call(ids: Any, room: int, count: Any) -> int:
            return int(
                self._functions.es_tokenize(
                    self._pointer, data, ctypes.c_size_t(len(data)), add_special, ids, ctypes.c_size_t(room), count
                )
            )

        return self._ids(call)

    def apply_template(self, messages: Sequence[Message]) -> str:
        """Return a conversation as the model was trained on it, ready for its answer."""
        said = json.dumps([{"role": message.role, "content": message.content} for message in messages]).encode()
        return self._text(lambda give: self._functions.es_apply_template(self._pointer, said, give, None))

    def generate(
        self, prompt_ids: Sequence[int], options: GenerationOptions | None = None, consume: Consumer | None = None
    ) -> tuple[list[int], str]:
        """Answer a prompt of token ids; return the answer's ids and text. A cancelled answer is returned as it is.

        Without ``consume`` the library goes from token to token by itself, and Ctrl-C waits for the answer's end.
        ``options`` without a repetition penalty and a constraint, which the library hasn't (InputError). Another
        seed's numbers are drawn than Python's.
        """
        options = options or GenerationOptions()
        sampling = options.sampling
        if sampling.repetition_penalty != 1.0 or options.constraint is not None:
            raise InputError("the native library has no repetition_penalty and no constraint; leave them out")
        stops = (ctypes.c_char_p * max(len(options.stop), 1))(*(stop.encode() for stop in options.stop))
        asked = _Generation(
            size=ctypes.sizeof(_Generation),
            max_new_tokens=options.max_new_tokens,
            ignore_eos=options.ignore_eos,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed or 0,
            stop=stops,
            stops=len(options.stop),
        )
        failures: list[BaseException] = []

        def take(_user: object, token: int, text: Any, length: int) -> int:
            assert consume is not None  # else it isn't called
            try:
                return int(bool(consume(token, text[:length].decode("utf-8"))))
            except BaseException as error:  # noqa: BLE001 (nothing may pass through C)
                failures.append(error)
                return 1

        ids = (ctypes.c_int32 * max(len(prompt_ids), 1))(*prompt_ids)
        on_token = None if consume is None else _OnToken(take)
        status = self._functions.es_generate(
            self._pointer, ids, ctypes.c_size_t(len(prompt_ids)), ctypes.byref(asked), on_token, None
        )
        if failures:
            raise failures[0]
        if status != _CANCELLED:
            self._library.check(status)
        return self.answer(), self._text(lambda give: self._functions.es_text(self._pointer, give, None))

    def answer(self) -> list[int]:
        """Return the last answer's token ids, the one that ended it included."""
        return self._ids(
            lambda ids, room, count: self._functions.es_answer(self._pointer, ids, ctypes.c_size_t(room), count)
        )

    def cancel(self) -> None:
        """End the answer under way; from any thread."""
        self._functions.es_cancel(self._pointer)

    def reset(self) -> None:
        """Forget the sequence in the KV cache."""
        self._library.check(self._functions.es_reset(self._pointer))

    def save_state(self, path: Path) -> None:
        """Write the sequence in the KV cache to a file."""
        self._library.check(self._functions.es_save_state(self._pointer, bytes(path)))

    def load_state(self, path: Path) -> None:
        """Read it back."""
        self._library.check(self._functions.es_load_state(self._pointer, bytes(path)))

    def statistics(self) -> dict[str, Any]:
        """Return the model's figures and the last answer's."""
        return self._json(lambda give: self._functions.es_statistics(self._pointer, give, None))

    def bench(self, prompt_tokens: int = 128, new_tokens: int = 64, repetitions: int = 5) -> dict[str, Any]:
        """Measure; return all samples."""
        return self._json(
            lambda give: self._functions.es_bench(self._pointer, prompt_tokens, new_tokens, repetitions, give, None)
        )

    def selftest(self) -> dict[str, Any]:
        """Answer the bundle's golden prompts again. Raises GateError for another answer."""
        return self._json(lambda give: self._functions.es_selftest(self._pointer, give, None))

    def _ids(self, call: Callable[[Any, int, Any], int]) -> list[int]:
        count = ctypes.c_size_t()
        room = 256
        while True:
            ids = (ctypes.c_int32 * room)()
            status = call(ids, room, ctypes.byref(count))
            if status != _ROOM:
                self._library.check(status)
                return list(ids[: count.value])
            room = count.value

    def _text(self, call: Callable[[Any], int]) -> str:
        self._given.clear()
        self._library.check(call(self._give))
        return self._given[0].decode("utf-8")

    def _json(self, call: Callable[[Any], int]) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._text(call))
        return value
