"""A decoder as one fused ONNX graph for onnxruntime's CPU provider.

Imports onnx_ir: import it inside a function. Names of inputs and outputs follow onnxruntime-genai.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir  # noqa: TID253
from numpy.typing import NDArray

from edgestill.export.architectures.decoder import Decoder, Layer, Linear, Norm
from edgestill.export.architectures.rope import Rope
from edgestill.export.onnx_builder import MICROSOFT, Matrix, named_value
from edgestill.export.onnx_projections import ProjectionBuilder, padded_head_dim
from edgestill.export.projections import norm_weight
from edgestill.export.weights import Weights
from edgestill.progress import Task
from edgestill.tensor_file import PlannedFile, TensorFile
from edgestill.weight_blocks import Grid

OPSETS: Final = (("", 21), (MICROSOFT, 1))
IR_VERSION: Final = 10
ORIGINAL_CONTEXT_KEY: Final = "edgestill.longrope_original_context"
"""Metadata that our engine reads: sequences of more tokens have other rotary frequencies, from their first token."""
PADDED_MASK_KEY: Final = "edgestill.mask_may_end_in_zeros"
"""Metadata that our engine reads: ``true`` where only the number of a mask's ones counts, not how long it is."""

_COMPUTED_ROTARY_BYTES: Final = 1 << 20
_ROTARY_ROWS: Final = 4096


