"""Checkpoint -> GGUF (f32, f16, bf16, q8_0), streaming rows from memory-mapped safetensors.

Layout and keys: the GGUF specification in ggml's docs; tensor names from ``gguf.constants``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgestill.artifact import Artifact, Checkpoint
from edgestill.errors import UnsupportedError
from edgestill.export.announce import announce_size
from edgestill.export.architectures import Decoder, describe_checkpoint
from edgestill.export.gguf_metadata import add_metadata
from edgestill.export.gguf_pretokenizer import choose_pretokenizer
from edgestill.export.gguf_tensors import GGUF_PRECISIONS, HashedFile, gguf_tensors, write_tensors
from edgestill.export.gguf_tokenizer import GgufTokenizer, open_writer, read_tokenizer
from edgestill.export.source_tokenizer import load_tokenizer
from edgestill.export.weights import Weights
from edgestill.progress import SILENT, Progress
from edgestill.storage import whole_folder

if TYPE_CHECKING:
    import gguf

ENTRY: Final = "model.gguf"


@dataclass(frozen=True)
class Source:
    """What a file is made from: a checkpoint, its sha256, and its architecture and tokenizer in GGUF's terms."""

    checkpoint: Checkpoint
    decoder: Decoder
    tokenizer: GgufTokenizer
    sha256: str


def export_gguf(checkpoint: Checkpoint, precision: str, out_dir: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write ``out_dir/gguf-<precision>/model.gguf`` (``f32``, ``f16``, ``bf16``, ``q8_0``) and return the artifact.

    Norms, biases, learned positions and rotary factors stay float32, as llama.cpp expects; in q8_0 a matrix
    whose rows aren't blocks of 32 is f16. The same checkpoint gives the same bytes. Rows are converted on all
    cores, a few MiB at a time, and written in order: memory doesn't grow with the model.

    Raises UnsupportedError for a precision, architecture or tokenizer that GGUF can't hold, or a value
    that the precision can't; CheckpointError for a damaged checkpoint; DiskFullError when there is no room.
    """
    if precision not in GGUF_PRECISIONS:
        raise UnsupportedError(f"gguf precision {precision!r} is not one of {', '.join(GGUF_PRECISIONS)}")
    final = out_dir / f"gguf-{precision}"
    with Weights(checkpoint) as weights, whole_folder(final) as folder:
        decoder = describe_checkpoint(checkpoint, weights)
        if decoder.gguf_refusal is not None:
            raise UnsupportedError(f"{checkpoint.path / 'config.json'}: not for GGUF: {decoder.gguf_refusal}")
        with ThreadPoolExecutor(1) as aside:
            parent = aside.submit(checkpoint.sha256)
            original = load_tokenizer(checkpoint)
            described = read_tokenizer(checkpoint, original, decoder.vocab_size)
            tokenizer = choose_pretokenizer(original, described, decoder.gguf_architecture, folder)
            source = Source(checkpoint, decoder, tokenizer, parent.result())
        digest = _write(folder / ENTRY, final, source, weights, precision, progress)
        notes, hashes = (*tokenizer.notes, *decoder.gguf_notes), {ENTRY: digest}
        Artifact.describe(folder, "gguf", precision, ENTRY, parent=source.sha256, notes=notes, hashes=hashes)
    return Artifact.open(final)


def _write(path: Path, final: Path, source: Source, weights: Weights, precision: str, progress: Progress) -> str:
    """Write the file and return its sha256."""
    writer: gguf.GGUFWriter = open_writer(path, source.decoder.gguf_architecture)
    try:
        rename = source.tokenizer.model_name
        add_metadata(writer, source.checkpoint, source.decoder, precision, source.sha256, rename)
        source.tokenizer.write(writer)
        tensors = gguf_tensors(source.decoder, weights, precision)
        for tensor in tensors:
            raw: Any = _tensor_type(tensor.encoding.number)
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        alignment = writer.data_alignment
        padded = sum(-(-tensor.nbytes // alignment) * alignment for tensor in tensors)
        size = -(-writer.fout[0].tell() // alignment) * alignment + padded
        announce_size(progress, final, path.parent, size)
        total = sum(tensor.nbytes for tensor in tensors)
        with (
            progress.task(f"gguf-{precision}", total, "bytes") as task,
            HashedFile(writer.fout[0], path, size) as file,
        ):
            write_tensors(tensors, file, alignment, task, source.checkpoint.path)
            return file.hexdigest()
    finally:
        writer.close()


def _tensor_type(number: int) -> object:
    import gguf

    return gguf.GGMLQuantizationType(number)
