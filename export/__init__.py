"""Checkpoint -> ONNX and GGUF, and the parity check.

``export_checkpoint`` is the one way in; formats register themselves in ``FORMATS``.
"""

from __future__ import annotations

from pathlib import Path

from edgestill.artifact import Artifact, Checkpoint, Format
from edgestill.errors import UnsupportedError
from edgestill.progress import SILENT, Progress

PRECISIONS: dict[Format, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "int8", "int4", "int4_g128"),
    "gguf": ("f32", "f16", "bf16", "q8_0"),
    "onnx-portable": ("fp32", "fp16"),
}


def export_checkpoint(
    checkpoint: Checkpoint, format: Format, precision: str, out_dir: Path, *, progress: Progress = SILENT
) -> Artifact:
    """Write ``out_dir/<format>-<precision>/`` from a checkpoint and return the artifact.

    Streams tensor by tensor, without torch; ``onnx-portable`` is traced by torch. Raises UnsupportedError for an
    unknown precision or architecture, CheckpointError for a damaged checkpoint, DiskFullError when there is no room.
    """
    if precision not in PRECISIONS[format]:
        raise UnsupportedError(f"{format} precision {precision!r} is not one of {', '.join(PRECISIONS[format])}")
    if format == "gguf":
        from edgestill.export.gguf import export_gguf

        return export_gguf(checkpoint, precision, out_dir, progress=progress)
    if format == "onnx-portable":
        from edgestill.export.portable import export_portable

        return export_portable(checkpoint, precision, out_dir, progress=progress)
    from edgestill.export.onnx import export_onnx

    return export_onnx(checkpoint, precision, out_dir, progress=progress)
