"""The parts of an ONNX graph: nodes, constants, and tensors whose bytes lie in a file beside it.

Imports onnx_ir: import it inside a function.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir  # noqa: TID253
from numpy.typing import NDArray

from edgestill.errors import CheckpointError, UnsupportedError
from edgestill.export.parallel import in_order
from edgestill.export.weights import Weights
from edgestill.tensor_file import PlannedFile, TensorFile
from edgestill.weight_blocks import Blocks, Grid, block_size, quantize_rows

MICROSOFT: Final = "com.microsoft"
PIECE_BYTES: Final = 32 << 20
INT8_ACTIVATIONS: Final = 4
"""MatMulNBits' accuracy_level."""


PIECE_WEIGHTS: Final = 1 << 17
"""Small enough that the arithmetic of quantising stays in the CPU's cache."""

RowJob = Callable[[], NDArray[np.float32]]


class Matrix(NamedTuple):
    """A block-quantised matrix: packed ``[outputs, blocks, bytes]``, scales ``[outputs, blocks]``, and its sizes."""

    packed: ir.Value
    scales: ir.Value
    bits: int
    block: int
    outputs: int
    inputs: int


class GraphBuilder:
    """Collects nodes and initializers while weights stream into ``file``; into a PlannedFile none are read.

    ``floats`` is the type of what isn't quantised: weights, activations and the KV cache.
    """

    def __init__(
        self, weights: Weights, file: TensorFile | PlannedFile, floats: ir.DataType = ir.DataType.FLOAT
    ) -> None:
        self._weights = weights
        self._file = file
        self._floats = floats
        self._nodes: list[ir.Node] = []
        self._initializers: list[ir.Value] = []

    def _scaled(self, name: str, source: ir.Value, factor: float) -> ir.Value:
        if factor == 1.0:
            return source
        return self._node(
            "Mul", (source, self._constant(f"{name}.factor", self._as_floats(np.array(factor)))), f"{name}.scaled"
        )

    def _add(self, name: str, tensor: str) -> ir.Value:
        shape = self._weights.info(tensor).shape
        step = max(1, PIECE_BYTES // (4 * math.prod(shape[1:])))

        def pieces() -> Iterator[NDArray[np.float32]]:
            for start in range(0, shape[0], step):
                yield self._weights.rows(tensor, start, start + step)
                self._weights.release(tensor, start, start + step)

        return self._store_floats(name, pieces(), shape, tensor)

    def _quantized(self, name: str, rows: Iterable[RowJob], outputs: int, inputs: int, grid: Grid) -> Matrix:
        """Store ``[outputs, inputs]``, given as jobs for consecutive rows, in blocks on ``grid``."""
        bits, block = grid.bits, block_size(grid, inputs)
        scales: list[NDArray[np.float32]] = []

        def quantized(job: RowJob) -> Blocks:
            with np.errstate(invalid="ignore"):
                found = quantize_rows(job(), bits, block)
            if not np.isfinite(found.scales).all():
                raise self._not_finite(name)
            return found

        def pieces() -> Iterator[NDArray[np.uint8]]:
            for part in in_order(functools.partial(quantized, job) for job in rows):
                scales.append(part.scales)
                yield part.packed

        blocks = -(-inputs // block)
        packed = self._store(f"{name}.q{bits}", pieces(), (outputs, blocks, block * bits // 8), ir.DataType.UINT8)
        stored_scales = self._store(f"{name}.scales", scales, (outputs, blocks))
        return Matrix(packed, stored_scales, bits, block, outputs, inputs)

    def _matmul_blocks(self, name: str, source: ir.Value, matrix: Matrix, output: ir.Value | None = None) -> ir.Value:
        """Return source times the matrix, computed with int8 activations."""
        output = output or ir.Value(name=f"{name}.output")
        attributes = {
            "K": matrix.inputs,
            "N": matrix.outputs,
            "bits": matrix.bits,
            "block_size": matrix.block,
            "accuracy_level": INT8_ACTIVATIONS,
        }
        inputs = (source, matrix.packed, matrix.scales)
        self._nodes.append(ir.node("MatMulNBits", inputs, attributes, domain=MICROSOFT, outputs=(output,), name=name))
        return output

    def _gather_blocks(self, name: str, matrix: Matrix, ids: ir.Value) -> ir.Value:
        """Return the rows of the matrix that ``ids`` name, float32."""
        shape = self._constant(f"{name}.scales_shape", np.array([0, -1, 1]))
        scales = self._node("Reshape", (matrix.scales, shape), f"{name}.scales_by_row")
        attributes = {"bits": matrix.bits, "block_size": matrix.block, "gather_axis": 0, "quantize_axis": 2}
        inputs = (matrix.packed, ids, scales)
        rows = self._node("GatherBlockQuantized", inputs, f"{name}.rows", domain=MICROSOFT, attributes=attributes)
        flat_shape = self._constant(f"{name}.row_shape", np.array([0, 0, -1]))
        flat = self._node("Reshape", (rows, flat_shape), name)
        if matrix.inputs % matrix.block == 0:
            return flat
        bounds = [
            self._constant(f"{name}.{bound}", np.array([at])) for bound, at in (("from", 0), ("to", matrix.inputs))
        ]
        axis = self._constant(f"{name}.axis", np.array([2]))
        return self._node("Slice", (flat, *bounds, axis), f"{name}.cut")

    def _row_jobs(self, tensor: str) -> Iterator[RowJob]:
        """Yield jobs that return consecutive rows of a tensor, as many as are quantised at a time."""
        rows, inputs = self._weights.info(tensor).shape
        step = max(1, PIECE_WEIGHTS // inputs)

        def job(start: int) -> NDArray[np.float32]:
            found = self._weights.rows(tensor, start, start + step)
            self._weights.release(tensor, start, start + step)
            return found

        for start in range(0, rows, step):
            yield functools.partial(job, start)

    def _store(
        self,
        name: str,
        pieces: Iterable[NDArray[np.generic]],
        shape: Sequence[int],
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> ir.Value:
        extent = self._file.add(pieces, int(math.prod(shape) * dtype.itemsize))
        tensor = ir.ExternalTensor(
            self._file.path.name,
            extent.offset,
            extent.length,
            dtype,
            shape=ir.Shape(shape),
            name=name,
            base_dir=self._file.path.parent,
        )
        return self._initializer(name, tensor)

    def _store_floats(
        self, name: str, pieces: Iterable[NDArray[np.float32]], shape: Sequence[int], source: str
    ) -> ir.Value:
        """Store a tensor in the graph's float type. ``source`` is the tensor of the checkpoint that errors name."""

        def checked() -> Iterator[NDArray[np.generic]]:
            for piece in pieces:
                if not np.isfinite(piece).all():
                    raise self._not_finite(source)
                written = self._as_floats(piece)
                if not np.isfinite(written).all():
                    raise UnsupportedError(
                        f"{self._weights.path}: tensor {source!r} has a value of size {float(np.abs(piece).max()):g}; "
                        "fp16 ends at 65504, export with precision fp32"
                    )
                yield written

        return self._store(name, checked(), shape, self._floats)

    def _as_floats(self, array: NDArray[np.generic]) -> NDArray[np.float32] | NDArray[np.float16]:
        with np.errstate(over="ignore"):
            if self._floats == ir.DataType.FLOAT16:
                return array.astype(np.float16, copy=False)
            return array.astype(np.float32, copy=False)

    def _not_finite(self, source: str) -> CheckpointError:
        return CheckpointError(
            f"{self._weights.path}: tensor {source!r} has NaN or infinite values; the checkpoint is damaged"
        )

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        return self._initializer(name, ir.tensor(array, name=name))

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self._initializers.append(value)
        return value

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        *,
        domain: str = "",
        attributes: Mapping[str, int | float | str] | None = None,
    ) -> ir.Value:
        output = ir.Value(name=f"{name}.output")
        self._nodes.append(ir.node(op, inputs, attributes, domain=domain, outputs=(output,), name=name))
        return output


def named_value(name: str, dtype: ir.DataType, shape: Sequence[str | int]) -> ir.Value:
    """Return a typed input or output of the graph."""
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