class DecoderGraph(ProjectionBuilder):
    """Builds the graph of one decoder while its weights stream into ``file``.

    Projections are MatMul with weights ``[inputs, outputs]``; q, k and v are one packed MatMul. A tied
    embedding is stored once, as ``[vocab, hidden]``, for both of its uses.
    """

    def __init__(
        self,
        decoder: Decoder,
        weights: Weights,
        file: TensorFile | PlannedFile,
        task: Task,
        grid: Grid | None = None,
        floats: ir.DataType = ir.DataType.FLOAT,
    ) -> None:
        super().__init__(decoder, weights, file, grid, floats)
        self._task = task

    def build(self) -> ir.Model:
        """Write every weight and return the model, whose initializers point into the file."""
        decoder = self._decoder
        batch, length, past, total = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"
        input_ids = named_value("input_ids", ir.DataType.INT64, (batch, length))
        attention_mask = named_value("attention_mask", ir.DataType.INT64, (batch, total))
        inputs, outputs = [input_ids, attention_mask], []

        lengths = self._lengths(attention_mask)
        rotary = self._rotary(input_ids, attention_mask)
        if self._grid is None:
            embedding: ir.Value | Matrix = (table := self._add("embedding.weight", decoder.embedding))
            hidden = self._node("Gather", (table, input_ids), "embedding")
        else:
            embedding = self._whole_matrix("embedding.weight", decoder.embedding)
            hidden = self._gather_blocks("embedding", embedding, input_ids)
        hidden = self._scaled("embedding", hidden, decoder.scales.embedding)
        if decoder.positions is not None:
            places = self._add("positions.weight", decoder.positions)
            positions = self._node("Gather", (places, self._positions(input_ids, attention_mask)), "positions")
            hidden = self._node("Add", (hidden, positions), "embedding_and_positions")
        normed = self._normed("layers.0.attention_norm", hidden, decoder.layers[0].attention_norm)
        for index, layer in enumerate(decoder.layers):
            caches = [
                named_value(f"past_key_values.{index}.{kind}", self._floats, self._cache_shape(batch, past))
                for kind in ("key", "value")
            ]
            presents = [
                named_value(f"present.{index}.{kind}", self._floats, self._cache_shape(batch, total))
                for kind in ("key", "value")
            ]
            inputs += caches
            outputs += presents
            attended = self._attention(index, layer, normed, caches, presents, lengths, rotary.get(layer.rope, ()))
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

        logits = named_value("logits", self._floats, (batch, length, decoder.vocab_size))
        self._head(self._scaled("final", normed, 1.0 / decoder.scales.logits), embedding, logits)
        graph = ir.Graph(
            inputs,
            [logits, *outputs],
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports=dict(OPSETS),
            name=decoder.architecture,
        )
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="edgestill")
        if (original := decoder.longrope_original) is not None:
            model.metadata_props[ORIGINAL_CONTEXT_KEY] = str(original)
        elif decoder.positions is None:
            # LongRoPE looks at the mask's length, learned positions at its end.
            model.metadata_props[PADDED_MASK_KEY] = "true"
        return model

    def _cache_shape(self, batch: str, time: str) -> tuple[str | int, ...]:
        return (batch, self._decoder.kv_heads, time, padded_head_dim(self._decoder))

    def _lengths(self, attention_mask: ir.Value) -> tuple[ir.Value, ir.Value]:
        """(tokens in each sequence - 1, total length), int32: what GroupQueryAttention wants of the mask."""
        one = self._constant("one", np.array([1], np.int64))
        total = self._node("ReduceSum", (attention_mask, one), "sequence_lengths", attributes={"keepdims": 0})
        last = self._node("Sub", (total, one), "last_positions")
        to_int32 = {"to": int(ir.DataType.INT32)}
        shape = self._node("Shape", (attention_mask,), "mask_shape", attributes={"start": 1, "end": 2})
        return (
            self._node("Cast", (last,), "seqlens_k", attributes=to_int32),
            self._node("Cast", (shape,), "total_sequence_length", attributes=to_int32),
        )

    def _positions(self, input_ids: ir.Value, attention_mask: ir.Value) -> ir.Value:
        """Return each token's place among those of its sequence that aren't padding, ``[batch, time]`` int64."""
        one, axis = self._constant("positions.one", np.array(1)), self._constant("positions.axis", np.array(1))
        counted = self._node("CumSum", (attention_mask, axis), "positions.counted")
        zero = self._constant("positions.zero", np.array(0))
        places = self._node("Max", (self._node("Sub", (counted, one), "positions.from_zero"), zero), "positions.places")
        time = self._node("Shape", (input_ids,), "positions.time", attributes={"start": 1, "end": 2})
        first = self._node("Neg", (time,), "positions.first")
        end = self._constant("positions.end", np.array([np.iinfo(np.int64).max]))
        axes = self._constant("positions.axes", np.array([1]))
        return self._node("Slice", (places, first, end, axes), "positions.new")

    def _rotary(self, input_ids: ir.Value, attention_mask: ir.Value) -> dict[Rope | None, tuple[ir.Value, ...]]:
        """Return what attention is given for each rotary embedding in use: cos and sin tables, and positions.

        Where a sequence beyond LongRoPE's original context has other frequencies, both tables are stored one
        after the other, and positions point into the one that holds.
        """
        found: dict[Rope | None, tuple[ir.Value, ...]] = {}
        for layer in self._decoder.layers:
            rope = layer.rope
            if rope is None or rope in found:
                continue
            name = "rotary" if not found else f"rotary.{len(found)}"
            if rope.scaling is None or rope.scaling.kind != "longrope":
                found[rope] = self._rotary_tables(name, rope)
                continue
            original = min(rope.scaling.original_context, self._decoder.context_length)
            positions = self._positions(input_ids, attention_mask)
            shape = self._node("Shape", (attention_mask,), f"{name}.total", attributes={"start": 1, "end": 2})
            limit = self._constant(f"{name}.original", np.array([original]))
            long = self._node("Greater", (shape, limit), f"{name}.is_long")
            shift = self._node("Where", (long, limit, self._constant(f"{name}.none", np.array([0]))), f"{name}.shift")
            shifted = self._node("Add", (positions, shift), f"{name}.positions")
            found[rope] = (*self._rotary_tables(name, rope), shifted)
        return found

    def _rotary_tables(self, name: str, rope: Rope) -> tuple[ir.Value, ir.Value]:
        """Return cos and sin of every position's angles, ``[context, dims / 2]`` float32 from float64.

        Small tables are constant nodes that onnxruntime folds when it loads the graph: in a small model
        they would be a tenth of the file. Large ones are stored: only the rows in use are then in memory.
        """
        half, context = self._padded_dims(rope.dims) // 2, self._decoder.context_length
        frequencies = np.pad(rope.frequencies(), (0, half - rope.dims // 2))
        parts = [(context, frequencies)]
        if rope.scaling is not None and rope.scaling.kind == "longrope":
            beyond = np.pad(rope.frequencies(beyond_original=True), (0, half - rope.dims // 2))
            parts = [(min(rope.scaling.original_context, context), frequencies), (context, beyond)]
        if 4 * half * context > _COMPUTED_ROTARY_BYTES or len(parts) > 1:
            shape = (sum(rows for rows, _ in parts), half)

            def stored(name: str, function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> ir.Value:
                return self._store_floats(name, _rotary_rows(parts, function, rope.attention_factor), shape, name)

            return stored(f"{name}.cos", np.cos), stored(f"{name}.sin", np.sin)
        bounds = [
            self._constant(f"{name}.{bound}", np.array(at)) for bound, at in (("from", 0), ("to", context), ("step", 1))
        ]
        steps = self._node("Range", bounds, f"{name}.positions")
        column = self._node("Unsqueeze", (steps, self._constant(f"{name}.axis", np.array([1]))), f"{name}.column")
        positions = self._node("Cast", (column,), f"{name}.double", attributes={"to": int(ir.DataType.DOUBLE)})
        angle = self._node("Mul", (positions, self._constant(f"{name}.frequencies", frequencies)), f"{name}.angles")
        to_float = {"to": int(self._floats)}
        computed = (self._node(op, (angle,), f"{name}.{op}") for op in ("Cos", "Sin"))
        cos_table, sin_table = (
            self._node("Cast", (table,), f"{name}.{op}", attributes=to_float)
            for table, op in zip(computed, ("cos", "sin"), strict=True)
        )
        return cos_table, sin_table

    def _attention(
        self,
        index: int,
        layer: Layer,
        normed: ir.Value,
        caches: Sequence[ir.Value],
        presents: Sequence[ir.Value],
        lengths: tuple[ir.Value, ir.Value],
        rotary: tuple[ir.Value, ...],
    ) -> ir.Value:
        decoder = self._decoder
        qkv = self._projection(f"layers.{index}.qkv", normed, (layer.q, layer.k, layer.v), heads="outputs")
        queries: tuple[ir.Value | None, ...] = (qkv, None, None)
        if layer.q_norm is not None and layer.k_norm is not None:
            queries = self._normed_heads(f"layers.{index}", qkv, layer.q_norm, layer.k_norm, layer.norms_all_heads)
        attended = ir.Value(name=f"layers.{index}.attention.output")
        cap = decoder.scales.attention_softcap
        node = ir.node(
            "GroupQueryAttention",
            (*queries, *caches, *lengths, *rotary),
            domain=MICROSOFT,
            attributes={
                "num_heads": decoder.heads,
                "kv_num_heads": decoder.kv_heads,
                "scale": decoder.scales.attention or 1.0 / math.sqrt(decoder.head_dim),
                "do_rotary": int(layer.rope is not None),
                "rotary_interleaved": 0,
                "local_window_size": -1 if layer.window is None else layer.window,
                **({} if cap is None else {"softcap": cap}),
            },
            outputs=(attended, *presents),
            name=f"layers.{index}.attention",
        )
        self._nodes.append(node)
        return self._projection(f"layers.{index}.o", attended, (layer.o,), heads="inputs")

    def _normed_heads(
        self, name: str, qkv: ir.Value, q_norm: Norm, k_norm: Norm, together: bool
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

        def normed(role: str, part: ir.Value, count: int, norm: Norm) -> ir.Value:
            weight = self._pad_heads(norm_weight(self._weights, norm, decoder.norm_offset)) * np.float32(
                math.sqrt(share)
            )
            stored = self._store_floats(f"{name}.{role}_norm.weight", [weight], weight.shape, norm.weight)
            attributes = {"epsilon": decoder.norm_eps * share, "axis": -1, "stash_type": 1}
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
        if layer.gate is None:
            up = self._projection(f"{name}.up", normed, (layer.up,))
            return self._projection(f"{name}.down", self._activated(name, up), (layer.down,))
        gate = self._projection(f"{name}.gate", normed, (layer.gate,))
        up = self._projection(f"{name}.up", normed, (layer.up,))
        product = self._node("Mul", (self._activated(name, gate), up), f"{name}.gated")
        return self._projection(f"{name}.down", product, (layer.down,))

    def _activated(self, name: str, source: ir.Value) -> ir.Value:
        if self._decoder.activation == "gelu_tanh":
            return self._node("Gelu", (source,), f"{name}.gelu", attributes={"approximate": "tanh"})
        # QuickGelu with alpha 1 is SiLU in one kernel.
        return self._node("QuickGelu", (source,), f"{name}.silu", domain=MICROSOFT, attributes={"alpha": 1.0})

    def _normed(self, name: str, source: ir.Value, norm: Norm | None) -> ir.Value:
        if norm is None:
            return source
        attributes = {"epsilon": self._decoder.norm_eps, "axis": -1, "stash_type": 1}
        op = "SimplifiedLayerNormalization" if self._decoder.norm == "rms" else "LayerNormalization"
        return self._node(op, (source, *self._norm_values(name, norm)), name, attributes=attributes)

    def _norm_values(self, name: str, norm: Norm) -> list[ir.Value]:
        weight = norm_weight(self._weights, norm, self._decoder.norm_offset)
        values = [self._store_floats(f"{name}.weight", [weight], weight.shape, norm.weight)]
        if norm.bias is not None:
            values.append(self._add(f"{name}.bias", norm.bias))
        return values

    def _add_and_norm(
        self, name: str, skip: ir.Value, branch: ir.Value, norm: Norm | None
    ) -> tuple[ir.Value, ir.Value]:
        """Return (norm(skip + branch), skip + branch); without a norm both are the sum."""
        if norm is None:
            added = self._node("Add", (skip, branch), name)
            return added, added
        normed, total = ir.Value(name=f"{name}.output"), ir.Value(name=f"{name}.residual")
        rms = self._decoder.norm == "rms"
        node = ir.node(
            "SkipSimplifiedLayerNormalization" if rms else "SkipLayerNormalization",
            (skip, branch, *self._norm_values(name, norm)),
            domain=MICROSOFT,
            attributes={"epsilon": self._decoder.norm_eps},
            outputs=(normed, ir.Value(name=""), ir.Value(name=""), total),
            name=name,
        )
        self._nodes.append(node)
        return normed, total

    def _head(self, normed: ir.Value, embedding: ir.Value | Matrix, logits: ir.Value) -> None:
        cap = self._decoder.scales.logits_softcap
        raw = logits if cap is None else ir.Value(name="head.output")
        if isinstance(embedding, Matrix):
            head_name = self._decoder.head
            matrix = embedding if head_name is None else self._whole_matrix("head.weight", head_name)
            self._matmul_blocks("head", normed, matrix, raw)
        elif self._decoder.head is None:
            node = ir.node(
                "FusedMatMul",
                (normed, embedding),
                domain=MICROSOFT,
                attributes={"transB": 1},
                outputs=(raw,),
                name="head",
            )
            self._nodes.append(node)
        else:
            head = Linear(self._decoder.head, None, self._decoder.vocab_size, self._decoder.hidden_size)
            weight = self._add_transposed("head.weight", (head,))
            self._nodes.append(ir.node("MatMul", (normed, weight), outputs=(raw,), name="head"))
        if cap is not None:
            bounded = self._node("Tanh", (self._scaled("head", raw, 1.0 / cap),), "head.tanh")
            factor = self._constant("head.cap", self._as_floats(np.array(cap)))
            self._nodes.append(ir.node("Mul", (bounded, factor), outputs=(logits,), name="head.capped"))


def _rotary_rows(
    parts: Sequence[tuple[int, NDArray[np.float64]]],
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    factor: float,
) -> Iterator[NDArray[np.float32]]:
    """Yield ``function`` of every position's angles times ``factor``, a few thousand rows at a time.

    ``parts`` are (positions from 0, frequencies), one after the other.
    """
    for rows, frequencies in parts:
        for start in range(0, rows, _ROTARY_ROWS):
            positions = np.arange(start, min(start + _ROTARY_ROWS, rows), dtype=np.float64)
            yield (function(positions[:, None] * frequencies) * factor).astype(np.float32)
