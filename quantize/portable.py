"""onnx-portable-fp32 -> onnx-portable-int8: integer products, every operator still a standard one.

Measured on BERT and Llama classifiers of 77 labels (2 layers, width 128), mean KL to fp32 over 1,500 to 3,080 texts,
in 1e-4 nats:

- weights alone in 8 bits: 0.3. Computed in float: no faster, and onnxruntime unfolds them in memory.
- weights in 8 bits, each row of activations in 8: 0.6 to 0.7. x86 without VNNI would saturate in one pair of products
  in a thousand, which costs 3 to 7% of a sum (emulated); with weights in uint8 it doesn't, but 768 x 3072 takes 2.4
  times as long with VNNI.
- weights in 7 of 8 bits, each row of activations in 8: 1.3 to 1.7, the same everywhere, and a 768 x 3072 product of 14
  rows in 0.19 ms instead of 0.64 in float. Chosen.
- onnxruntime.quantization's dynamic int8, one scale for a whole batch: 1.1; with its reduce_range, for the same
  processors, 1.2 to 1.8. A text's logits change by 0.3 with what it shares a batch with.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from edgestill.artifact import DESCRIPTION_FILE, Artifact
from edgestill.errors import MissingDependencyError, ModelFileError, UnsupportedError
from edgestill.onnx_file import check_standard, save_onnx
from edgestill.progress import SILENT, Progress
from edgestill.storage import whole_folder

PRECISIONS: Final = ("int8",)
NOTE: Final = "weights in 8 bits, 7 of them used where they are multiplied (x86 without VNNI overflows with 8)"


def quantize_portable(source: Artifact, precision: str, out_dir: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write ``out_dir/onnx-portable-int8/`` from an onnx-portable-fp32 artifact and return the new artifact.

    The same source gives the same bytes, which pass the checks of an export. Raises UnsupportedError for
    another precision or source, ModelFileError for a damaged source.
    """
    if precision not in PRECISIONS:
        raise UnsupportedError(f"onnx-portable precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if (source.format, source.precision) != ("onnx-portable", "fp32"):
        raise UnsupportedError(
            f"{source.folder}: {source.name} can't be quantised; give an onnx-portable-fp32 artifact"
        )
    try:
        import onnx_ir as ir
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError("quantising ONNX needs onnx_ir: pip install 'edgestill[export]'") from error

    from edgestill.quantize.portable_graph import PortableQuantizer

    path = source.folder / source.entry
    final = out_dir / f"onnx-portable-{precision}"
    with whole_folder(final) as folder:
        try:
            model = ir.load(path)
        except (OSError, ValueError, DecodeError) as error:
            raise ModelFileError(f"{path}: not a readable ONNX file ({error})") from error
        with progress.task(f"quantizing onnx-portable-{precision}", unit="matrices") as task:
            PortableQuantizer(model, task).run()
            save_onnx(model, folder / source.entry)
        check_standard(folder / source.entry)
        for file in sorted(source.folder.iterdir()):
            if file.is_file() and file.name != DESCRIPTION_FILE and not file.name.startswith(source.entry):
                shutil.copyfile(file, folder / file.name)
        notes = (*source.notes, NOTE)
        Artifact.describe(folder, "onnx-portable", precision, source.entry, parent=source.sha256, notes=notes)
    return Artifact.open(final)
