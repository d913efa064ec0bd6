"""A process that measures llama.cpp's own products of a matrix and a vector, which decoding a token consists of.

Started by :mod:`edgestill.runtime.products` (see :mod:`edgestill.runtime.worker`). It calls ggml's C API in the library
that the GGUF engine runs, with its choice of a buffer for the weights: where the kernels want them repacked, they are.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Final

from edgestill.runtime.engines.llama_cpp import library
from edgestill.runtime.worker import Emit, serve_request

_ROWS: Final = 4096
_COLUMNS: Final = 1024
_GRAPH: Final = 2048
"""How many products ggml's usual graph holds."""
_CPU: Final = 0
_TYPES: Final = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}
"""ggml's numbers of them."""
_BYTE: Final = 0x2C
"""A scale and values of this byte are small numbers in every type: kernels are slow with subnormal ones."""
_LEAST_SECONDS: Final = 0.1
_LEAST_PASSES: Final = 3


class _Parameters(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


_POINTER: Final = ctypes.c_void_p
_FUNCTIONS: Final[Mapping[str, tuple[Any, tuple[Any, ...]]]] = {
    "ggml_init": (_POINTER, (_Parameters,)),
    "ggml_free": (None, (_POINTER,)),
    "ggml_tensor_overhead": (ctypes.c_size_t, ()),
    "ggml_graph_overhead": (ctypes.c_size_t, ()),
    "ggml_new_tensor_2d": (_POINTER, (_POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)),
    "ggml_nbytes": (ctypes.c_size_t, (_POINTER,)),
    "ggml_mul_mat": (_POINTER, (_POINTER, _POINTER, _POINTER)),
    "ggml_new_graph": (_POINTER, (_POINTER,)),
    "ggml_build_forward_expand": (None, (_POINTER, _POINTER)),
    "ggml_backend_dev_by_type": (_POINTER, (ctypes.c_int,)),
    "ggml_backend_dev_init": (_POINTER, (_POINTER, ctypes.c_char_p)),
    "ggml_backend_dev_buffer_type": (_POINTER, (_POINTER,)),
    "ggml_backend_dev_backend_reg": (_POINTER, (_POINTER,)),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, (_POINTER, _POINTER)),
    "ggml_backend_reg_get_proc_address": (_POINTER, (_POINTER, ctypes.c_char_p)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_POINTER, (_POINTER, _POINTER)),
    "ggml_backend_buffer_free": (None, (_POINTER,)),
    "ggml_backend_tensor_set": (None, (_POINTER, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)),
    "ggml_backend_cpu_set_n_threads": (None, (_POINTER, ctypes.c_int)),
    "ggml_backend_graph_compute": (ctypes.c_int, (_POINTER, _POINTER)),
    "ggml_backend_free": (None, (_POINTER,)),
}


class _Ggml(SimpleNamespace):
    """ggml's functions by their names without the prefix, typed; and its CPU."""

    def __init__(self) -> None:
        super().__init__()
        library()
        from llama_cpp import _ggml

        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(_ggml.libggml, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)
        self.device = self.backend_dev_by_type(_CPU)
        self.backend = self.backend_dev_init(self.device, None)

    def context(self, tensors: int, graph: bool = False) -> int:
        """Return a context for so many tensors, whose data lie elsewhere."""
        size = tensors * self.tensor_overhead() + (self.graph_overhead() if graph else 0)
        return int(self.init(_Parameters(size, None, True)))

    def buffer_types(self) -> Iterator[int]:
        """Return the kinds of memory for weights in the order in which llama.cpp asks each whether it takes them."""
        registry = self.backend_dev_backend_reg(self.device)
        address = self.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if address:
            extra = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(self.device)
            for index in range(_GRAPH):
                if not extra or not extra[index]:
                    break
                yield int(extra[index])
        yield int(self.backend_dev_buffer_type(self.device))


def serve(request: Mapping[str, Any], emit: Emit) -> None:
    """Say the bytes a second of each of the ``weights``' types, for each of ``sizes`` and of ``threads``."""
    ggml = _Ggml()
    for name in request["weights"]:
        for size in request["sizes"]:
            for threads, read, seconds in _measure(ggml, _TYPES[name], int(size), request["threads"]):
                rate = read / statistics.median(seconds)
                emit({"event": "product", "weights": name, "threads": threads, "read_bytes": read, "rate": rate})
    ggml.backend_free(ggml.backend)
    emit({"event": "finished"})


def _measure(ggml: _Ggml, kind: int, size: int, counts: list[int]) -> Iterator[tuple[int, int, list[float]]]:
    """Yield for each number of threads the bytes of one pass and the seconds of some."""
    for place in ggml.buffer_types():
        matrices, others = ggml.context(_GRAPH), ggml.context(2 * _GRAPH, graph=True)
        buffers: list[int] = []
        try:
            one = ggml.new_tensor_2d(matrices, kind, _COLUMNS, _ROWS)
            each = ggml.nbytes(one)
            count = max(1, min(_GRAPH - 1, round(size / each)))
            weights = [one, *(ggml.new_tensor_2d(matrices, kind, _COLUMNS, _ROWS) for _ in range(count - 1))]
            if not (memory := ggml.backend_alloc_ctx_tensors_from_buft(matrices, place)):
                raise MemoryError(f"{count * each} bytes of weights")
            buffers.append(memory)
            vector = ggml.new_tensor_2d(others, _TYPES["f32"], _COLUMNS, 1)
            products = [ggml.mul_mat(others, matrix, vector) for matrix in weights]
            if not ggml.backend_dev_supports_op(ggml.device, products[0]):
                continue
            usual = ggml.backend_dev_buffer_type(ggml.device)
            buffers.append(ggml.backend_alloc_ctx_tensors_from_buft(others, usual))
            for tensor in (*weights, vector):
                length = ggml.nbytes(tensor)
                ggml.backend_tensor_set(tensor, bytes([_BYTE]) * length, 0, length)
            graph = ggml.new_graph(others)
            for product in products:
                ggml.build_forward_expand(graph, product)
            for threads in counts:
                ggml.backend_cpu_set_n_threads(ggml.backend, threads)
                yield threads, count * each, _passes(ggml, graph)
            return
        finally:
            for memory in buffers:
                ggml.backend_buffer_free(memory)
            ggml.free(matrices)
            ggml.free(others)


def _passes(ggml: _Ggml, graph: int) -> list[float]:
    ggml.backend_graph_compute(ggml.backend, graph)
    seconds: list[float] = []
    while len(seconds) < _LEAST_PASSES or sum(seconds) < _LEAST_SECONDS:
        begun = time.perf_counter()
        ggml.backend_graph_compute(ggml.backend, graph)
        seconds.append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    sys.exit(serve_request(serve))
