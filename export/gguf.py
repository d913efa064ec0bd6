"""Checkpoint -> GGUF (f32, f16), streaming rows from memory-mapped safetensors.

Layout and keys: the GGUF specification in ggml's docs; tensor names from ``gguf.constants``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import Artifact, Checkpoint
from edgestill.errors import CheckpointError, UnsupportedError
from edgestill.export.architectures import Decoder, RopeScaling, describe_checkpoint
from edgestill.export.architectures.decoder import Scales
from edgestill.export.gguf_pretokenizer import choose_pretokenizer
from edgestill.export.gguf_tokenizer import GgufTokenizer, load_tokenizer, open_writer, read_tokenizer
from edgestill.export.weights import Weights
from edgestill.progress import SILENT, Progress
from edgestill.storage import whole_folder

if TYPE_CHECKING:
    import gguf

ENTRY: Final = "model.gguf"
_CHUNK_BYTES: Final = 16 << 20
_FILE_TYPES: Final = {"f32": 0, "f16": 1}
_QUANTIZATION_VERSION: Final = 2

_ROLES: Final = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def export_gguf(checkpoint: Checkpoint, precision: str, out_dir: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write ``out_dir/gguf-<precision>/model.gguf`` (``f32`` or ``f16``) and return the artifact.

    In f16 the norms, biases and rotary factors stay float32, as llama.cpp expects. The same checkpoint
    gives the same bytes. Memory is bounded by a few chunks of 16 MiB and the tokenizer.

    Raises UnsupportedError for a precision, architecture or tokenizer that GGUF can't hold, or a value
    that f16 can't; CheckpointError for a damaged checkpoint; DiskFullError when there is no room.
    """
    if precision not in _FILE_TYPES:
        raise UnsupportedError(f"gguf precision {precision!r} is not one of {', '.join(_FILE_TYPES)}")
    final = out_dir / f"gguf-{precision}"
    with Weights(checkpoint) as weights, whole_folder(final) as folder:
        decoder = describe_checkpoint(checkpoint, weights)
        original = load_tokenizer(checkpoint)
        described = read_tokenizer(checkpoint, original, decoder.vocab_size)
        tokenizer = choose_pretokenizer(original, described, decoder.gguf_architecture, folder)
        _write(folder / ENTRY, decoder, tokenizer, weights, precision, progress)
        Artifact.describe(folder, "gguf", precision, ENTRY, parent=checkpoint.sha256(), notes=tokenizer.notes)
    return Artifact.open(final)


