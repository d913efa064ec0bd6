"""Rewrites a float graph into int8 with standard operators alone, weight by weight.

Imports onnx_ir: import it inside a function.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir  # noqa: TID253
from numpy.typing import NDArray

from edgestill.errors import ModelFileError
from edgestill.onnx_file import is_standard
from edgestill.progress import Task

LEAST_WEIGHTS: Final = 4096
"""Smaller matrices (the embedding of two segments, a head of a few labels) stay in float32."""

_ROW_LARGEST: Final = 127
_ROW_ZERO: Final = 128
_LOOKED_UP_LARGEST: Final = 127
_MULTIPLIED_LARGEST: Final = 63
"""x86 without VNNI adds two products of uint8 and int8 in 16 bits, which saturate: 2 x 255 x 63 just fits."""
_BOTH_ZERO: Final = 128
"""A matrix that is looked up and multiplied (a tied embedding) keeps 8 bits, as uint8: two uint8 don't saturate."""

_LEAST_ROW: Final = 1e-30
"""What a row of zeros is divided by."""
_PIECE_WEIGHTS: Final = 1 << 20


class _Matrix(NamedTuple):
    """A quantised matrix, stored the way round that it was, and a float32 scale for each of its outputs.

    ``zero`` is what stands for 0 in ``values`` (None: 0 itself, and they are int8).
    """

    values: ir.Value
    scales: ir.Value
    zero: int | None


class _Use(NamedTuple):
    """A node that multiplies (or looks up rows of) a stored matrix; ``turned``: its rows are the outputs."""

    node: ir.Node
    weight: ir.Value
    turned: bool


