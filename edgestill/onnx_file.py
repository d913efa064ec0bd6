"""ONNX files in standard operators: how they are written, and what is checked of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgestill.errors import StageError

if TYPE_CHECKING:
    import onnx_ir as ir

STANDARD_DOMAINS: Final = ("", "ai.onnx")
EMBEDDED_BYTES: Final = 32 << 20
"""Weights of at most so many bytes lie in model.onnx itself, larger ones in model.onnx.data: a runtime that parses
the one holds them twice while it loads, the other is mapped."""
_LEAST_EXTERNAL: Final = 1024


def save_onnx(model: ir.Model, path: Path) -> None:
    """Write a graph, with its weights inside or, past ``EMBEDDED_BYTES``, beside it in ``<path>.data``."""
    import onnx_ir as ir

    tensors = (value.const_value for value in model.graph.initializers.values())
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    if size > EMBEDDED_BYTES:
        ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=_LEAST_EXTERNAL)
    else:
        ir.save(model, path)


def check_standard(path: Path) -> None:
    """Check a file: standard operators alone, named batch axes, onnx.checker with strict shape inference.

    Raises StageError that says what is wrong.
    """
    import onnx
    import onnx_ir as ir

    model = ir.load(path)
    foreign = {f"{node.domain}.{node.op_type}" for node in model.graph.all_nodes() if not is_standard(node)}
    if foreign or model.functions:
        named = ", ".join(sorted(foreign)) or f"{len(model.functions)} functions"
        raise StageError(f"{path}: not standard operators alone ({named}); report this as a bug")
    for value in (*model.graph.inputs, *model.graph.outputs):
        batch = value.shape[0] if value.shape else None
        if not isinstance(batch, ir.SymbolicDim) or batch.value is None:
            raise StageError(f"{path}: the batch axis of {value.name!r} is fixed ({batch}); report this as a bug")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(f"{path}: onnx.checker refuses it ({str(error).strip().splitlines()[0]})") from error


def is_standard(node: ir.Node) -> bool:
    """Tell whether an operator is ONNX's own, not a runtime's."""
    return node.domain in STANDARD_DOMAINS
