"""Checkpoint -> ONNX: a folder that onnxruntime, onnxruntime-genai and our own runtime open."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from edgestill.artifact import CONFIG_FILES, Artifact, Checkpoint
from edgestill.errors import UnsupportedError
from edgestill.export.announce import announce_size
from edgestill.export.architectures import describe_checkpoint, undescribed
from edgestill.export.genai_builder import build_with_genai
from edgestill.export.genai_config import GENAI_CONFIG_FILE, genai_config
from edgestill.export.source_tokenizer import load_tokenizer
from edgestill.export.weights import Weights
from edgestill.progress import SILENT, Progress
from edgestill.storage import whole_folder, write_json
from edgestill.tensor_file import PlannedFile, TensorFile
from edgestill.weight_blocks import GRIDS, Grid

ENTRY: Final = "model.onnx"
DATA_FILE: Final = "model.onnx.data"
ONNX_PRECISIONS: Final[Mapping[str, Grid | None]] = MappingProxyType({"fp32": None, "fp16": None, **GRIDS})
"""The grid of the projections; None: they aren't quantised."""


def export_onnx(checkpoint: Checkpoint, precision: str, out_dir: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write ``out_dir/onnx-<precision>/`` for a precision of ``ONNX_PRECISIONS`` and return its artifact.

    fp16 is float16 throughout, KV cache and logits too: for GPUs and browsers. int8 and int4 are blocks of weights
    (MatMulNBits, GatherBlockQuantized) with int8 activations, quantised from the checkpoint without a float32 file
    in between; int4_g128 has a scale for 128 weights, where int4 has one for 32.

    The folder holds the graph (``model.onnx``), its weights (``model.onnx.data``), ``genai_config.json``
    and the checkpoint's configuration, tokenizer and chat template. Weights stream from the memory-mapped
    checkpoint into the data file; the same checkpoint gives the same bytes. An architecture that isn't described is
    written by onnxruntime-genai's model builder where that is installed; the notes say so. Raises UnsupportedError
    for another precision or an architecture that neither has, CheckpointError for a damaged checkpoint.
    """
    if precision not in ONNX_PRECISIONS:
        raise UnsupportedError(f"onnx precision {precision!r} is not one of {', '.join(ONNX_PRECISIONS)}")
    final = out_dir / f"onnx-{precision}"
    refusal = undescribed(checkpoint)
    with Weights(checkpoint) as weights, whole_folder(final) as folder:
        if refusal is not None:
            notes = build_with_genai(checkpoint, precision, folder, refusal, progress)
        else:
            notes = _write(checkpoint, weights, precision, folder, final, progress)
        copy_companions(checkpoint, folder)
        Artifact.describe(folder, "onnx", precision, ENTRY, parent=checkpoint.sha256(), notes=notes)
    return Artifact.open(final)


def _write(
    checkpoint: Checkpoint,
    weights: Weights,
    precision: str,
    folder: Path,
    final: Path,
    progress: Progress,
) -> tuple[str, ...]:
    """Write graph, weights and genai_config.json; return the notes for a person."""
    import onnx_ir as ir

    from edgestill.export.onnx_graph import DecoderGraph
    from edgestill.export.onnx_projections import padded_head_dim

    decoder = describe_checkpoint(checkpoint, weights)
    if (checkpoint.path / "tokenizer.json").is_file():
        load_tokenizer(checkpoint).check_rows(decoder.vocab_size)
    grid = ONNX_PRECISIONS[precision]
    floats = ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.FLOAT
    with SILENT.task("planning") as silent:
        planned = PlannedFile(folder / DATA_FILE)
        graph = ir.to_proto(DecoderGraph(decoder, weights, planned, silent, grid, floats).build())
    announce_size(progress, final, folder, planned.size + graph.ByteSize())
    with (
        progress.task(f"exporting onnx-{precision}", len(decoder.layers), "layers") as task,
        TensorFile(folder / DATA_FILE) as file,
    ):
        model = DecoderGraph(decoder, weights, file, task, grid, floats).build()
        ir.save(model, folder / ENTRY)
    head_size = padded_head_dim(decoder)
    write_json(folder / GENAI_CONFIG_FILE, genai_config(checkpoint, decoder, ENTRY, head_size))
    notes = []
    if head_size != decoder.head_dim:
        notes.append(f"attention heads of {decoder.head_dim} padded with zeros to {head_size}: onnxruntime needs it")
    if (original := decoder.longrope_original) is not None:
        notes.append(
            f"LongRoPE: a sequence that grows past {original} tokens keeps its first keys with the short factors, "
            "transformers computes them again; a prompt that is longer has the long factors throughout"
        )
    return tuple(notes)


def copy_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy configuration, tokenizer and chat template into an artifact's folder."""
    configs = [checkpoint.path / name for name in CONFIG_FILES if (checkpoint.path / name).is_file()]
    for file in configs:
        shutil.copyfile(file, folder / file.name)
    checkpoint.copy_tokenizer(folder)
