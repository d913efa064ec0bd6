"""How many operations a prompt's tokens take, from the file itself: what the device's arithmetic sets a limit to.

A product with a weight of n values is 2n operations a token; attention takes 4 operations for each value of a query
and each position that it looks at (Kaplan et al., 2020, appendix B, with both of its products counted).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.runtime.gguf_header import read_gguf_header

if TYPE_CHECKING:
    from edgestill.runtime.model_source import ModelSource

_FLOAT_TYPES: Final = frozenset({0, 1, 30})
"""ggml's F32, F16 and BF16: every other type is multiplied as integers, with activations rounded to 8 bits."""
_INT8_ACTIVATIONS: Final = 4


@dataclass(frozen=True)
class Operations:
    """Operations of a prompt: ``per_token``, once ``per_prompt``, and ``per_pair`` of a token and a position before it.

    ``integer`` of ``per_token`` are products of 8-bit integers.
    """

    per_token: float
    per_prompt: float
    per_pair: float
    integer: float

    def each(self, tokens: int, depth: int) -> float:
        """Return the mean for each of ``tokens`` that are read after ``depth`` others."""
        return self.per_token + self.per_prompt / tokens + self.per_pair * (depth + (tokens + 1) / 2)


def prompt_operations(source: ModelSource) -> Operations | None:
    """Return a model's operations; None where they aren't known. Raises ModelFileError.

    Known they are of a GGUF file whose layers name their projections as llama.cpp does, and, where the package ``onnx``
    is installed, of an ONNX decoder with GroupQueryAttention and its weights in products.
    """
    if source.kind == "gguf":
        return gguf_operations(source.path)
    return onnx_operations(source.path) if source.kind == "onnx" else None


def gguf_operations(path: Path) -> Operations | None:
    """Return the operations of a GGUF file. llama.cpp computes the logits of a prompt's last token only."""
    table = {tensor.name: tensor for tensor in read_gguf_header(path).table}
    head = table.get("output.weight", table.get("token_embd.weight"))
    products = [
        tensor
        for name, tensor in table.items()
        if name.startswith("blk.") and name.endswith(".weight") and len(tensor.shape) > 1
    ]
    queries = [tensor.shape[0] for name, tensor in table.items() if name.endswith(".attn_output.weight")]
    if head is None or not queries or any(len(tensor.shape) > 2 for tensor in products):  # three are experts'
        return None
    counted = [(2 * math.prod(tensor.shape), tensor.type not in _FLOAT_TYPES) for tensor in products]
    return Operations(
        per_token=sum(count for count, _ in counted),
        per_prompt=2 * math.prod(head.shape),
        per_pair=4 * sum(queries),
        integer=sum(count for count, integer in counted if integer),
    )


def onnx_operations(path: Path) -> Operations | None:
    """Return the operations of an ONNX decoder, whose logits are computed at every position; None where not known."""
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.load(str(path), load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    sizes = {value.name: _last_dimension(value) for value in graph.input if value.name.startswith("past_key_values.")}
    total = integer = pairs = 0
    for node in graph.node:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "MatMulNBits":
            count = 2 * attributes["K"] * attributes["N"]
            integer += count if attributes.get("accuracy_level") == _INT8_ACTIVATIONS else 0
        elif node.op_type in ("MatMul", "FusedMatMul", "Gemm", "MatMulInteger"):
            if node.input[1] not in shapes:
                return None  # what its second input holds isn't told by the file's table of weights
            count = 2 * math.prod(shapes[node.input[1]])
            integer += count if node.op_type == "MatMulInteger" else 0
        elif node.op_type == "GroupQueryAttention":
            count = 0
            pairs += 4 * attributes["num_heads"] * sizes.get(node.input[3], 0)
        else:
            continue
        total += count
    return Operations(total, 0, pairs, integer) if total and pairs else None


def _last_dimension(value: Any) -> int:
    return int(value.type.tensor_type.shape.dim[3].dim_value)
