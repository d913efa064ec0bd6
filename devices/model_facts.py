"""What a model's file says that its memory and speed on a device follow from, read without loading the model.

GGUF headers are read by :mod:`edgestill.runtime.gguf_header`, ONNX graphs by the package ``onnx`` without their
weights. Bytes and operations of a token are the bench's own (:mod:`edgestill.runtime.traffic`,
:mod:`edgestill.runtime.operations`).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from edgestill.errors import MissingDependencyError, ModelFileError, UnsupportedError
from edgestill.runtime.engine_options import KV_BYTES
from edgestill.runtime.gguf_header import TENSOR_BLOCKS, GgufTensor, read_gguf_header
from edgestill.runtime.operations import Operations, gguf_operations, onnx_operations
from edgestill.runtime.traffic import gguf_traffic, onnx_traffic

if TYPE_CHECKING:
    from edgestill.runtime.model_source import ModelSource

_SEARCHED: Final = 4 << 20
"""A header's own numbers stand at its beginning; the vocabulary comes after."""
_TINY_HEAD: Final = 64
"""The size of a head where the file doesn't say how many there are: of the usual ones that with the most scores."""

_PRODUCTS: Final = ("MatMul", "FusedMatMul", "Gemm", "MatMulInteger")


@dataclass(frozen=True)
class Weights:
    """Bytes of weights that are multiplied with, by ggml's type (-1 in ONNX).

    ``packed`` is what a copy takes that is made for the processor, where one is made (an ONNX file's has its scales
    twice); ``rows`` is how many rows the smallest has.
    """

    type: int
    products: int
    packed: int
    rows: int


@dataclass(frozen=True)
class ModelFacts:
    """One artifact: what it holds, in bytes, and the sizes that its buffers follow from.

    ``weight_bytes`` and ``kv_values`` (values for each position in the KV cache) are what a decoded token reads,
    ``decode_operations`` what it computes with weights, ``pair_operations`` with each position before it.
    ``mapped_bytes`` are the weights that lie in the file (of an ONNX file those that a session leaves there),
    ``embedding_bytes`` the table of tokens among them; ``tied``: it is the head too. ``tokenizer_bytes`` is the size
    of a tokenizer.json that the engine needs beside the file (0: the file has it).
    """

    kind: Literal["gguf", "onnx"]
    file_bytes: int
    weights: tuple[Weights, ...]
    head: Weights | None
    mapped_bytes: int
    embedding_bytes: int
    tied: bool
    metadata_bytes: int
    tokenizer_bytes: int
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    vocabulary: int
    kv_values: int
    kv_item: float
    all_float32: bool
    weight_bytes: int
    decode_operations: float
    pair_operations: float
    prompt: Operations | None
    bits: float

    def kv_bytes(self, kv_precision: str | None) -> float:
        """Return the bytes of one value in the KV cache; an ONNX file says its own."""
        if self.kind == "onnx":
            return self.kv_item
        return KV_BYTES[kv_precision or ("f32" if self.all_float32 else "f16")]

    def kernel(self) -> str:
        """Return which products the engine computes: ``f32``, ``f16``, ``int8`` or ``int4``, by its average weight."""
        return next(
            (name for name, limit in (("int4", 6.0), ("int8", 12.0), ("f16", 24.0)) if self.bits < limit), "f32"
        )


def read_facts(source: ModelSource) -> ModelFacts:
    """Read what an artifact's files say.

    Raises ModelFileError for a damaged file, UnsupportedError for a checkpoint and for a model that isn't a decoder of
    a kind that we know, and MissingDependencyError for an ONNX file where the package ``onnx`` isn't installed.
    """
    if source.kind == "gguf":
        return _gguf(source.path, source.size_bytes)
    if source.kind == "onnx":
        return _onnx(source)
    raise UnsupportedError(f"{source}: a checkpoint isn't sent to a device; export it to gguf or onnx first")


