"""onnx-fp32 -> onnx-int8 and onnx-int4: weights in blocks (MatMulNBits), the embedding among them.

What the field measures decides how: int8 has 8-bit weights with int8 activations, the one 8-bit kernel
of onnxruntime that is faster than fp32. int4 has 4-bit projections and an 8-bit embedding and head, and int8
activations too. :mod:`edgestill.accuracy_level` rejects int8 activations where they flip greedy tokens.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from edgestill.artifact import DESCRIPTION_FILE, Artifact
from edgestill.errors import ModelFileError, UnsupportedError
from edgestill.progress import SILENT, Progress
from edgestill.storage import whole_folder
from edgestill.tensor_file import TensorFile
from edgestill.weight_blocks import GRIDS

if TYPE_CHECKING:
    import onnx_ir as ir


def quantize_onnx(source: Artifact, precision: str, out_dir: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write ``out_dir/onnx-<precision>/`` from an onnx-fp32 artifact and return the new artifact.

    ``precision`` is one of ``GRIDS``. Tensors stream one at a time; the same source gives the same
    weights. Raises UnsupportedError for another precision or source, ModelFileError for a damaged source.
    """
    if precision not in GRIDS:
        raise UnsupportedError(f"onnx precision {precision!r} is not one of {', '.join(GRIDS)}")
    if (source.format, source.precision) != ("onnx", "fp32"):
        raise UnsupportedError(f"{source.folder}: {source.name} can't be quantised; give an onnx-fp32 artifact")
    import onnx_ir as ir

    from edgestill.quantize.onnx_graph import BlockQuantizer

    final = out_dir / f"onnx-{precision}"
    with whole_folder(final) as folder:
        model = _load(source)
        with (
            progress.task(f"quantizing onnx-{precision}", unit="matrices") as task,
            TensorFile(folder / f"{source.entry}.data") as file,
        ):
            quantizer = BlockQuantizer(model, GRIDS[precision], file, task)
            quantizer.run()
        for path in sorted(source.folder.iterdir()):
            if path.is_file() and path.name != DESCRIPTION_FILE and not path.name.startswith(source.entry):
                shutil.copyfile(path, folder / path.name)
        ir.save(model, folder / source.entry)
        notes = [*source.notes, *quantizer.notes]
        Artifact.describe(folder, "onnx", precision, source.entry, parent=source.sha256, notes=tuple(notes))
    return Artifact.open(final)


def _load(source: Artifact) -> ir.Model:
    import onnx_ir as ir
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    path = source.folder / source.entry
    try:
        return ir.load(path)
    except (OSError, ValueError, DecodeError) as error:
        raise ModelFileError(f"{path}: not a readable ONNX file ({error})") from error
