"""A traced graph made fit to be kept: simplified, its weights named, nothing of the machine left in it.

Imports onnx_ir: import it inside a function.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir  # noqa: TID253
import onnxscript.optimizer  # noqa: TID253


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