def _gguf(path: Path, file_bytes: int) -> ModelFacts:
    header = read_gguf_header(path)
    table = {tensor.name: tensor for tensor in header.table}
    embedding = table.get("token_embd.weight")
    operations = gguf_operations(path)
    if embedding is None or operations is None:
        raise UnsupportedError(f"{path}: not a decoder whose memory can be told from its file (dense layers are)")
    products = [one for one in header.table if one.name.startswith("blk.") and len(one.shape) == 2]
    by_type: dict[int, list[GgufTensor]] = defaultdict(list)
    for tensor in products:
        by_type[tensor.type].append(tensor)
    weights = tuple(_sum(kind, tensors) for kind, tensors in sorted(by_type.items()))
    head = table.get("output.weight", embedding)
    queries = next(one.shape[0] for name, one in table.items() if name.endswith(".attn_output.weight"))
    counted = sum(math.prod(one.shape) for one in products)
    traffic = gguf_traffic(path, 1.0)
    return ModelFacts(
        kind="gguf",
        file_bytes=file_bytes,
        weights=weights,
        head=_sum(head.type, [head]),
        mapped_bytes=header.tensor_bytes,
        embedding_bytes=_sum(embedding.type, [embedding]).products,
        tied="output.weight" not in table,
        metadata_bytes=max(0, file_bytes - header.tensor_bytes),
        tokenizer_bytes=0,
        layers=len({one.name.split(".")[1] for one in products}),
        hidden=embedding.shape[0],
        feed_forward=max(
            (one.shape[0] for one in products if ".ffn_down." in one.name), default=4 * embedding.shape[0]
        ),
        heads=_head_count(path) or max(1, queries // _TINY_HEAD),
        vocabulary=embedding.shape[1],
        kv_values=traffic.cached,
        kv_item=0.0,
        all_float32=header.all_float32,
        weight_bytes=traffic.weights,
        decode_operations=operations.per_token + operations.per_prompt,
        pair_operations=operations.per_pair,
        prompt=operations,
        bits=8 * sum(one.products for one in weights) / max(counted, 1),
    )


def _sum(kind: int, tensors: list[GgufTensor]) -> Weights:
    size = sum(math.prod(one.shape) // TENSOR_BLOCKS[kind][0] * TENSOR_BLOCKS[kind][1] for one in tensors)
    return Weights(kind, size, size, min(one.shape[1] for one in tensors))


def _head_count(path: Path) -> int | None:
    """Return ``*.attention.head_count`` of a GGUF file's metadata; None where it isn't a single number."""
    key = b".attention.head_count"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(key, 0, _SEARCHED)
        while at >= 0:
            kind, value = struct.unpack_from("<II", data, at + len(key))
            if kind in (4, 5):
                return int(value) or None
            at = data.find(key, at + 1, _SEARCHED)
    return None


def _onnx(source: ModelSource) -> ModelFacts:
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError(
            f"{source}: reading its graph needs the package onnx; pip install 'edgestill[export]'"
        ) from error
    try:
        graph = onnx.load(str(source.path), load_external_data=False).graph
    except Exception as error:  # protobuf's own error has no public base
        raise ModelFileError(f"{source.path}: not an ONNX graph ({' '.join(str(error).split())})") from error
    traffic, operations = onnx_traffic(source.path), onnx_operations(source.path)
    attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    if traffic is None or operations is None or not attention:
        raise UnsupportedError(
            f"{source}: not a decoder with GroupQueryAttention; its memory can't be told from the file"
        )
    sizes = {one.name: (_initializer_bytes(one), list(one.dims)) for one in graph.initializer}
    used = _Graph(graph.node, sizes)
    kv = [one for one in graph.input if one.name.startswith("past_key_values.")]
    kv_values = sum(
        one.type.tensor_type.shape.dim[1].dim_value * one.type.tensor_type.shape.dim[3].dim_value for one in kv
    )
    item = 2.0 if kv and kv[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16 else 4.0
    tokenizer = None if source.tokenizer_folder is None else source.tokenizer_folder / "tokenizer.json"
    return ModelFacts(
        kind="onnx",
        file_bytes=source.size_bytes,
        weights=(Weights(-1, used.products, used.packed, 0),),
        head=None,
        mapped_bytes=sum(size for size, _ in sizes.values()) - used.only_packed,
        embedding_bytes=0,
        tied=False,
        metadata_bytes=source.path.stat().st_size,
        tokenizer_bytes=tokenizer.stat().st_size if tokenizer is not None and tokenizer.is_file() else 0,
        layers=len(attention),
        hidden=used.hidden,
        feed_forward=used.widest,
        heads=max(_attribute(node, "num_heads") for node in attention),
        vocabulary=graph.output[0].type.tensor_type.shape.dim[-1].dim_value,
        kv_values=kv_values,
        kv_item=item,
        all_float32=used.products == 4 * used.counted,
        weight_bytes=traffic.weights,
        decode_operations=operations.per_token,
        pair_operations=operations.per_pair,
        prompt=operations,
        bits=8 * used.products / max(used.counted, 1),
    )


class _Graph:
    """Sums over the products of a graph; ``packed`` is what onnxruntime's own copies take (measured: to 0.1%)."""

    def __init__(self, nodes: Any, sizes: dict[str, tuple[int, list[int]]]) -> None:
        self.products = self.packed = self.counted = self.only_packed = 0
        self.hidden = self.widest = 1
        packed_names: set[str] = set()
        read_names: set[str] = set()
        for node in nodes:
            if node.op_type == "MatMulNBits":
                rows, columns = _attribute(node, "N"), _attribute(node, "K")
                self._product(sizes[node.input[1]][0], rows * columns, columns)
                # Besides its weights a packed copy has the scales, and the sums of blocks, which are as many.
                scales = sizes[node.input[2]][0] if node.input[2] in sizes else 4 * rows * columns // 32
                self.packed += sizes[node.input[1]][0] + 2 * scales
                packed_names.add(node.input[1])
                read_names.update(node.input[2:])
            elif node.op_type in _PRODUCTS and len(node.input) > 1 and node.input[1] in sizes:
                size, dims = sizes[node.input[1]]
                self._product(size, math.prod(dims), dims[0])
                self.packed += size
                packed_names.add(node.input[1])
            else:
                read_names.update(node.input)
        self.only_packed = sum(sizes[name][0] for name in packed_names - read_names if name in sizes)

    def _product(self, size: int, count: int, columns: int) -> None:
        self.products += size
        self.counted += count
        self.hidden = columns if self.hidden == 1 else min(self.hidden, columns)
        self.widest = max(self.widest, columns)


def _initializer_bytes(tensor: Any) -> int:
    import onnx

    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return int(math.prod(tensor.dims)) // 2
    return int(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _attribute(node: Any, name: str) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), 0)
