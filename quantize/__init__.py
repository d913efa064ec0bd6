"""Artifact -> int8 / int4 artifact.

``quantize_artifact`` is the one way in; :func:`artifact_from_path` makes an artifact of a file from outside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgestill.artifact import Artifact, Format
from edgestill.errors import UnsupportedError
from edgestill.progress import SILENT, Progress

PRECISIONS: Final[dict[Format, tuple[str, ...]]] = {
    "onnx": ("int8", "int4", "int4_g128"),
    "gguf": ("q8_0", "q4_0", "q4_k_m"),
    "onnx-portable": ("int8",),
}
_UNQUANTISED: Final = ("fp32", "fp16", "f32", "f16", "bf16")


def quantize_artifact(source: Artifact, precision: str, out_dir: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write ``out_dir/<format>-<precision>/`` from an unquantised artifact of the same format and return it.

    Raises UnsupportedError for an unknown precision or a source that is quantised already (quantising
    twice loses more than it must), StageError when the quantiser fails, DiskFullError when there is no room.
    """
    if precision not in PRECISIONS[source.format]:
        known = ", ".join(PRECISIONS[source.format])
        raise UnsupportedError(f"{source.format} precision {precision!r} is not one of {known}")
    if source.precision not in _UNQUANTISED:
        raise UnsupportedError(
            f"{source.model_path}: already quantised ({source.precision}); give the file it was made from"
        )
    if source.format == "gguf":
        from edgestill.quantize.gguf import quantize_gguf

        return quantize_gguf(source, precision, out_dir, progress=progress)
    if source.format == "onnx-portable":
        from edgestill.quantize.portable import quantize_portable

        return quantize_portable(source, precision, out_dir, progress=progress)
    from edgestill.quantize.onnx import quantize_onnx

    return quantize_onnx(source, precision, out_dir, progress=progress)


def artifact_from_path(path: Path) -> Artifact:
    """Return the artifact at ``path``: an artifact's folder or file, a .gguf file, or an ONNX folder.

    Nothing is written. Raises ModelFileError for what is missing, foreign, truncated or damaged.
    """
    from edgestill.quantize.foreign import open_artifact

    return open_artifact(path)
