"""The llama.cpp engine: GGUF files through llama-cpp-python's low-level functions.

Its ``Llama`` class copies every logit into arrays of its own; here ``append`` returns a view of
llama.cpp's output buffer. What llama.cpp logs goes to :func:`log_to`'s file and never to stderr.
"""

from __future__ import annotations

import collections
import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from edgestill.bench_results import EngineBuild
from edgestill.errors import ContextFullError, EdgestillError, InputError, ModelFileError, StageError
from edgestill.runtime.engine import NOT_NUMBERS, Logits, MemoryPart, check_room
from edgestill.runtime.engine_builds import llama_features
from edgestill.runtime.engine_options import DEFAULTS, EngineOptions, KvPrecision
from edgestill.runtime.engines import DEFAULT_CONTEXT, register, require
from edgestill.runtime.gguf_header import read_gguf_header
from edgestill.runtime.llama_attention import choose, longest_piece
from edgestill.runtime.llama_buffers import MARK, logged_parts
from edgestill.runtime.llama_calls import bytes_of, refuse_closed, returning_an_address
from edgestill.runtime.llama_threads import attach_threads
from edgestill.runtime.model_source import ModelSource
from edgestill.runtime.token_loop import Decoded, TokenLoop, token_loop_library
from edgestill.threads import spinning_while_answering

_MAX_UBATCH: Final = 512
_OUTPUT_FLOATS: Final = 1 << 22
_ERROR_LEVEL: Final = 4
_CONTINUED: Final = 5

_lines: collections.deque[tuple[int, str]] = collections.deque(maxlen=500)
_buffers: list[str] = []  # of the last load: a few lines among thousands
_file: TextIO | None = None
_callback: Any = None  # llama.cpp keeps its address: it must live as long as the process


def log_to(path: Path | None) -> None:
    """Append what llama.cpp logs from now on to a file (None: keep only the last 500 lines in memory)."""
    global _file
    if _file is not None:
        _file.close()
    _file = None if path is None else path.open("a", encoding="utf-8", buffering=1)


def log_lines() -> list[str]:
    """Return the last lines that llama.cpp logged, oldest first, at most 500."""
    return [text for _, text in _lines]


def library() -> Any:
    """Return the llama_cpp module with its logging turned to :func:`log_to`.

    Every use of llama_cpp goes through here. Raises MissingDependencyError when it isn't installed.
    """
    global _callback
    with spinning_while_answering():
        module = require("llama_cpp", engine="llama.cpp", extra="gguf")
    if _callback is None:
        _callback = module.llama_log_callback(_log)
        module.llama_log_set(_callback, ctypes.c_void_p(0))
        module.llama_backend_init()
    return module


