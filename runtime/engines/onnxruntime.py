"""The onnxruntime engine: a decoder graph with KV inputs and outputs, its KV buffers bound in place.

Inputs and outputs carry onnxruntime-genai's names: ``input_ids`` and ``attention_mask`` int64, optional
``position_ids``; ``past_key_values.{i}.key/value`` and ``present.{i}.key/value`` ``[1, kv_heads, time,
head_dim]``; ``logits`` ``[1, sequence, vocab]``. With GroupQueryAttention one buffer of the whole context
is both past and present: a token writes its keys and values where they belong, and nothing is copied.

Where a file says that its mask may end in zeros (edgestill's own exports do, where it holds), steps of one token are
given a mask that is longer than the sequence and the same from token to token: with a new shape for every token
onnxruntime plans its memory anew, which costs 20 to 35 microseconds.
"""

from __future__ import annotations

import functools
import json
import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.bench_results import EngineBuild
from edgestill.errors import ModelFileError
from edgestill.runtime.engine import Logits, MemoryPart, check_room
from edgestill.runtime.engine_builds import onnxruntime_commit
from edgestill.runtime.engine_options import DEFAULTS, EngineOptions
from edgestill.runtime.engines import DEFAULT_CONTEXT, register, require
from edgestill.runtime.huge_pages import WORTH_BYTES, collapse_anonymous_memory
from edgestill.runtime.model_source import ModelSource
from edgestill.runtime.onnxruntime_arena import LoadTrace
from edgestill.runtime.pagemap import anonymous_bytes

_MAX_CHUNK: Final = 128  # up to a tenth faster than 512: what a layer hands on stays in the cache
_OUTPUT_FLOATS: Final = 1 << 23  # the graph computes every position's logits
_ORIGINAL_CONTEXT_KEY: Final = "edgestill.longrope_original_context"  # as the export writes it
_PADDED_MASK_KEY: Final = "edgestill.mask_may_end_in_zeros"  # likewise
_MASK_STEP: Final = 256
# NodeProto.op_type (field 4, length-delimited) as it stands in the file: no parser is needed to find it.
_SHARED_ATTENTION: Final = b"\x22\x13GroupQueryAttention"
_DTYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@register("onnxruntime", kinds=("onnx",), options=("huge_pages", "arena"))
def open_onnxruntime(
    source: ModelSource, threads: int, context_length: int | None, options: EngineOptions = DEFAULTS
) -> OnnxRuntimeEngine:
    """Load an ONNX decoder on the CPU.

    Raises ModelFileError when onnxruntime refuses the file, or its inputs and outputs aren't a decoder's.
    """
    limit = context_length or DEFAULT_CONTEXT
    if longest := _context_length(source):
        limit = min(limit, longest)
    elif context_length is None:
        raise ModelFileError(
            f"{source}: no config.json or genai_config.json beside it tells the context length; put one there"
        )
    return OnnxRuntimeEngine(source.path, threads=threads, context_length=limit, options=options)


