"""How many bytes a decoded token moves, from the file itself: what the memory's speed sets a limit to.

Decoding reads every weight once, but of a table that is only looked up (an embedding that isn't the head too, learned
positions) one row; and the keys and values of every position before (Williams et al., "Roofline", 2009, for the limit).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.errors import ModelFileError
from edgestill.runtime.gguf_header import TENSOR_BLOCKS, GgufTensor, read_gguf_header

if TYPE_CHECKING:
    from edgestill.runtime.model_source import ModelSource

_LOOKED_UP: Final = {"Gather": (0,), "GatherBlockQuantized": (0, 2, 3)}
"""Operators that read one row of an input for each token, and which inputs."""
_ROTARY_TABLES: Final = (7, 8)
"""Inputs of GroupQueryAttention that are tables of cosines and sines, read at one position."""


@dataclass(frozen=True)
class Traffic:
    """Bytes read for one decoded token: ``weights``, and ``cached`` for each position in the KV cache.

    ``cached`` leaves sliding windows out: past a window's length it is more than is read.
    """

    weights: int
    cached: int

    def at(self, positions: float) -> float:
        """Return the bytes of one token with so many positions before it."""
        return self.weights + self.cached * positions


def model_traffic(source: ModelSource, kv_bytes: float) -> Traffic | None:
    """Return a model's traffic; None for a checkpoint, and for ONNX where the package ``onnx`` isn't installed.

    ``kv_bytes`` is the size of a value in llama.cpp's KV cache; an ONNX file says its own.
    """
    if source.kind == "gguf":
        return gguf_traffic(source.path, kv_bytes)
    return onnx_traffic(source.path) if source.kind == "onnx" else None


def gguf_traffic(path: Path, kv_bytes: float) -> Traffic:
    """Return the traffic of a GGUF file with a KV cache of ``kv_bytes`` a value. Raises ModelFileError."""
    table = {tensor.name: tensor for tensor in read_gguf_header(path).table}
    weights = 0
    for name, tensor in table.items():
        looked_up = name == "position_embd.weight" or (name == "token_embd.weight" and "output.weight" in table)
        weights += _nbytes(tensor) // (tensor.shape[1] if looked_up else 1)
    if "output.weight" not in table and "token_embd.weight" in table:
        weights += _nbytes(table["token_embd.weight"]) // table["token_embd.weight"].shape[1]
    values = 0
    for name, tensor in table.items():
        if name.endswith((".attn_k.weight", ".attn_v.weight")):
            values += tensor.shape[1]
        elif name.endswith(".attn_qkv.weight"):
            output = table.get(name.replace("attn_qkv", "attn_output"))
            if output is None:
                raise ModelFileError(f"{path}: {name} has no attention output beside it; export it again")
            # What isn't a query is a key or a value.
            values += tensor.shape[1] - output.shape[0]
    return Traffic(weights, round(values * kv_bytes))


def _nbytes(tensor: GgufTensor) -> int:
    block, size = TENSOR_BLOCKS[tensor.type]
    return math.prod(tensor.shape) // block * size


def onnx_traffic(path: Path) -> Traffic | None:
    """Return the traffic of an ONNX decoder; None where the package ``onnx`` isn't installed."""
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.load(str(path), load_external_data=False).graph
    sizes = {tensor.name: _initializer(tensor) for tensor in graph.initializer}
    whole: set[str] = set()
    looked_up: dict[str, int] = defaultdict(int)
    for node in graph.node:
        rows = _LOOKED_UP.get(node.op_type, _ROTARY_TABLES if node.op_type == "GroupQueryAttention" else ())
        for place, name in enumerate(node.input):
            if name in sizes and place in rows:
                looked_up[name] += 1
            elif name in sizes:
                whole.add(name)
    weights = sum(sizes[name][0] for name in whole)
    weights += sum(times * sizes[name][0] // max(sizes[name][1], 1) for name, times in looked_up.items())
    cached = 0
    for value in graph.input:
        if value.name.startswith("past_key_values."):
            kind = value.type.tensor_type
            heads, size = kind.shape.dim[1].dim_value, kind.shape.dim[3].dim_value
            cached += heads * size * _item_bytes(kind.elem_type)
    return Traffic(int(weights), cached)


def _initializer(tensor: Any) -> tuple[int, int]:
    """Return an initializer's bytes and rows."""
    dims = list(tensor.dims)
    return int(math.prod(dims) * _item_bytes(tensor.data_type)), dims[0] if dims else 1


def _item_bytes(data_type: int) -> float:
    import onnx

    if data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return 0.5
    return float(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