@dataclass(frozen=True)
class _Stream:
    """One tensor to write, as chunks; quacks like the array that GGUFWriter.write_tensor_data wants."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: Callable[[], Iterator[NDArray[np.float32]]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def tofile(self, file: IO[bytes]) -> None:
        for chunk in self.chunks():
            if not np.isfinite(chunk).all():
                raise CheckpointError(f"tensor {self.name!r} has NaN or infinite values; the checkpoint is damaged")
            with np.errstate(over="ignore"):
                written = chunk.astype(self.dtype, copy=False)
            if written.dtype == np.float16 and not np.isfinite(written).all():
                peak = float(np.abs(chunk).max())
                raise UnsupportedError(
                    f"tensor {self.name!r} has a value of size {peak:g}; f16 ends at 65504, export with precision f32"
                )
            # Not ndarray.tofile: it loses the errno of a full disk.
            file.write(written.data.cast("B"))


def _write(
    path: Path, decoder: Decoder, tokenizer: GgufTokenizer, weights: Weights, precision: str, progress: Progress
) -> None:
    writer = open_writer(path, decoder.gguf_architecture)
    try:
        _add_metadata(writer, decoder, precision)
        tokenizer.write(writer)
        streams = list(_streams(decoder, weights, precision))
        for stream in streams:
            writer.add_tensor_info(stream.name, stream.shape, stream.dtype, stream.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total = sum(stream.nbytes for stream in streams)
        with progress.task(f"gguf-{precision}", total, "bytes") as task:
            for stream in streams:
                writer.write_tensor_data(cast("NDArray[Any]", stream))
                task.advance(stream.nbytes)
    finally:
        writer.close()


def _add_metadata(writer: gguf.GGUFWriter, decoder: Decoder, precision: str) -> None:
    label = _size_label(decoder.parameters())
    writer.add_type("model")
    writer.add_name(f"{decoder.gguf_architecture} {label}")
    writer.add_size_label(label)
    writer.add_file_type(_FILE_TYPES[precision])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_context_length(decoder.context_length)
    writer.add_embedding_length(decoder.hidden_size)
    writer.add_block_count(len(decoder.layers))
    writer.add_feed_forward_length(decoder.intermediate_size)
    writer.add_head_count(decoder.heads)
    writer.add_head_count_kv(decoder.kv_heads)
    writer.add_key_length(decoder.head_dim)
    writer.add_value_length(decoder.head_dim)
    writer.add_rope_dimension_count(decoder.head_dim)
    writer.add_rope_freq_base(decoder.rope_theta)
    writer.add_layer_norm_rms_eps(decoder.rms_norm_eps)
    writer.add_vocab_size(decoder.vocab_size)
    if decoder.scales != Scales():
        scales = decoder.scales
        writer.add_embedding_scale(scales.embedding)
        writer.add_residual_scale(scales.residual)
        writer.add_logit_scale(scales.logits)
        writer.add_attention_scale(scales.attention or decoder.head_dim**-0.5)
    if decoder.rope_scaling is not None and decoder.rope_scaling.kind == "linear":
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(decoder.rope_scaling.factor)


def _size_label(parameters: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{name}"
    return str(parameters)


def _streams(decoder: Decoder, weights: Weights, precision: str) -> Iterator[_Stream]:
    """Yield every tensor in file order; matrices in the wanted precision, vectors in float32."""
    matrix = np.dtype("<f4") if precision == "f32" else np.dtype("<f2")
    vector = np.dtype("<f4")

    def tensor(target: str, source: str, *, head_rows: int | None = None) -> _Stream:
        shape = weights.info(source).shape
        dtype = matrix if len(shape) > 1 else vector

        def chunks() -> Iterator[NDArray[np.float32]]:
            return _rows(weights, source, shape, head_rows)

        return _Stream(target, shape, dtype, chunks)

    yield tensor("token_embd.weight", decoder.embedding)
    if decoder.rope_scaling is not None and decoder.rope_scaling.kind == "llama3":
        factors = llama3_rope_factors(decoder.rope_scaling, decoder.rope_theta, decoder.head_dim)
        yield _Stream("rope_freqs.weight", factors.shape, vector, lambda: iter([factors]))
    for index, layer in enumerate(decoder.layers):
        block = f"blk.{index}"
        norms = {
            "q": ("attn_norm", layer.attention_norm),
            "gate": ("ffn_norm", layer.mlp_norm),
            "up": ("post_attention_norm", layer.attention_post_norm),
            "down": ("post_ffw_norm", layer.mlp_post_norm),
        }
        for role, linear in layer.linears():
            name, norm = norms.get(role, ("", None))
            if norm is not None:
                yield tensor(f"{block}.{name}.weight", norm)
            head_rows = decoder.head_dim if decoder.gguf_permutes_qk and role in ("q", "k") else None
            yield tensor(f"{block}.{_ROLES[role]}.weight", linear.weight, head_rows=head_rows)
            if linear.bias is not None:
                yield tensor(f"{block}.{_ROLES[role]}.bias", linear.bias, head_rows=head_rows)
            heads_norm = {"q": layer.q_norm, "k": layer.k_norm}.get(role)
            if heads_norm is not None:
                yield tensor(f"{block}.{_ROLES[role]}_norm.weight", heads_norm, head_rows=head_rows)
    yield tensor("output_norm.weight", decoder.final_norm)
    if decoder.head is not None:
        yield tensor("output.weight", decoder.head)


def _rows(weights: Weights, name: str, shape: tuple[int, ...], head_rows: int | None) -> Iterator[NDArray[np.float32]]:
    """Yield a tensor's rows in chunks, permuted inside each head when ``head_rows`` is its size.

    transformers rotates dimension i with i + half; GGUF's llama rotates 2i with 2i + 1.
    """
    row_bytes = 4 * math.prod(shape[1:])
    step = max(1, _CHUNK_BYTES // max(row_bytes, 1))
    if head_rows is not None:
        step = max(1, step // head_rows) * head_rows
    for start in range(0, shape[0], step):
        chunk = weights.rows(name, start, start + step)
        if head_rows is not None:
            halves = chunk.reshape(-1, 2, head_rows // 2, *shape[1:])
            chunk = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(chunk.shape)
        yield chunk


def llama3_rope_factors(scaling: RopeScaling, theta: float, head_dim: int) -> NDArray[np.float32]:
    """Return what llama.cpp divides each rotary frequency by, ``[head_dim / 2]`` float32 (Llama 3.1's rule)."""
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    wavelengths = 2 * math.pi / frequencies
    longest = scaling.original_context / scaling.low_freq_factor
    shortest = scaling.original_context / scaling.high_freq_factor
    smooth = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = 1 / ((1 - smooth) / scaling.factor + smooth)
    factors = np.where(wavelengths < shortest, 1.0, np.where(wavelengths > longest, scaling.factor, between))
    return factors.astype(np.float32)
