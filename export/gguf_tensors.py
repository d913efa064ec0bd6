"""A decoder's tensors as GGUF has them: names, shapes, types, and their rows converted on all cores."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import CheckpointError, UnsupportedError
from edgestill.export.architectures import Decoder, Linear, Norm, RopeScaling
from edgestill.export.gguf_encoding import BF16, F16, F32, Q8_0, Encoding, Floats, Stored
from edgestill.export.parallel import in_order
from edgestill.export.projections import bias, norm_weight, stored_rows
from edgestill.export.weights import Weights
from edgestill.progress import Task

GGUF_PRECISIONS: Final = MappingProxyType({"f32": F32, "f16": F16, "bf16": BF16, "q8_0": Q8_0})
_CHUNK_BYTES: Final = 2 << 20
_FLUSH_BYTES: Final = 64 << 20
_LARGE_FILE: Final = 1 << 30
Scalar = TypeVar("Scalar", bound=np.generic)

_ROLES: Final = MappingProxyType(
    {
        "q": "attn_q",
        "k": "attn_k",
        "v": "attn_v",
        "qkv": "attn_qkv",
        "o": "attn_output",
        "gate": "ffn_gate",
        "up": "ffn_up",
        "gate_up": "ffn_up",
        "down": "ffn_down",
    }
)


@dataclass(frozen=True)
class GgufTensor:
    """One tensor to write; ``rows(start, stop)`` gives some of its rows, as stored, in whole multiples of ``step``."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    rows: Callable[[int, int], Stored]
    step: int = 1
    release: Callable[[int, int], None] = lambda start, stop: None

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.encoding.nbytes(math.prod(self.shape))

    def chunks(self) -> Iterator[Callable[[], NDArray[Any]]]:
        """Yield jobs that return consecutive parts, encoded; they may run at the same time."""
        row_bytes = 4 * math.prod(self.shape[1:])
        step = max(1, _CHUNK_BYTES // max(row_bytes, 1) // self.step) * self.step

        def encoded(start: int) -> NDArray[Any]:
            stop = min(start + step, self.shape[0])
            try:
                return self.encoding.encode(self.rows(start, stop))
            finally:
                self.release(start, stop)

        for start in range(0, self.shape[0], step):
            yield functools.partial(encoded, start)


class HashedFile:
    """Writes to a file and hashes, on a thread of its own, all that is in it; ``hexdigest`` is its sha256.

    A file of 1 GiB or more (``size`` bytes are expected) leaves the page cache as it reaches the disk: whatever the
    model's size, converting it doesn't push out what other programs have there, or fill a container's memory.
    """

    def __init__(self, file: IO[bytes], path: Path, size: int) -> None:
        file.flush()
        self._leaves_cache = size >= _LARGE_FILE and hasattr(os, "posix_fadvise")
        self._file = file
        self._hash = hashlib.sha256(path.read_bytes())
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None
        self._flusher = ThreadPoolExecutor(1)
        self._flushing: Future[None] | None = None
        self._unflushed = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``, which must not change afterwards."""
        # Not ndarray.tofile: it loses the errno of a full disk.
        self._file.write(data)
        self._wait()
        self._running = self._thread.submit(self._hash.update, data)
        self._unflushed += len(data)
        # The file is synced when it is whole; what reaches the disk before isn't waited for then.
        if self._unflushed >= _FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._flushing = self._flusher.submit(self._flush)
            self._unflushed = 0

    def _flush(self) -> None:
        os.fsync(self._file.fileno())
        if self._leaves_cache:
            # Pages written since are dirty still, and stay.
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def align(self, alignment: int) -> None:
        """Append zeros up to a multiple of ``alignment``."""
        if padding := -self._file.tell() % alignment:
            self.write(bytes(padding))

    def hexdigest(self) -> str:
        """Return the sha256 of the whole file."""
        self._wait()
        return self._hash.hexdigest()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()
        self._flusher.shutdown()

    def _wait(self) -> None:
        if self._running is not None:
            self._running.result()


def write_tensors(tensors: Sequence[GgufTensor], file: HashedFile, alignment: int, task: Task, where: Path) -> None:
    """Append the tensors to ``file``, each padded to ``alignment``, as GGUF wants it.

    Conversion runs on threads (numpy lets go of the interpreter), a few chunks ahead of the writing. Errors name
    ``where`` the values come from.
    """

    def named(tensor: GgufTensor, job: Callable[[], NDArray[Any]]) -> tuple[GgufTensor, NDArray[Any]]:
        try:
            return tensor, job()
        except (CheckpointError, UnsupportedError) as error:
            raise type(error)(f"{where}: tensor {tensor.name!r} {error}") from error

    current: GgufTensor | None = None
    jobs = (functools.partial(named, tensor, job) for tensor in tensors for job in tensor.chunks())
    for written, encoded in in_order(jobs):
        if written is not current:
            file.align(alignment)
            current = written
        file.write(encoded.data.cast("B"))
        task.advance(encoded.nbytes)
    file.align(alignment)


def gguf_tensors(decoder: Decoder, weights: Weights, precision: str) -> list[GgufTensor]:
    """Return every tensor in file order; matrices in the wanted precision, everything else in float32."""
    return list(_tensors(decoder, weights, GGUF_PRECISIONS[precision]))


def _tensors(decoder: Decoder, weights: Weights, wanted: Encoding) -> Iterator[GgufTensor]:
    def matrix(name: str, linear: Linear, head_rows: int | None = None) -> GgufTensor:
        encoding = F16 if linear.inputs % wanted.block else wanted

        def rows(start: int, stop: int) -> Stored:
            return _interleaved(stored_rows(weights, linear, start, stop), head_rows)

        def release(start: int, stop: int) -> None:
            if not linear.transposed:
                weights.release(linear.weight, linear.start + start, linear.start + stop)

        return GgufTensor(name, (linear.outputs, linear.inputs), encoding, rows, head_rows or 1, release)

    def vector(name: str, values: Callable[[], Floats], size: int) -> GgufTensor:
        return GgufTensor(name, (size,), F32, lambda start, stop: values()[start:stop])

    def norms(name: str, norm: Norm | None, head_rows: int | None = None) -> Iterator[GgufTensor]:
        if norm is None:
            return
        weight = norm
        yield vector(
            f"{name}.weight",
            lambda: _interleaved(norm_weight(weights, weight, decoder.norm_offset), head_rows),
            norm.size,
        )
        if norm.bias is not None:
            shift = norm.bias
            yield vector(f"{name}.bias", lambda: weights.float32(shift), norm.size)

    def projection(name: str, linear: Linear, head_rows: int | None) -> Iterator[GgufTensor]:
        yield matrix(f"{name}.weight", linear, head_rows)
        if linear.bias is not None:

            def values() -> Floats:
                found = bias(weights, linear)
                assert found is not None
                return _interleaved(found, head_rows)

            yield vector(f"{name}.bias", values, linear.outputs)

    yield matrix("token_embd.weight", Linear(decoder.embedding, None, decoder.vocab_size, decoder.hidden_size))
    if decoder.positions is not None:
        positions = decoder.positions
        shape = (decoder.context_length, decoder.hidden_size)
        yield GgufTensor("position_embd.weight", shape, F32, lambda start, stop: weights.stored(positions)[start:stop])
    if decoder.rope is not None and decoder.rope.scaling is not None:
        for name, factors in _rope_factors(decoder.rope.scaling, decoder.rope.theta, decoder.rope.dims):
            yield vector(name, lambda factors=factors: factors, len(factors))  # type: ignore[misc]
    for index, layer in enumerate(decoder.layers):
        block = f"blk.{index}"
        yield from norms(f"{block}.attn_norm", layer.attention_norm)
        for role, linear in layer.linears():
            if role in ("gate", "gate_up") or (role == "up" and layer.gate is None):
                yield from norms(f"{block}.post_attention_norm", layer.attention_post_norm)
                yield from norms(f"{block}.ffn_norm", layer.mlp_norm)
            head_rows = decoder.head_dim if decoder.gguf_permutes_qk and role in ("q", "k") else None
            yield from projection(f"{block}.{_ROLES[role]}", linear, head_rows)
            if role in ("q", "k"):
                yield from norms(
                    f"{block}.{_ROLES[role]}_norm", layer.q_norm if role == "q" else layer.k_norm, head_rows
                )
        yield from norms(f"{block}.post_ffw_norm", layer.mlp_post_norm)
    yield from norms("output_norm", decoder.final_norm)
    if decoder.head is not None:
        yield matrix("output.weight", Linear(decoder.head, None, decoder.vocab_size, decoder.hidden_size))


def _interleaved(rows: NDArray[Scalar], head_rows: int | None) -> NDArray[Scalar]:
    """Return rows permuted inside each head when ``head_rows`` is its size.

    transformers rotates dimension i with i + half; GGUF's llama rotates 2i with 2i + 1.
    """
    if head_rows is None:
        return rows
    halves = rows.reshape(-1, 2, head_rows // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _rope_factors(scaling: RopeScaling, theta: float, dims: int) -> Iterator[tuple[str, Floats]]:
    if scaling.kind == "llama3":
        yield "rope_freqs.weight", llama3_rope_factors(scaling, theta, dims)
    if scaling.kind == "longrope":
        yield "rope_factors_long.weight", np.array(scaling.long_factors, np.float32)
        yield "rope_factors_short.weight", np.array(scaling.short_factors, np.float32)


def llama3_rope_factors(scaling: RopeScaling, theta: float, dims: int) -> Floats:
    """Return what llama.cpp divides each rotary frequency by, ``[dims / 2]`` float32 (Llama 3.1's rule)."""
    # In float32, as the published files have them.
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    frequencies = np.float32(1) / np.float32(theta) ** exponents
    wavelengths = np.float32(2 * math.pi) / frequencies
    longest = scaling.original_context / scaling.low_freq_factor
    shortest = scaling.original_context / scaling.high_freq_factor
    smooth = (np.float32(scaling.original_context) / wavelengths - np.float32(scaling.low_freq_factor)) / np.float32(
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = np.float32(1) / ((np.float32(1) - smooth) / np.float32(scaling.factor) + smooth)
    factors = np.where(wavelengths < shortest, 1.0, np.where(wavelengths > longest, scaling.factor, between))
    return factors.astype(np.float32)
