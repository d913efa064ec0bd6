"""The parts of an ONNX graph: nodes, constants, and tensors whose bytes lie in a file beside it.

Imports onnx_ir: import it inside a function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir  # noqa: TID253
from numpy.typing import NDArray

from edgestill.export.weights import Weights
from edgestill.tensor_file import TensorFile

MICROSOFT: Final = "com.microsoft"
PIECE_BYTES: Final = 32 << 20


class GraphBuilder:
    """Collects nodes and initializers while weights stream into ``file``."""

    def __init__(self, weights: Weights, file: TensorFile) -> None:
        self._weights = weights
        self._file = file
        self._nodes: list[ir.Node] = []
        self._initializers: list[ir.Value] = []

    def _scaled(self, name: str, source: ir.Value, factor: float) -> ir.Value:
        if factor == 1.0:
            return source
        return self._node(
            "Mul", (source, self._constant(f"{name}.factor", np.array(factor, np.float32))), f"{name}.scaled"
        )

    def _add(self, name: str, tensor: str) -> ir.Value:
        shape = self._weights.info(tensor).shape
        step = max(1, PIECE_BYTES // (4 * math.prod(shape[1:])))

        def pieces() -> Iterator[NDArray[np.float32]]:
            for start in range(0, shape[0], step):
                yield self._weights.rows(tensor, start, start + step)
                self._weights.release(tensor, start, start + step)

        return self._store(name, pieces(), shape)

    def _store(self, name: str, pieces: Iterable[NDArray[np.float32]], shape: Sequence[int]) -> ir.Value:
        extent = self._file.add(pieces)
        tensor = ir.ExternalTensor(
            self._file.path.name,
            extent.offset,
            extent.length,
            ir.DataType.FLOAT,
            shape=ir.Shape(shape),
            name=name,
            base_dir=self._file.path.parent,
        )
        return self._initializer(name, tensor)

    def _constant(self, name: str, array: NDArray[np.int64] | NDArray[np.float64] | NDArray[np.float32]) -> ir.Value:
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
