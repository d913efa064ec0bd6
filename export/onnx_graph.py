"""A decoder as one fused ONNX graph for onnxruntime's CPU provider.

Imports onnx_ir: import it inside a function. Names of inputs and outputs follow onnxruntime-genai.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import numpy as np
import onnx_ir as ir  # noqa: TID253
from numpy.typing import NDArray

from edgestill.export.architectures.decoder import Decoder, Layer, Linear, RopeScaling
from edgestill.export.weights import Weights
from edgestill.progress import Task
from edgestill.tensor_file import TensorFile

MICROSOFT: Final = "com.microsoft"
OPSETS: Final = (("", 21), (MICROSOFT, 1))
IR_VERSION: Final = 10
HEAD_DIM_MULTIPLE: Final = 16
_COMPUTED_ROTARY_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 32 << 20

HeadAxis = Literal["inputs", "outputs"] | None


class DecoderGraph:
    """Builds the graph of one decoder while its weights stream into ``file``.

    Projections are MatMul with weights ``[inputs, outputs]``; q, k and v are one packed MatMul, and so
    are gate and up. A tied embedding is stored once, as ``[vocab, hidden]``, for both of its uses.
    """

    def __init__(self, decoder: Decoder, weights: Weights, file: TensorFile, task: Task) -> None:
        self._decoder = decoder
        self._weights = weights
        self._file = file
        self._task = task
        self._nodes: list[ir.Node] = []
        self._initializers: list[ir.Value] = []

    def build(self) -> ir.Model:
        """Write every weight and return the model, whose initializers point into the file."""
        decoder = self._decoder
        batch, length, past, total = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"
        input_ids = _value("input_ids", ir.DataType.INT64, (batch, length))
        attention_mask = _value("attention_mask", ir.DataType.INT64, (batch, total))
        inputs, outputs = [input_ids, attention_mask], []

        lengths = self._lengths(attention_mask)
        rotary = self._rotary_caches()
        embedding = self._add("embedding.weight", decoder.embedding)
        hidden = self._node("Gather", (embedding, input_ids), "embedding")
        hidden = self._scaled("embedding", hidden, decoder.scales.embedding)
        normed = self._normed("layers.0.attention_norm", hidden, decoder.layers[0].attention_norm)
        for index, layer in enumerate(decoder.layers):
            caches = [
                _value(f"past_key_values.{index}.{kind}", ir.DataType.FLOAT, self._cache_shape(batch, past))
                for kind in ("key", "value")
            ]
            presents = [
                _value(f"present.{index}.{kind}", ir.DataType.FLOAT, self._cache_shape(batch, total))
                for kind in ("key", "value")
            ]
            inputs += caches
            outputs += presents
            attended = self._attention(index, layer, normed, caches, presents, lengths, rotary)
            attended = self._normed(f"layers.{index}.attention_post_norm", attended, layer.attention_post_norm)
            attended = self._scaled(f"layers.{index}.attended", attended, decoder.scales.residual)
            normed, hidden = self._add_and_norm(f"layers.{index}.mlp_norm", hidden, attended, layer.mlp_norm)
            mlp = self._normed(f"layers.{index}.mlp_post_norm", self._mlp(index, layer, normed), layer.mlp_post_norm)
            mlp = self._scaled(f"layers.{index}.mlp", mlp, decoder.scales.residual)
            last = index + 1 == len(decoder.layers)
            name = "final_norm" if last else f"layers.{index + 1}.attention_norm"
            weight = decoder.final_norm if last else decoder.layers[index + 1].attention_norm
            normed, hidden = self._add_and_norm(name, hidden, mlp, weight)
            self._task.advance()

        logits = _value("logits", ir.DataType.FLOAT, (batch, length, decoder.vocab_size))
        self._head(self._scaled("final", normed, 1.0 / decoder.scales.logits), embedding, logits)
        graph = ir.Graph(
            inputs,
            [logits, *outputs],
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports=dict(OPSETS),
            name=decoder.architecture,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgestill")

    def _cache_shape(self, batch: str, time: str) -> tuple[str | int, ...]:
        return (batch, self._decoder.kv_heads, time, padded_head_dim(self._decoder))

    def _lengths(self, attention_mask: ir.Value) -> tuple[ir.Value, ir.Value]:
        """(tokens in each sequence - 1, total length), int32: what GroupQueryAttention wants of the mask."""
        one = self._constant("one", np.array([1], np.int64))
        total = self._node("ReduceSum", (attention_mask, one), "sequence_lengths", attributes={"keepdims": 0})
        last = self._node("Sub", (total, one), "last_positions")
        to_int32 = {"to": int(ir.DataType.INT32)}
        shape = self._node("Shape", (attention_mask,), "mask_shape", attributes={"start": 1, "end": 2})
        scalar = self._node("Squeeze", (shape,), "mask_length")
        return (
            self._node("Cast", (last,), "seqlens_k", attributes=to_int32),
            self._node("Cast", (scalar,), "total_sequence_length", attributes=to_int32),
        )

    def _rotary_caches(self) -> tuple[ir.Value, ir.Value]:
        """Return cos and sin of every position's angles, ``[context, head_dim / 2]`` float32 from float64.

        Small tables are constant nodes that onnxruntime folds when it loads the graph: in a small model
        they would be a tenth of the file. Large ones are stored: only the rows in use are then in memory.
        """
        decoder = self._decoder
        frequencies = rotary_frequencies(decoder.head_dim, decoder.rope_theta, decoder.rope_scaling)
        frequencies = np.pad(frequencies, (0, padded_head_dim(decoder) // 2 - len(frequencies)))
        angles = np.arange(decoder.context_length, dtype=np.float64)[:, None] * frequencies
        if angles.size * 4 > _COMPUTED_ROTARY_BYTES:
            return (
                self._store("rotary.cos", [np.cos(angles).astype(np.float32)], angles.shape),
                self._store("rotary.sin", [np.sin(angles).astype(np.float32)], angles.shape),
            )
        bounds = [
            self._constant(f"rotary.{name}", np.array(at))
            for name, at in (("from", 0), ("to", len(angles)), ("step", 1))
        ]
        steps = self._node("Range", bounds, "rotary.positions")
        column = self._node("Unsqueeze", (steps, self._constant("rotary.axis", np.array([1]))), "rotary.column")
        positions = self._node("Cast", (column,), "rotary.double", attributes={"to": int(ir.DataType.DOUBLE)})
        angle = self._node("Mul", (positions, self._constant("rotary.frequencies", frequencies)), "rotary.angles")
        to_float = {"to": int(ir.DataType.FLOAT)}
        cos, sin = (self._node(op, (angle,), f"rotary.{op}") for op in ("Cos", "Sin"))
        return (
            self._node("Cast", (cos,), "rotary.cos", attributes=to_float),
            self._node("Cast", (sin,), "rotary.sin", attributes=to_float),
        )

    def _attention(
        self,
        index: int,
        layer: Layer,
        normed: ir.Value,
        caches: Sequence[ir.Value],
        presents: Sequence[ir.Value],
        lengths: tuple[ir.Value, ir.Value],
        rotary: tuple[ir.Value, ir.Value],
    ) -> ir.Value:
        decoder = self._decoder
        qkv = self._projection(f"layers.{index}.qkv", normed, (layer.q, layer.k, layer.v), heads="outputs")
        queries: tuple[ir.Value | None, ...] = (qkv, None, None)
        if layer.q_norm is not None and layer.k_norm is not None:
            queries = self._normed_heads(f"layers.{index}", qkv, layer.q_norm, layer.k_norm, layer.norms_all_heads)
        attended = ir.Value(name=f"layers.{index}.attention.output")
        node = ir.node(
            "GroupQueryAttention",
            (*queries, *caches, *lengths, *(rotary if layer.rotary else ())),
            domain=MICROSOFT,
            attributes={
                "num_heads": decoder.heads,
                "kv_num_heads": decoder.kv_heads,
                "scale": decoder.scales.attention or 1.0 / math.sqrt(decoder.head_dim),
                "do_rotary": int(layer.rotary),
                "rotary_interleaved": 0,
                "local_window_size": -1,
            },
            outputs=(attended, *presents),
            name=f"layers.{index}.attention",
        )
        self._nodes.append(node)
        return self._projection(f"layers.{index}.o", attended, (layer.o,), heads="inputs")

    def _normed_heads(
        self, name: str, qkv: ir.Value, q_norm: str, k_norm: str, together: bool
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return q and k with each head normed, or all ``together``, and v.

        Over heads that are padded with zeros the mean of squares is too small by head_dim / padded: so is the
        epsilon that is given, and the weight makes up for it.
        """
        decoder, padded = self._decoder, padded_head_dim(self._decoder)
        share = decoder.head_dim / padded
        counts = (decoder.heads, decoder.kv_heads, decoder.kv_heads)
        q, k, v = (ir.Value(name=f"{name}.{role}.output") for role in "qkv")
        sizes = self._constant(f"{name}.split", np.array(counts) * padded)
        self._nodes.append(ir.node("Split", (qkv, sizes), {"axis": -1}, outputs=(q, k, v), name=f"{name}.split_heads"))

        def normed(role: str, part: ir.Value, count: int, norm: str) -> ir.Value:
            weight = self._pad_heads(self._weights.float32(norm)) * np.float32(math.sqrt(share))
            stored = self._store(f"{name}.{role}_norm.weight", [weight], weight.shape)
            attributes = {"epsilon": decoder.rms_norm_eps * share, "axis": -1, "stash_type": 1}
            if together:
                inputs = (part, stored)
                return self._node("SimplifiedLayerNormalization", inputs, f"{name}.{role}_norm", attributes=attributes)
            heads_shape = self._constant(f"{name}.{role}.heads", np.array([0, 0, count, padded]))
            inputs = (self._node("Reshape", (part, heads_shape), f"{name}.{role}.by_head"), stored)
            scaled = self._node("SimplifiedLayerNormalization", inputs, f"{name}.{role}_norm", attributes=attributes)
            flat_shape = self._constant(f"{name}.{role}.flat", np.array([0, 0, count * padded]))
            return self._node("Reshape", (scaled, flat_shape), f"{name}.{role}.normed")

        return normed("q", q, decoder.heads, q_norm), normed("k", k, decoder.kv_heads, k_norm), v

    def _mlp(self, index: int, layer: Layer, normed: ir.Value) -> ir.Value:
        name = f"layers.{index}"
        gate = self._projection(f"{name}.gate", normed, (layer.gate,))
        up = self._projection(f"{name}.up", normed, (layer.up,))
        # QuickGelu with alpha 1 is SiLU in one kernel.
        activated = self._node("QuickGelu", (gate,), f"{name}.silu", domain=MICROSOFT, attributes={"alpha": 1.0})
        product = self._node("Mul", (activated, up), f"{name}.gated")
        return self._projection(f"{name}.down", product, (layer.down,))

    def _normed(self, name: str, source: ir.Value, weight: str | None) -> ir.Value:
        if weight is None:
            return source
        attributes = {"epsilon": self._decoder.rms_norm_eps, "axis": -1, "stash_type": 1}
        inputs = (source, self._add(f"{name}.weight", weight))
        return self._node("SimplifiedLayerNormalization", inputs, name, attributes=attributes)

    def _scaled(self, name: str, source: ir.Value, factor: float) -> ir.Value:
        if factor == 1.0:
            return source
        return self._node(
            "Mul", (source, self._constant(f"{name}.factor", np.array(factor, np.float32))), f"{name}.scaled"
        )

    def _add_and_norm(
        self, name: str, skip: ir.Value, branch: ir.Value, weight: str | None
    ) -> tuple[ir.Value, ir.Value]:
        """Return (norm(skip + branch), skip + branch); without a weight there is no norm."""
        if weight is None:
            added = self._node("Add", (skip, branch), name)
            return added, added
        normed, total = ir.Value(name=f"{name}.output"), ir.Value(name=f"{name}.residual")
        node = ir.node(
            "SkipSimplifiedLayerNormalization",
            (skip, branch, self._add(f"{name}.weight", weight)),
            domain=MICROSOFT,
            attributes={"epsilon": self._decoder.rms_norm_eps},
            outputs=(normed, ir.Value(name=""), ir.Value(name=""), total),
            name=name,
        )
        self._nodes.append(node)
        return normed, total

    def _head(self, normed: ir.Value, embedding: ir.Value, logits: ir.Value) -> None:
        if self._decoder.head is None:
            node = ir.node(
                "FusedMatMul",
                (normed, embedding),
                domain=MICROSOFT,
                attributes={"transB": 1},
                outputs=(logits,),
                name="head",
            )
        else:
            head = Linear(self._decoder.head, None, self._decoder.vocab_size, self._decoder.hidden_size)
            weight = self._add_transposed("head.weight", (head,))
            node = ir.node("MatMul", (normed, weight), outputs=(logits,), name="head")
        self._nodes.append(node)

    def _projection(self, name: str, source: ir.Value, linears: Sequence[Linear], heads: HeadAxis = None) -> ir.Value:
        """Return source times the packed weights of ``linears`` side by side, plus their biases where any.

        ``heads`` names the axis that is made of attention heads, whose padding it gets.
        """
        weight = self._add_transposed(f"{name}.weight", linears, heads)
        product = self._node("MatMul", (source, weight), f"{name}.matmul")
        if all(linear.bias is None for linear in linears):
            return product
        parts = [
            np.zeros(linear.outputs, np.float32) if linear.bias is None else self._weights.float32(linear.bias)
            for linear in linears
        ]
        if heads == "outputs":
            parts = [self._pad_heads(part) for part in parts]
        bias = self._store(f"{name}.bias", parts, (sum(len(part) for part in parts),))
        return self._node("Add", (product, bias), f"{name}.add")

    def _add(self, name: str, tensor: str) -> ir.Value:
        shape = self._weights.info(tensor).shape
        step = max(1, _PIECE_BYTES // (4 * math.prod(shape[1:])))
        pieces = (self._weights.rows(tensor, start, start + step) for start in range(0, shape[0], step))
        return self._store(name, pieces, shape)

    def _add_transposed(self, name: str, linears: Sequence[Linear], heads: HeadAxis = None) -> ir.Value:
        """Store ``[inputs, outputs of all]``, in blocks of input rows so that memory stays bounded."""
        inputs, outputs = linears[0].inputs, sum(linear.outputs for linear in linears)
        head_dim, padded = self._decoder.head_dim, padded_head_dim(self._decoder)
        # A block is whole heads, so that it can be padded by itself.
        step = max(1, _PIECE_BYTES // (4 * outputs * head_dim)) * head_dim

        def pieces() -> Iterator[NDArray[np.float32]]:
            for start in range(0, inputs, step):
                blocks = [self._weights.columns(linear.weight, start, start + step).T for linear in linears]
                if heads == "outputs":
                    blocks = [self._pad_heads(block) for block in blocks]
                if heads == "inputs":
                    blocks = [self._pad_heads(block.T).T for block in blocks]
                yield np.concatenate(blocks, axis=1)

        shape = {
            "inputs": (inputs // head_dim * padded, outputs),
            "outputs": (inputs, outputs // head_dim * padded),
            None: (inputs, outputs),
        }[heads]
        return self._store(name, pieces(), shape)

    def _pad_heads(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Append zeros to both halves of every head of the last axis (rotary pairs lie half a head apart)."""
        half = self._decoder.head_dim // 2
        padding = padded_head_dim(self._decoder) // 2 - half
        if padding == 0:
            return array
        split = array.reshape(*array.shape[:-1], -1, half)
        padded = np.pad(split, [(0, 0)] * (split.ndim - 1) + [(0, padding)])
        return padded.reshape(*array.shape[:-1], -1)

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
        attributes: Mapping[str, int | float] | None = None,
    ) -> ir.Value:
        output = ir.Value(name=f"{name}.output")
        self._nodes.append(ir.node(op, inputs, attributes, domain=domain, outputs=(output,), name=name))
        return output


def padded_head_dim(decoder: Decoder) -> int:
    """Return the head size in the graph: GroupQueryAttention with rotary takes multiples of 16 only.

    Zeros in every head of q, k and v, and zero rows in o, leave the result what it was.
    """
    return -(-decoder.head_dim // HEAD_DIM_MULTIPLE) * HEAD_DIM_MULTIPLE


def rotary_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> NDArray[np.float64]:
    """Return the angle per position of each rotary pair, radians, ``[head_dim / 2]`` float64.

    RoFormer (Su et al., 2021), eq. 15; linear scaling (Chen et al., 2023, position interpolation);
    llama3 scaling by wavelength as published with Llama 3.1.
    """
    frequencies: NDArray[np.float64] = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    turns = scaling.original_context * frequencies / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = np.clip(smooth, 0.0, 1.0)
    blended: NDArray[np.float64] = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    return blended


def _value(name: str, dtype: ir.DataType, shape: Sequence[str | int]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
