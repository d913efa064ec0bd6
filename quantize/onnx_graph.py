"""Rewrites an fp32 decoder graph into block-quantised operators, weight by weight.

Imports onnx_ir: import it inside a function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir  # noqa: TID253
from numpy.typing import NDArray

from edgestill.errors import ModelFileError
from edgestill.progress import Task
from edgestill.tensor_file import TensorFile
from edgestill.weight_blocks import EMBEDDING, Grid, block_size, quantize_rows

MICROSOFT: Final = "com.microsoft"
INT8_ACTIVATIONS: Final = 4
# Small enough that the arithmetic stays in the CPU's cache.
_PIECE_WEIGHTS: Final = 1 << 17


class _Matrix(NamedTuple):
    """A quantised matrix in the graph: its values, and the sizes that its operators need."""

    packed: ir.Value
    scales: ir.Value
    bits: int
    block: int
    outputs: int
    inputs: int


class BlockQuantizer:
    """Replaces MatMul by MatMulNBits and Gather by GatherBlockQuantized in one model.

    Projections get ``grid``; the embedding and the head that of :data:`EMBEDDING`. A tied embedding stays one tensor
    for both of its uses. After :meth:`run`, ``notes`` says what a person should know of the result.
    """

    def __init__(self, model: ir.Model, grid: Grid, file: TensorFile, task: Task) -> None:
        self._graph = model.graph
        self._grid = grid
        self._file = file
        self._task = task
        self._matrices: dict[str, _Matrix] = {}
        self.notes: list[str] = []

    def run(self) -> None:
        """Quantise every weight matrix into the file and copy all other tensors there."""
        nodes = [node for node in self._graph if _is_weight_node(node)]
        self._task.set_total(len(nodes))
        for node in nodes:
            if node.op_type == "Gather":
                self._replace_gather(node)
            else:
                self._replace_matmul(node)
            self._task.advance()
        self._move_the_rest()
        padded = sorted({matrix.inputs for matrix in self._matrices.values() if matrix.inputs % matrix.block})
        if padded:
            self.notes.append(f"rows of {', '.join(map(str, padded))} weights are padded to whole blocks")
        if self._grid.bits != EMBEDDING.bits:
            self.notes.append(f"the embedding and the head have {EMBEDDING.bits} bits")

    def _replace_matmul(self, node: ir.Node) -> None:
        is_head = node.outputs[0] is self._graph.outputs[0]
        matrix = self._matrix(node, 1, EMBEDDING if is_head else self._grid)
        attributes = {
            "K": matrix.inputs,
            "N": matrix.outputs,
            "bits": matrix.bits,
            "block_size": matrix.block,
            "accuracy_level": INT8_ACTIVATIONS,
        }
        inputs = (node.inputs[0], matrix.packed, matrix.scales)
        self._replace(node, [ir.node("MatMulNBits", inputs, attributes, domain=MICROSOFT, name=node.name)])

    def _replace_gather(self, node: ir.Node) -> None:
        weight = node.inputs[0]
        name = "embedding" if weight is None or weight.name is None else weight.name.removesuffix(".weight")
        matrix = self._matrix(node, 0, EMBEDDING)
        # The two operators want the same scales as [rows, blocks] and [rows, blocks, 1]; the values,
        # [rows, blocks, bytes], suit both as they are.
        scales = ir.node("Reshape", (matrix.scales, self._shape(f"{name}.scales_shape", (0, -1, 1))))
        rows = ir.node(
            "GatherBlockQuantized",
            (matrix.packed, node.inputs[1], scales.outputs[0]),
            {"bits": matrix.bits, "block_size": matrix.block, "gather_axis": 0, "quantize_axis": 2},
            domain=MICROSOFT,
            name=node.name,
        )
        flat = ir.node("Reshape", (rows.outputs[0], self._shape(f"{name}.row_shape", (0, 0, -1))))
        nodes = [scales, rows, flat]
        if matrix.inputs % matrix.block:
            bounds = [self._shape(f"{name}.{bound}", (at,)) for bound, at in (("from", 0), ("to", matrix.inputs))]
            axis = self._shape(f"{name}.axis", (2,))
            nodes.append(ir.node("Slice", (flat.outputs[0], *bounds, axis)))
        self._replace(node, nodes)

    def _replace(self, node: ir.Node, replacement: list[ir.Node]) -> None:
        """Put nodes in the place of one; the last one's output takes over its name and uses."""
        old, new = node.outputs[0], replacement[-1].outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        self._graph.insert_after(node, replacement)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)

    def _matrix(self, node: ir.Node, index: int, grid: Grid) -> _Matrix:
        weight = node.inputs[index]
        if weight is None or weight.name is None:
            raise ModelFileError(f"node {node.name!r} has no stored weight; give an onnx-fp32 artifact")
        if weight.name not in self._matrices:
            if weight.const_value is None:
                raise ModelFileError(f"weight {weight.name!r} is not stored; give an onnx-fp32 artifact")
            array = _read(weight.const_value)
            weight.const_value = None  # the file mapped for it goes with it
            rows = array.T if node.op_type == "MatMul" else array
            self._matrices[weight.name] = self._quantize(weight.name, rows, grid)
        return self._matrices[weight.name]

    def _quantize(self, name: str, rows: NDArray[np.float32], grid: Grid) -> _Matrix:
        outputs, inputs = rows.shape
        bits, block = grid.bits, block_size(grid, inputs)
        step = max(1, _PIECE_WEIGHTS // inputs)
        scales: list[NDArray[np.float32]] = []

        def pieces() -> Iterator[NDArray[np.uint8]]:
            for start in range(0, outputs, step):
                quantized = quantize_rows(rows[start : start + step], bits, block)
                scales.append(quantized.scales)
                yield quantized.packed

        blocks = -(-inputs // block)
        packed_shape = (outputs, blocks, block * bits // 8)
        packed = self._store(f"{name}.q{bits}", pieces(), ir.DataType.UINT8, packed_shape)
        scale = self._store(f"{name}.scales", scales, ir.DataType.FLOAT, (outputs, blocks))
        return _Matrix(packed, scale, bits, block, outputs, inputs)

    def _move_the_rest(self) -> None:
        """Drop the quantised originals and copy every other external tensor into the new file."""
        initializers = self._graph.initializers
        written = {value.name for matrix in self._matrices.values() for value in (matrix.packed, matrix.scales)}
        for name, value in list(initializers.items()):
            if not value.uses():
                del initializers[name]
            elif isinstance(value.const_value, ir.ExternalTensor) and name not in written:
                old = value.const_value
                value.const_value = self._tensor(name, [_read(old)], old.dtype, old.shape.numpy())

    def _shape(self, name: str, extents: tuple[int, ...]) -> ir.Value:
        return self._initializer(name, ir.tensor(np.array(extents, np.int64), name=name))

    def _store(
        self, name: str, pieces: Iterable[NDArray[np.generic]], dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.Value:
        return self._initializer(name, self._tensor(name, pieces, dtype, shape))

    def _tensor(
        self, name: str, pieces: Iterable[NDArray[np.generic]], dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.ExternalTensor:
        extent = self._file.add(pieces, int(math.prod(shape) * dtype.itemsize))
        return ir.ExternalTensor(
            self._file.path.name,
            extent.offset,
            extent.length,
            dtype,
            shape=ir.Shape(shape),
            name=name,
            base_dir=self._file.path.parent,
        )

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self._graph.initializers[name] = value
        return value


def _read(tensor: ir.TensorProtocol) -> NDArray[np.float32]:
    """Return a tensor's values, memory-mapped where they lie in the data file."""
    try:
        return tensor.numpy()
    except (OSError, ValueError) as error:
        where = tensor.path if isinstance(tensor, ir.ExternalTensor) else "the graph"
        raise ModelFileError(f"{where}: tensor {tensor.name!r} can't be read ({error}); export it again") from error


def _is_weight_node(node: ir.Node) -> bool:
    index = {"Gather": 0, "MatMul": 1, "FusedMatMul": 1}.get(node.op_type)
    if index is None:
        return False
    weight = node.inputs[index]
    return weight is not None and weight.is_initializer() and weight.shape is not None and len(weight.shape) == 2