class OnnxRuntimeEngine:
    """An ONNX decoder with one sequence; see :class:`edgestill.runtime.engine.Engine`.

    ``shares_buffers`` says whether past and present are one buffer; where it is False (a graph without
    GroupQueryAttention) every step copies the cache. ``weights_bytes`` is the size of the model's files,
    ``huge_page_bytes`` how much of the process's memory was moved to huge pages after loading.
    """

    name = "onnxruntime"
    float32 = True

    def __init__(self, path: Path, *, threads: int, context_length: int, options: EngineOptions = DEFAULTS) -> None:
        self._runtime = runtime = require("onnxruntime", engine="onnxruntime", extra="onnx")
        with LoadTrace(runtime, options.trace and options.arena) as self._trace:
            self._session: Any = load_session(runtime, path, threads, arena=options.arena)
        self.path = path
        self.threads = threads
        self.context_length = context_length
        files = [path, *path.parent.glob(f"{path.name}.*")]
        self.weights_bytes: int | None = sum(file.stat().st_size for file in files)
        collapse = options.huge_pages and self.weights_bytes >= WORTH_BYTES
        self.huge_page_bytes = collapse_anonymous_memory() if collapse else 0
        inputs = {one.name: one for one in self._session.get_inputs()}
        outputs = {one.name: one for one in self._session.get_outputs()}
        self._layers = sum(name.startswith("past_key_values.") and name.endswith(".key") for name in inputs)
        lacking = {"input_ids", "attention_mask"} - inputs.keys() or {"logits"} - outputs.keys()
        if lacking or not self._layers:
            what = min(lacking) if lacking else "past_key_values.0.key"
            raise ModelFileError(
                f"{path}: not a decoder with a KV cache: it has no {what}; export it with edgestill export"
            )
        self._has_positions = "position_ids" in inputs
        past = inputs["past_key_values.0.key"]
        if outputs["logits"].type not in _DTYPES or past.type not in _DTYPES:
            raise ModelFileError(
                f"{path}: logits are {outputs['logits'].type}, the KV cache {past.type}: not supported"
            )
        vocabulary, kv_heads, head_size = outputs["logits"].shape[-1], past.shape[1], past.shape[3]
        if not isinstance(head_size, int):
            # onnxruntime-genai's builder leaves it open in the graph and writes it down beside it.
            head_size = _genai_number(path.parent, "decoder", "head_size")
        if not isinstance(vocabulary, int) or not isinstance(kv_heads, int) or head_size is None:
            raise ModelFileError(
                f"{path}: the graph doesn't fix its vocabulary, KV heads and head size; export it again"
            )
        self.vocab_size = vocabulary
        self._dtype = _DTYPES[outputs["logits"].type]
        self._kv = (kv_heads, head_size, _DTYPES[past.type])
        self.kv_precision = "f16" if past.type == "tensor(float16)" else "f32"
        self.settings: Mapping[str, bool | str] = {
            "arena": options.arena,
            "huge_pages": options.huge_pages,
            "kv_precision": self.kv_precision,
        }
        self.shares_buffers = _mentions(path, _SHARED_ATTENTION)
        self._chunk = max(32, min(_MAX_CHUNK, _OUTPUT_FLOATS // self.vocab_size))
        metadata = self._session.get_modelmeta().custom_metadata_map
        original = metadata.get(_ORIGINAL_CONTEXT_KEY)
        self._original_context = int(original) if original and original.isdecimal() else context_length
        self._position = 0
        self._names = [f"{layer}.{part}" for layer in range(self._layers) for part in ("key", "value")]
        self._cache = self._zeroed(context_length if self.shares_buffers else 0)
        self.state_layout = f"onnxruntime, {self._layers} layers of {kv_heads} x {head_size} {np.dtype(self._kv[2])}"
        self._mask = np.ones((1, context_length), np.int64)
        self._masks: list[Any] = [None] * (context_length + 1)
        self._pads_mask = self.shares_buffers and metadata.get(_PADDED_MASK_KEY) == "true"
        self._padded = np.zeros((1, 0), np.int64)  # the mask that is bound, and how many ones it begins with
        self._ones = -1
        self._one_id = np.zeros((1, 1), np.int64)
        self._one_position = np.zeros((1, 1), np.int64)
        self._one_logits = np.zeros((1, 1, self.vocab_size), self._dtype)
        self._one = self._bind(self._one_id, self._one_position, self._one_logits)
        self._run_one: Any = _direct_run(self._session, self._one)
        self._one_view: NDArray[Any] = self._one_logits[0, 0]

    @property
    def position(self) -> int:
        return self._position

    def append(self, token_ids: Sequence[int] | NDArray[np.integer]) -> Logits:
        count = len(token_ids)
        position = self._position
        if count == 1 and self.shares_buffers and position < self.context_length:
            self._one_id[0, 0] = token_ids[0]
            if self._has_positions:
                self._one_position[0, 0] = position
            if not self._pads_mask:
                self._one.bind_ortvalue_input(
                    "attention_mask", self._masks[position + 1] or self._mask_of(position + 1)
                )
            elif self._ones == position < self._padded.shape[1]:
                self._padded[0, position] = 1
                self._ones = position + 1
            else:
                self._pad_mask(position + 1)
            self._execute(self._run_one)
            self._position = position + 1
            return self._as_float32(self._one_view)
        check_room(self, count)
        ids = np.asarray(token_ids, dtype=np.int64)
        step = self._step(count)
        for start in range(0, count, step):
            logits = self._run(ids[start : start + step])
        last: Logits = logits[-1]
        return last

    def logits(self, token_ids: Sequence[int] | NDArray[np.integer]) -> Logits:
        self.rewind(0)
        check_room(self, len(token_ids))
        ids = np.asarray(token_ids, dtype=np.int64)
        result = np.empty((len(ids), self.vocab_size), np.float32)
        step = self._step(len(ids))
        for start in range(0, len(ids), step):
            piece = ids[start : start + step]
            result[start : start + len(piece)] = self._run(piece)
        self.rewind(0)
        return result

    def rewind(self, position: int) -> None:
        if position >= self._position:
            return
        self._position = max(0, position)
        if not self.shares_buffers:
            kept = [np.ascontiguousarray(value.numpy()[:, :, : self._position]) for value in self._cache]
            self._cache = [self._value(array) for array in kept]
        # A shared buffer keeps its old keys and values: attention reads only as far as the mask says.

    def save_state(self) -> NDArray[np.uint8]:
        kept = [np.ascontiguousarray(value.numpy()[:, :, : self._position]) for value in self._cache]
        return np.concatenate([array.view(np.uint8).reshape(-1) for array in kept])

    def restore_state(self, state: NDArray[np.uint8], tokens: int) -> None:
        heads, size, dtype = self._kv
        self.rewind(0)
        if len(state) != len(self._names) * heads * tokens * size * np.dtype(dtype).itemsize:
            raise ModelFileError(f"{self.path}: a state of {len(state)} bytes isn't one of {tokens} tokens")
        arrays = state.view(dtype).reshape(len(self._names), 1, heads, tokens, size)
        if self.shares_buffers:
            for value, array in zip(self._cache, arrays, strict=True):
                value.numpy()[:, :, :tokens] = array  # a view of the buffer that is bound
        else:
            self._cache = [self._value(np.ascontiguousarray(array)) for array in arrays]
        self._position = tokens

    def describe(self) -> EngineBuild:
        info = self._runtime.get_build_info()
        return EngineBuild(
            version=self._runtime.__version__,
            commit=onnxruntime_commit(info),
            build=info,
            settings={
                "providers": ", ".join(self._session.get_providers()),
                "shared_kv_buffers": "yes" if self.shares_buffers else "no",
                "huge_page_bytes": str(self.huge_page_bytes),
            },
        )

    def close(self) -> None:
        self._session = None
        self._one = self._run_one = None
        self._cache = []

    def memory(self) -> tuple[MemoryPart, ...]:
        heads, size, dtype = self._kv
        item = heads * size * np.dtype(dtype).itemsize
        spans = [(value.data_ptr(), value.shape()[2] * item) for value in self._cache]
        context = self.context_length if self.shares_buffers else self._position
        source = f"the addresses of 2 x {self._layers} buffers of {heads} heads x {context} positions x {size} values"
        kept = MemoryPart(
            "kv_cache", "bound buffers", sum(bytes_ for _, bytes_ in spans), anonymous_bytes(spans), source
        )
        return (self._trace.weights(), kept)

    def open_bare(self) -> Callable[[], None] | None:
        held = [load_session(self._runtime, self.path, self.threads, prepack=False)]
        return held.clear

    def _step(self, count: int) -> int:
        """Return how many of ``count`` more tokens are run at a time: all, where LongRoPE looks at their number."""
        crosses = self._position <= self._original_context < self._position + count
        return count if crosses else self._chunk

    def _run(self, ids: NDArray[np.int64]) -> Logits:
        """Run a piece of a prompt: logits ``[len(ids), vocab]``."""
        total = self._position + len(ids)
        positions = np.arange(self._position, total, dtype=np.int64)[None, :]
        logits = np.empty((1, len(ids), self.vocab_size), self._dtype)
        binding = self._bind(np.ascontiguousarray(ids[None, :]), positions, logits)
        binding.bind_ortvalue_input("attention_mask", self._mask_of(total))
        self._execute(functools.partial(self._session.run_with_iobinding, binding))
        if not self.shares_buffers:
            self._cache = list(binding.get_outputs()[1:])
        self._position = total
        return self._as_float32(logits[0])

    def _execute(self, run: Callable[[], None]) -> None:
        try:
            run()
        except _errors() as error:
            raise ModelFileError(f"{self.path}: onnxruntime can't run it ({_first_line(error)})") from error

    def _bind(self, ids: NDArray[np.int64], positions: NDArray[np.int64], logits: NDArray[Any]) -> Any:
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("input_ids", self._value(ids))
        if self._has_positions:
            binding.bind_ortvalue_input("position_ids", self._value(positions))
        binding.bind_ortvalue_output("logits", self._value(logits))
        for name, value in zip(self._names, self._cache, strict=True):
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            if self.shares_buffers:
                binding.bind_ortvalue_output(f"present.{name}", value)
            else:
                binding.bind_output(f"present.{name}", "cpu")
        return binding

    def _mask_of(self, total: int) -> Any:
        value = self._masks[total]
        if value is None:
            value = self._masks[total] = self._value(self._mask[:, :total])
        return value

    def _pad_mask(self, total: int) -> None:
        """Bind a mask of ``total`` ones for a step of one token, with zeros up to a multiple of 256 or the context."""
        length = min(self.context_length, -(-total // _MASK_STEP) * _MASK_STEP)
        if self._padded.shape[1] != length:
            self._padded = np.zeros((1, length), np.int64)
            self._one.bind_ortvalue_input("attention_mask", self._value(self._padded))
        self._padded[0, :total] = 1
        self._padded[0, total:] = 0
        self._ones = total

    def _value(self, array: NDArray[Any]) -> Any:
        """Return an OrtValue over the array's own memory (onnxruntime keeps a reference to it)."""
        return self._runtime.OrtValue.ortvalue_from_numpy(array)

    def _zeroed(self, length: int) -> list[Any]:
        heads, size, dtype = self._kv
        # What lies beyond the mask is multiplied by a weight of zero: NaN there would not vanish.
        return [self._value(np.zeros((1, heads, length, size), dtype)) for _ in self._names]

    def _as_float32(self, logits: NDArray[Any]) -> Logits:
        return logits.astype(np.float32, copy=False)


def load_session(runtime: Any, path: Path, threads: int, *, arena: bool = True, prepack: bool = True) -> Any:
    """Load a file into onnxruntime on the CPU. Raises ModelFileError with its reason when it refuses.

    Without ``arena`` buffers come from the C library one by one; without ``prepack`` weights stay as in the file.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # what goes wrong arrives as an exception
    options.enable_cpu_mem_arena = arena
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _errors() as error:
        raise ModelFileError(f"{path}: onnxruntime can't load it ({_first_line(error)})") from error


def _direct_run(session: Any, binding: Any) -> Callable[[], None]:
    """Return a function that runs a binding.

    It passes by the Python classes around onnxruntime's own, where these are as in the versions that we know: what they
    check of captured graphs on WebGPU costs two microseconds a token.
    """
    inner, bound = getattr(session, "_sess", None), getattr(binding, "_iobinding", None)
    if inner is None or bound is None:
        return functools.partial(session.run_with_iobinding, binding)
    return functools.partial(inner.run_with_iobinding, bound, None)


def _errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises over a model; its own exceptions have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        RuntimeError,
        OSError,
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _mentions(path: Path, needle: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(needle) >= 0


def _context_length(source: ModelSource) -> int | None:
    """Return the context that the model was trained for, from the files beside it (None: they don't say)."""
    for folder in (source.folder, *([source.tokenizer_folder] if source.tokenizer_folder else [])):
        config = folder / "config.json"
        found = _number_in(config, ("max_position_embeddings",)) or _number_in(config, ("n_positions",))
        found = found or _genai_number(folder, "context_length")
        if found is not None:
            return found
    return None


def _genai_number(folder: Path, *keys: str) -> int | None:
    return _number_in(folder / "genai_config.json", ("model", *keys))


def _number_in(path: Path, keys: Sequence[str]) -> int | None:
    """Return the positive integer under nested keys of a JSON file, None where it has none."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
    except KeyError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: not a readable configuration ({error})") from error
    return value if isinstance(value, int) and value > 0 else None
