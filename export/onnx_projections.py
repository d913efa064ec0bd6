"""A decoder's matrices in an ONNX graph: float32 or in blocks, heads padded to what onnxruntime's kernels take.

Imports onnx_ir: import it inside a function.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import numpy as np
import onnx_ir as ir  # noqa: TID253
from numpy.typing import NDArray

from edgestill.export.architectures.decoder import Decoder, Linear
from edgestill.export.onnx_builder import PIECE_BYTES, PIECE_WEIGHTS, GraphBuilder, Matrix
from edgestill.export.projections import bias, stored_rows, weight_columns
from edgestill.export.weights import Weights, float32
from edgestill.tensor_file import PlannedFile, TensorFile
from edgestill.weight_blocks import EMBEDDING, Grid

HEAD_DIM_MULTIPLE: Final = 16
HeadAxis = Literal["inputs", "outputs"] | None


class ProjectionBuilder(GraphBuilder):
    """Stores projections as ``floats`` (``grid`` None), or in blocks on a grid."""

    def __init__(
        self,
        decoder: Decoder,
        weights: Weights,
        file: TensorFile | PlannedFile,
        grid: Grid | None,
        floats: ir.DataType = ir.DataType.FLOAT,
    ) -> None:
        super().__init__(weights, file, floats)
        self._decoder = decoder
        self._grid = grid

    def _whole_matrix(self, name: str, tensor: str) -> Matrix:
        """Store an embedding or a head, whatever the projections' grid."""
        outputs, inputs = self._weights.info(tensor).shape
        return self._quantized(name, self._row_jobs(tensor), outputs, inputs, EMBEDDING)

    def _projection(self, name: str, source: ir.Value, linears: Sequence[Linear], heads: HeadAxis = None) -> ir.Value:
        """Return source times the packed weights of ``linears`` side by side, plus their biases where any.

        ``heads`` names the axis that is made of attention heads, whose padding it gets.
        """
        if self._grid is None:
            weight = self._add_transposed(f"{name}.weight", linears, heads)
            product = self._node("MatMul", (source, weight), f"{name}.matmul")
        else:
            product = self._matmul_blocks(f"{name}.matmul", source, self._blocks(f"{name}.weight", linears, heads))
        found = [bias(self._weights, linear) for linear in linears]
        if all(part is None for part in found):
            return product
        parts = [
            np.zeros(linear.outputs, np.float32) if part is None else part
            for linear, part in zip(linears, found, strict=True)
        ]
        if heads == "outputs":
            parts = [self._pad_heads(part) for part in parts]
        tensor = next(linear.bias for linear in linears if linear.bias is not None)
        stored = self._store_floats(f"{name}.bias", parts, (sum(len(part) for part in parts),), tensor)
        return self._node("Add", (product, stored), f"{name}.add")

    def _add_transposed(self, name: str, linears: Sequence[Linear], heads: HeadAxis = None) -> ir.Value:
        """Store ``[inputs, outputs of all]``, in blocks of input rows so that memory stays bounded."""
        inputs, outputs = linears[0].inputs, sum(linear.outputs for linear in linears)
        head_dim, padded = self._decoder.head_dim, padded_head_dim(self._decoder)
        # A block is whole heads, so that it can be padded by itself.
        step = max(1, PIECE_BYTES // (4 * outputs * head_dim)) * head_dim

        def pieces() -> Iterator[NDArray[np.float32]]:
            for start in range(0, inputs, step):
                blocks = [weight_columns(self._weights, linear, start, start + step).T for linear in linears]
                if heads == "outputs":
                    blocks = [self._pad_heads(block) for block in blocks]
                if heads == "inputs":
                    blocks = [self._pad_heads(block.T).T for block in blocks]
                yield np.concatenate(blocks, axis=1)
            for linear in linears:
                self._weights.release(linear.weight)

        shape = {
            "inputs": (inputs // head_dim * padded, outputs),
            "outputs": (inputs, outputs // head_dim * padded),
            None: (inputs, outputs),
        }[heads]
        return self._store_floats(name, pieces(), shape, linears[0].weight)

    def _blocks(self, name: str, linears: Sequence[Linear], heads: HeadAxis) -> Matrix:
        """Store the weights of ``linears`` one after the other, ``[outputs of all, inputs]``, in blocks."""
        head_dim, padded = self._decoder.head_dim, padded_head_dim(self._decoder)
        inputs, outputs = linears[0].inputs, sum(linear.outputs for linear in linears)
        # A piece is whole heads, so that it can be padded by itself.
        step = max(1, PIECE_WEIGHTS // (inputs * head_dim)) * head_dim

        def job(linear: Linear, start: int) -> NDArray[np.float32]:
            rows = float32(stored_rows(self._weights, linear, start, start + step))
            if heads == "outputs":
                rows = self._pad_heads(rows.T).T
            if heads == "inputs":
                rows = self._pad_heads(rows)
            return np.ascontiguousarray(rows)

        jobs = (functools.partial(job, linear, start) for linear in linears for start in range(0, linear.outputs, step))
        if heads == "outputs":
            outputs = outputs // head_dim * padded
        if heads == "inputs":
            inputs = inputs // head_dim * padded
        matrix = self._quantized(name, jobs, outputs, inputs, self._grid or EMBEDDING)
        for linear in linears:
            self._weights.release(linear.weight)
        return matrix

    def _pad_heads(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Append zeros to every head of the last axis: to both halves of what is rotated, and to the rest."""
        decoder = self._decoder
        padded = padded_head_dim(decoder)
        if padded == decoder.head_dim:
            return array
        dims = decoder.rope.dims if decoder.rope is not None else 0
        rotated = self._padded_dims(dims)
        heads = array.reshape(*array.shape[:-1], -1, decoder.head_dim)
        result = np.zeros((*heads.shape[:-1], padded), np.float32)
        half = dims // 2
        result[..., :half] = heads[..., :half]
        result[..., rotated // 2 : rotated // 2 + half] = heads[..., half:dims]
        result[..., rotated : rotated + decoder.head_dim - dims] = heads[..., dims:]
        return result.reshape(*array.shape[:-1], -1)

    @staticmethod
    def _padded_dims(dims: int) -> int:
        return -(-dims // HEAD_DIM_MULTIPLE) * HEAD_DIM_MULTIPLE


def padded_head_dim(decoder: Decoder) -> int:
    """Return the head size in the graph: GroupQueryAttention rotates multiples of 16 of multiples of 16 only.

    Zeros in every head of q, k and v, and zero rows in o, leave the result what it was.
    """
    dims = decoder.rope.dims if decoder.rope is not None else 0
    padding = -dims % HEAD_DIM_MULTIPLE
    return -(-(decoder.head_dim + padding) // HEAD_DIM_MULTIPLE) * HEAD_DIM_MULTIPLE
