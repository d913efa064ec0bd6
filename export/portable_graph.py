"""A traced graph made fit to be kept: simplified, its weights named, nothing left but standard operators.

Imports onnx_ir: import it inside a function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx  # noqa: TID253
import onnx_ir as ir  # noqa: TID253
import onnxscript.optimizer

from edgestill.errors import StageError

STANDARD_DOMAINS: Final = ("", "ai.onnx")
EMBEDDED_BYTES: Final = 32 << 20
"""Weights of at most so many bytes lie in model.onnx itself, larger ones in model.onnx.data: a runtime that parses
the one holds them twice while it loads, the other is mapped."""


def tidy(model: ir.Model, prefix: str) -> None:
    """Simplify a graph in place; parameters keep the checkpoint's names (what follows ``prefix``).

    A weight that is only used transposed is stored so; one that is also used as it is (a tied embedding) stays
    one tensor. What the tracer noted of its own machine (source files, class names) is removed.
    """
    graph = model.graph
    parameters = {name for name, value in graph.initializers.items() if value.const_value is not None}

    def fold(node: ir.Node) -> bool | None:
        # The optimiser would copy every weight, and name it by a number.
        weights = [value for value in node.inputs if value is not None and value.name in parameters]
        return False if any(value.shape is not None and len(value.shape) > 1 for value in weights) else None

    onnxscript.optimizer.optimize_ir(model, should_fold=fold)
    _store_transposed(graph)
    for name, value in list(graph.initializers.items()):
        if name.startswith(prefix):
            value.name = name.removeprefix(prefix)
    for value in graph.initializers.values():
        if value.const_value is not None:
            value.const_value.name = value.name
    model.metadata_props.clear()
    graph.metadata_props.clear()
    graph.doc_string = model.doc_string = None
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()


def _store_transposed(graph: ir.Graph) -> None:
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.const_value is None or len(weight.uses()) > 1 or weight.shape is None:
            continue
        order = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
        kept = weight.const_value
        axes = order if order is not None else list(range(len(weight.shape)))[::-1]
        shape = ir.Shape([kept.shape.numpy()[axis] for axis in axes])

        def turned(kept: ir.TensorProtocol = kept, axes: list[int] = list(axes)) -> ir.TensorProtocol:  # noqa: B006
            return ir.tensor(np.ascontiguousarray(kept.numpy().transpose(axes)))

        weight.const_value = ir.LazyTensor(turned, kept.dtype, shape, name=weight.name)
        weight.shape = shape
        ir.convenience.replace_all_uses_with(node.outputs[0], weight)
        graph.remove(node, safe=True)


def save(model: ir.Model, path: Path) -> None:
    """Write a graph, with its weights inside or, past ``EMBEDDED_BYTES``, beside it in ``<path>.data``."""
    stored = (value.const_value for value in model.graph.initializers.values())
    size = sum(tensor.nbytes for tensor in stored if tensor is not None)
    if size > EMBEDDED_BYTES:
        ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=1024)
    else:
        ir.save(model, path)


def check_standard(path: Path) -> None:
    """Check a file: standard operators only, onnx.checker, strict shape inference, named dynamic axes.

    Raises StageError that says what is wrong.
    """
    model = ir.load(path)
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.all_nodes() if not _standard(node)})
    if foreign or model.functions:
        named = ", ".join(foreign) or f"{len(model.functions)} functions"
        raise StageError(f"{path}: not standard operators alone: {named}; report this as a bug")
    for value in (*model.graph.inputs, *model.graph.outputs):
        axes = [] if value.shape is None else list(value.shape)
        if not axes or not isinstance(axes[0], ir.SymbolicDim) or axes[0].value is None:
            raise StageError(f"{path}: the batch axis of {value.name!r} is fixed at {axes[:1]}; report this as a bug")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(f"{path}: onnx.checker refuses it ({str(error).strip().splitlines()[0]})") from error


def _standard(node: ir.Node) -> bool:
    return node.domain in STANDARD_DOMAINS