class PortableQuantizer:
    """Replaces MatMul, Gemm and Gather of stored weights in one model by integer operators.

    Weights have one scale an output (a row of an embedding). Activations are quantised row by row, as they come:
    a text's result doesn't depend on what shares its batch, nor a token's on how many come with it. A tied
    embedding stays one tensor for both of its uses.
    """

    def __init__(self, model: ir.Model, task: Task) -> None:
        self._graph = model.graph
        self._task = task
        self._matrices: dict[str, _Matrix] = {}
        self._rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def run(self) -> None:
        """Quantise every weight matrix; the values are computed when the model is saved, one matrix at a time."""
        uses = [use for node in self._graph if (use := _weight_use(node)) is not None]
        self._task.set_total(len(uses))
        looked_up = {use.weight.name for use in uses if use.node.op_type == "Gather"}
        multiplied = {use.weight.name for use in uses if use.node.op_type != "Gather"}
        for use in uses:
            name = use.weight.name
            if name not in self._matrices:
                largest, zero = _MULTIPLIED_LARGEST, None
                if name in looked_up:
                    largest, zero = _LOOKED_UP_LARGEST, _BOTH_ZERO if name in multiplied else None
                self._matrices[str(name)] = self._quantize(use, largest, zero)
            matrix = self._matrices[str(name)]
            if use.node.op_type == "Gather":
                self._replace_gather(use.node, matrix)
            else:
                self._replace_product(use, matrix)
            self._task.advance()
        self._drop_unused()

    def _replace_gather(self, node: ir.Node, matrix: _Matrix) -> None:
        """Look up the row's integers and its scale, and multiply them."""
        rows = ir.node("Gather", (matrix.values, node.inputs[1]))
        nodes = [rows, ir.node("Cast", rows.outputs, {"to": ir.DataType.FLOAT})]
        if matrix.zero is not None:
            nodes.append(ir.node("Sub", (nodes[-1].outputs[0], self._constant(np.float32(matrix.zero)))))
        kept = matrix.scales.const_value
        assert kept is not None
        column = self._initializer(f"{matrix.scales.name}.column", ir.tensor(kept.numpy()[:, None]))
        scales = ir.node("Gather", (column, node.inputs[1]))
        self._replace(node, [*nodes, scales, ir.node("Mul", (nodes[-1].outputs[0], scales.outputs[0]))])

    def _replace_product(self, use: _Use, matrix: _Matrix) -> None:
        """Multiply integers with integers and scale the sums by row and by output."""
        rows, row_scales = self._quantised_rows(use.node)
        nodes = []
        values = matrix.values
        if use.turned:
            nodes.append(ir.node("Transpose", (values,), {"perm": [1, 0]}))
            values = nodes[-1].outputs[0]
        zeros = [self._constant(np.uint8(_ROW_ZERO))]
        if matrix.zero is not None:
            zeros.append(self._constant(np.uint8(matrix.zero)))
        product = ir.node("MatMulInteger", (rows, values, *zeros))
        sums = ir.node("Cast", product.outputs, {"to": ir.DataType.FLOAT})
        scaled = ir.node("Mul", (sums.outputs[0], row_scales))
        nodes += [product, sums, scaled, ir.node("Mul", (scaled.outputs[0], matrix.scales))]
        bias = use.node.inputs[2] if use.node.op_type == "Gemm" and len(use.node.inputs) > 2 else None
        if bias is not None:
            nodes.append(ir.node("Add", (nodes[-1].outputs[0], bias)))
        self._replace(use.node, nodes)

    def _quantised_rows(self, node: ir.Node) -> tuple[ir.Value, ir.Value]:
        """Return a product's input as uint8 around 128, and the scale of each row ``[..., 1]``; made once an input."""
        value = node.inputs[0]
        assert value is not None
        if value not in self._rows:
            size = ir.node("Abs", (value,))
            largest = ir.node("ReduceMax", (size.outputs[0], self._constant(np.array([-1], np.int64))), {"keepdims": 1})
            bounded = ir.node("Max", (largest.outputs[0], self._constant(np.float32(_LEAST_ROW))))
            scale = ir.node("Div", (bounded.outputs[0], self._constant(np.float32(_ROW_LARGEST))))
            ratio = ir.node("Div", (value, scale.outputs[0]))
            # Cast drops the fraction: adding a half rounds. Signed integers would be slower in onnxruntime.
            shifted = ir.node("Add", (ratio.outputs[0], self._constant(np.float32(_ROW_ZERO + 0.5))))
            rows = ir.node("Cast", shifted.outputs, {"to": ir.DataType.UINT8})
            self._graph.insert_before(node, [size, largest, bounded, scale, ratio, shifted, rows])
            self._rows[value] = rows.outputs[0], scale.outputs[0]
        return self._rows[value]

    def _replace(self, node: ir.Node, replacement: list[ir.Node]) -> None:
        """Put nodes in the place of one; the last one's output takes over its name and uses."""
        old, new = node.outputs[0], replacement[-1].outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        self._graph.insert_after(node, replacement)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)

    def _quantize(self, use: _Use, largest: int, zero: int | None) -> _Matrix:
        """Store a matrix as integers of at most ``largest`` around ``zero``."""
        name, tensor = str(use.weight.name), use.weight.const_value
        if tensor is None:
            raise ModelFileError(f"weight {name!r} is not stored; give an onnx-portable-fp32 artifact")
        by_row = use.turned
        top = np.max([np.abs(piece).max(axis=0) for piece in _pieces(tensor, by_row)], axis=0)
        if not np.isfinite(top).all():
            raise ModelFileError(f"weight {name!r} is not finite; export the model again")
        scales = np.where(top > 0, top, 1).astype(np.float32) / np.float32(largest)
        dtype = np.int8 if zero is None else np.uint8

        def values() -> ir.TensorProtocol:
            pieces = [(np.rint(piece / scales) + (zero or 0)).astype(dtype) for piece in _pieces(tensor, by_row)]
            joined = np.concatenate(pieces)
            return ir.tensor(np.ascontiguousarray(joined.T) if by_row else joined)

        integers = ir.DataType.INT8 if zero is None else ir.DataType.UINT8
        stored = ir.LazyTensor(values, integers, ir.Shape(tensor.shape.numpy()), name=f"{name}.q8")
        return _Matrix(
            self._initializer(f"{name}.q8", stored), self._initializer(f"{name}.scales", ir.tensor(scales)), zero
        )

    def _constant(self, value: np.generic | NDArray[np.int64]) -> ir.Value:
        """Return a small constant, stored once."""
        array = np.asarray(value)
        name = f"constant.{array.dtype}.{'_'.join(map(str, array.reshape(-1).tolist()))}"
        return self._graph.initializers.get(name) or self._initializer(name, ir.tensor(array))

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name in self._graph.initializers:
            return self._graph.initializers[name]
        tensor.name = name
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self._graph.initializers[name] = value
        return value

    def _drop_unused(self) -> None:
        """Remove the float weights, and the Transpose that some of them went through."""
        for node in reversed(list(self._graph)):
            if not any(output.uses() or output.is_graph_output() for output in node.outputs):
                self._graph.remove(node, safe=True)
        for name, value in list(self._graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self._graph.initializers[name]


def _pieces(tensor: ir.TensorProtocol, by_row: bool) -> Iterator[NDArray[np.float32]]:
    """Yield a matrix as ``[inputs, outputs]`` in pieces of its inputs, however it is stored."""
    array: NDArray[np.float32] = tensor.numpy()
    array = array.T if by_row else array
    step = max(1, _PIECE_WEIGHTS // array.shape[1])
    for start in range(0, array.shape[0], step):
        yield array[start : start + step]


def _weight_use(node: ir.Node) -> _Use | None:
    """Return which stored float32 matrix a node uses, perhaps through a Transpose; None: none that is quantised."""
    index = {"Gather": 0, "MatMul": 1, "Gemm": 1}.get(node.op_type)
    if index is None or not is_standard(node):
        return None
    used = weight = node.inputs[index]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    if node.op_type == "Gather" and attributes.get("axis", 0) != 0:
        return None
    if node.op_type == "Gemm" and (
        attributes.get("transA", 0) or any(attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    ):
        return None
    if node.op_type == "MatMul" and used is not None and (before := used.producer()) is not None:
        weight = before.inputs[0] if before.op_type == "Transpose" else None
    if weight is None or not weight.is_initializer() or weight.shape is None or len(weight.shape) != 2:
        return None
    if weight.dtype != ir.DataType.FLOAT or int(np.prod(weight.shape.numpy())) < LEAST_WEIGHTS:
        return None
    turned = node.op_type == "Gather" or weight is not used or bool(attributes.get("transB", 0))
    return _Use(node, weight, turned)