def _log(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", "replace")
    if _file is not None:
        _file.write(line)
    if level == _CONTINUED and _lines:
        level, before = _lines.pop()
        _lines.append((level, before + line.rstrip("\n")))
    elif line.strip():
        _lines.append((level, line.rstrip("\n")))
        if MARK in line:
            _buffers.append(line)


@register("llama.cpp", kinds=("gguf",), options=("mmap", "kv_precision", "flash_attention"))
def open_llama_cpp(
    source: ModelSource, threads: int, context_length: int | None, options: EngineOptions = DEFAULTS
) -> LlamaCppEngine:
    """Load a GGUF file on the CPU.

    Raises ModelFileError with llama.cpp's own reason when the file is damaged or unsupported, InputError when its heads
    don't fill the blocks of a quantised KV cache, or that should do without flash attention.
    """
    return LlamaCppEngine(
        source.path,
        threads=threads,
        context_length=context_length,
        kv_precision=options.kv_precision,
        flash_attention=options.flash_attention,
        mmap=options.mmap,
    )


_GELU_ARCHITECTURES: Final = frozenset({"gemma", "gemma2", "gemma3", "gpt2"})
"""Architectures with a GELU: ggml's CPU kernel looks it up in a table of float16."""


class LlamaCppEngine:
    """A GGUF model with one sequence; see :class:`edgestill.runtime.engine.Engine`.

    ``kv_precision`` is the KV cache's: ``f32`` for a file that is float32 throughout (so that it computes
    what torch does), else ``f16``. ``flash_attention``: see :func:`edgestill.runtime.llama_attention.choose`. Without
    ``mmap`` weights are read into memory.
    ``model_pointer`` and ``context_pointer`` are llama.cpp's handles.
    """

    name = "llama.cpp"

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        context_length: int | None = None,
        kv_precision: KvPrecision | None = None,
        flash_attention: bool | None = None,
        mmap: bool = True,
    ) -> None:
        header = read_gguf_header(path)
        self._llama = llama = library()
        self.model_pointer: Any = None
        self.context_pointer: Any = None
        self._free_threads: Callable[[], None] | None = None
        _lines.clear()
        _buffers.clear()
        settings = self._model_settings()
        if not mmap:
            settings.load_mode = llama.LLAMA_LOAD_MODE_NONE
        self.model_pointer = llama.llama_model_load_from_file(str(path).encode(), settings)
        if not self.model_pointer:
            raise ModelFileError(f"{path}: llama.cpp can't load it ({_first_error()})")
        self.path = path
        self.threads = threads
        self.kv_precision: KvPrecision = kv_precision or ("f32" if header.all_float32 else "f16")
        self.vocab_pointer: Any = llama.llama_model_get_vocab(self.model_pointer)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self.vocab_pointer)
        self.weights_bytes: int | None = llama.llama_model_size(self.model_pointer)
        self.float32 = self._metadata("general.architecture") not in _GELU_ARCHITECTURES
        trained: int = llama.llama_model_n_ctx_train(self.model_pointer)
        self.context_length = min(trained or DEFAULT_CONTEXT, context_length or DEFAULT_CONTEXT)
        # The output buffer and the graph reserved for it grow with vocabulary x outputs: 300 MB for a
        # vocabulary of 150,000 when every position of a ubatch may ask for logits.
        self._outputs = max(32, min(_MAX_UBATCH, _OUTPUT_FLOATS // self.vocab_size))
        try:
            self.flash_attention = choose(self.kv_precision, self.context_length, flash_attention)
            heads = 0 if self.flash_attention else llama.llama_model_n_head(self.model_pointer)
            self._chunk = min(_MAX_UBATCH, self.context_length, longest_piece(heads, self.context_length))
            self.settings: Mapping[str, bool | str] = {
                "mmap": mmap,
                "kv_precision": self.kv_precision,
                "flash_attention": self.flash_attention,
            }
            self.context_pointer = self._open_context(self.model_pointer)
        except BaseException:
            self.close()
            raise
        self._free_threads = attach_threads(llama, self.context_pointer, threads)
        self._memory = llama.llama_get_memory(self.context_pointer)
        self._compute: Callable[[Any, Any], int] = llama.llama_decode
        self._row_address = returning_an_address(llama.llama_get_logits_ith)
        self._parts = tuple(logged_parts(_buffers))
        self._position = 0
        self._token = (ctypes.c_int32 * 1)()
        self._one = llama.llama_batch(n_tokens=1, token=self._token)
        compiled = token_loop_library(ctypes.sizeof(llama.llama_batch))
        self._loop = compiled and TokenLoop(
            compiled, llama.llama_decode, self.context_pointer, self._one, self.vocab_size
        )
        self._tokens = (ctypes.c_int32 * self._chunk)()
        self._piece = llama.llama_batch(token=self._tokens)
        self._wanted = (ctypes.c_int8 * self._chunk)(*([1] * self._chunk))
        self._unwanted = (ctypes.c_int8 * self._chunk)()
        self._address = 0
        self._settled = False
        self._view: Logits = np.empty(0, np.float32)

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        length = self._llama.llama_model_meta_val_str(self.model_pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace") if length >= 0 else ""

    def _model_settings(self) -> Any:
        settings = self._llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        return settings

    def _open_context(self, model: Any) -> Any:
        llama = self._llama
        settings = llama.llama_context_default_params()
        settings.n_ctx = self.context_length
        settings.n_batch = settings.n_ubatch = self._chunk
        settings.n_outputs_max = self._outputs
        settings.n_threads = settings.n_threads_batch = self.threads
        settings.no_perf = True
        settings.type_k = settings.type_v = getattr(llama, f"GGML_TYPE_{self.kv_precision.upper()}")
        quantised = self.kv_precision in ("q8_0", "q4_0")
        switch = "ENABLED" if self.flash_attention else "DISABLED"
        settings.flash_attn_type = getattr(llama, f"LLAMA_FLASH_ATTN_TYPE_{switch}")
        context = llama.llama_init_from_model(model, settings)
        if not context and quantised:
            raise InputError(
                f"{self.path}: llama.cpp can't make a KV cache in {self.kv_precision} ({_first_error()}); use f16"
            )
        if not context:
            raise StageError(
                f"{self.path}: llama.cpp can't make a context of {self.context_length} tokens ({_first_error()})"
            )
        return context

    @property
    def position(self) -> int:
        return self._position

    def append(self, token_ids: Sequence[int] | NDArray[np.integer]) -> Logits:
        count = len(token_ids)
        if count == 1 and self._position < self.context_length:
            # The path of every decoded token: what it costs besides llama.cpp is a hundredth of a small model's time.
            self._token[0] = token_ids[0]
            self._position += 1  # before: Ctrl-C is raised where the call returns, and must not leave more than it says
            if code := self._compute(self.context_pointer, self._one):
                self._fail(code)
        else:
            check_room(self, count)
            ids = token_ids.tolist() if isinstance(token_ids, np.ndarray) else token_ids
            chunk = self._chunk
            for start in range(0, count, chunk):
                # Without flags llama.cpp computes the logits after the last token.
                self._decode(ids[start : start + chunk], None if start + chunk >= count else self._unwanted)
        if self._settled:
            return self._view
        # One output needs no more room than the one before: llama.cpp keeps its buffer, and its row is the first.
        # (Asking where it is takes 2.5 us after a token and 25 after a prompt, as its code is cold by then.)
        self._settled = True
        return self._last_logits()

    @property
    def decodes_greedily(self) -> bool:
        """Whether :meth:`decode_greedily` can be called: the loop is compiled, and a token was computed."""
        return self._settled and self._loop is not None

    def decode_greedily(
        self, token: int, count: int, ends: Iterable[int], cancelled: bytearray
    ) -> tuple[list[int], list[float]]:
        check_room(self, 1)
        self._token[0] = token
        position = self._position
        count = min(count, self.context_length - position)
        self._position += count  # as above
        decoded: Decoded = self._loop.decode(self._address, count, ends, cancelled)
        self._position = position + len(decoded.tokens) + decoded.not_numbers
        if decoded.code:
            self._fail(decoded.code)
        if decoded.not_numbers:
            raise StageError(NOT_NUMBERS)
        return decoded.tokens, decoded.seconds

    def logits(self, token_ids: Sequence[int] | NDArray[np.integer]) -> Logits:
        self.rewind(0)
        check_room(self, len(token_ids))
        ids = token_ids.tolist() if isinstance(token_ids, np.ndarray) else token_ids
        result = np.empty((len(ids), self.vocab_size), np.float32)
        step = min(self._outputs, self._chunk)
        self._settled = False  # more outputs may want a larger buffer
        for start in range(0, len(ids), step):
            piece = ids[start : start + step]
            self._decode(piece, self._wanted)
            rows = self._llama.llama_get_logits(self.context_pointer)
            result[start : start + len(piece)] = np.ctypeslib.as_array(rows, (len(piece), self.vocab_size))
        self.rewind(0)
        return result

    def rewind(self, position: int) -> None:
        if position >= self._position:
            return
        if position <= 0 or not self._llama.llama_memory_seq_rm(self._memory, 0, position, -1):
            self._llama.llama_memory_clear(self._memory, False)
            position = 0
        self._position = position

    @property
    def state_layout(self) -> str:
        """The state's bytes are llama.cpp's own: they depend on its version."""
        attention = "flash attention" if self.flash_attention else "values transposed"
        return f"llama.cpp of llama-cpp-python {self._llama.__version__}, KV cache {self.kv_precision}, {attention}"

    def save_state(self) -> NDArray[np.uint8]:
        state = np.empty(self._llama.llama_state_seq_get_size(self.context_pointer, 0), np.uint8)
        written = self._llama.llama_state_seq_get_data(self.context_pointer, bytes_of(state), len(state), 0)
        if written != len(state):
            raise StageError(f"{self.path}: llama.cpp can't write its state ({_first_error()})")
        return state

    def restore_state(self, state: NDArray[np.uint8], tokens: int) -> None:
        self.rewind(0)
        taken = self._llama.llama_state_seq_set_data(self.context_pointer, bytes_of(state), len(state), 0)
        self._position = self._llama.llama_memory_seq_pos_max(self._memory, 0) + 1
        if taken != len(state) or self._position != tokens:
            self._llama.llama_memory_clear(self._memory, False)
            self._position = 0
            raise ModelFileError(f"{self.path}: llama.cpp refuses a state for {tokens} tokens ({_first_error()})")

    def describe(self) -> EngineBuild:
        llama = self._llama
        text = ctypes.create_string_buffer(256)
        llama.llama_model_desc(self.model_pointer, text, len(text))
        info = llama.llama_print_system_info().decode(errors="replace").strip(" |")
        return EngineBuild(
            version=llama.llama_version().decode(errors="replace"),
            # ggml holds the hash of whatever repository lay around its sources: for a source package, a stranger's.
            commit=None,
            build=info,
            features=llama_features(info),
            settings={
                "batch": str(llama.llama_n_batch(self.context_pointer)),
                "micro_batch": str(llama.llama_n_ubatch(self.context_pointer)),
                "flash_attention": "on" if self.flash_attention else "off",
                "token_loop": "Python's" if self._loop is None else "compiled",
            },
            architecture=text.value.decode(errors="replace"),
            parameters=llama.llama_model_n_params(self.model_pointer),
        )

    def close(self) -> None:
        if self.context_pointer:
            # Whoever goes on all the same is told so: llama.cpp would end the process.
            self._compute, self._loop, self._position = refuse_closed, None, 0
            self._llama.llama_free(self.context_pointer)
            self.context_pointer = None
            if self._free_threads is not None:
                self._free_threads()
        if self.model_pointer:
            self._llama.llama_model_free(self.model_pointer)
            self.model_pointer = None

    def memory(self) -> tuple[MemoryPart, ...]:
        return self._parts

    def open_bare(self) -> Callable[[], None] | None:
        settings = self._model_settings()
        settings.no_alloc = True  # everything of a load but its buffers
        settings.load_mode = self._llama.LLAMA_LOAD_MODE_NONE
        model = self._llama.llama_model_load_from_file(str(self.path).encode(), settings)
        if not model:
            return None
        try:
            context = self._open_context(model)
        except EdgestillError:
            self._llama.llama_model_free(model)
            raise

        def close() -> None:
            self._llama.llama_free(context)
            self._llama.llama_model_free(model)

        return close

    def _decode(self, ids: Sequence[int], flags: Any) -> None:
        count = len(ids)
        self._tokens[:count] = list(ids)
        self._piece.n_tokens = count
        self._piece.logits = flags
        self._position += count  # as in append
        if code := self._compute(self.context_pointer, self._piece):
            self._fail(code)

    def _last_logits(self) -> Logits:
        address = self._row_address(self.context_pointer, -1)
        if address is None:
            raise StageError(f"{self.path}: llama.cpp has no logits ({_first_error()})")
        if address != self._address:  # llama.cpp moved its buffer
            self._address = address
            self._view = np.ctypeslib.as_array((ctypes.c_float * self.vocab_size).from_address(address))
        return self._view

    def _fail(self, code: int) -> None:
        self.rewind(0)
        if code == 1:
            raise ContextFullError(f"{self.path}: no room left in llama.cpp's KV cache; shorten the prompt")
        raise StageError(f"{self.path}: llama.cpp stopped with code {code} ({_first_error()})")


def _first_error() -> str:
    """Return the cause: the lines after it only say that loading failed."""
    errors = [text for level, text in _lines if level == _ERROR_LEVEL]
    return errors[0] if errors else "it gives no reason"
