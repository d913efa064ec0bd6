"""onnx-fp32 -> onnx-int8 and onnx-int4: weights in blocks (MatMulNBits), the embedding among them.

What the field measures decides how: int8 has 8-bit weights with int8 activations, the one 8-bit kernel
of onnxruntime that is faster than fp32. int4 has 4-bit projections and an 8-bit embedding and head; its
activations are int8 too, unless that is measurably farther from the fp32 model than float activations.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import DESCRIPTION_FILE, Artifact
from edgestill.errors import ModelFileError, UnsupportedError
from edgestill.progress import SILENT, Progress
from edgestill.runtime.divergence import kl_divergence
from edgestill.storage import whole_folder
from edgestill.tensor_file import TensorFile

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgestill.runtime.engine import Engine

PRECISIONS: Final = {"int8": 8, "int4": 4}

_PROBE_TEXTS: Final = 4
_PROBE_TOKENS: Final = 32
_KL_RATIO: Final = 1.05
_KL_SLACK: Final = 1e-4


def quantize_onnx(source: Artifact, precision: str, out_dir: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write ``out_dir/onnx-<precision>/`` from an onnx-fp32 artifact and return the new artifact.

    ``precision`` is ``int8`` or ``int4``. Tensors stream one at a time; the same source gives the same
    weights. Raises UnsupportedError for another precision or source, ModelFileError for a damaged source.
    """
    if precision not in PRECISIONS:
        raise UnsupportedError(f"onnx precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if (source.format, source.precision) != ("onnx", "fp32"):
        raise UnsupportedError(f"{source.folder}: {source.name} can't be quantised; give an onnx-fp32 artifact")
    import onnx_ir as ir

    from edgestill.quantize.onnx_graph import BlockQuantizer

    bits = PRECISIONS[precision]
    final = out_dir / f"onnx-{precision}"
    with whole_folder(final) as folder:
        model = _load(source)
        with (
            progress.task(f"quantizing onnx-{precision}", unit="matrices") as task,
            TensorFile(folder / f"{source.entry}.data") as file,
        ):
            quantizer = BlockQuantizer(model, bits, file, task)
            quantizer.run()
        for path in sorted(source.folder.iterdir()):
            if path.is_file() and path.name != DESCRIPTION_FILE and not path.name.startswith(source.entry):
                shutil.copyfile(path, folder / path.name)
        ir.save(model, folder / source.entry)
        notes = [*source.notes, *quantizer.notes]
        if bits == 4:
            notes.append(_choose_activations(source, model, folder, bits, progress))
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


def _choose_activations(source: Artifact, model: ir.Model, folder: Path, bits: int, progress: Progress) -> str:
    """Keep int8 activations unless float ones are nearer to the source; return the note that says so.

    Both are compared with the fp32 model on text that it writes itself (sampled, fixed seed): mean
    KL(fp32 || file) may be at most 5% larger with int8 activations.
    """
    import onnx_ir as ir

    from edgestill.quantize.onnx_graph import FLOAT_ACTIVATIONS, INT8_ACTIVATIONS, set_accuracy_level

    texts, reference = _sample(source.folder / source.entry)
    entry = folder / source.entry
    divergence = {}
    for level in (FLOAT_ACTIVATIONS, INT8_ACTIVATIONS):
        set_accuracy_level(model, bits, level)
        ir.save(model, entry)
        divergence[level] = _mean_kl(reference, entry, texts)
    with_float, with_int8 = divergence[FLOAT_ACTIVATIONS], divergence[INT8_ACTIVATIONS]
    measured = f"mean KL to fp32 {with_int8:.4f} with int8 activations, {with_float:.4f} with float"
    if with_int8 <= _KL_RATIO * with_float + _KL_SLACK:
        return f"int8 activations (accuracy_level {INT8_ACTIVATIONS}): {measured}"
    set_accuracy_level(model, bits, FLOAT_ACTIVATIONS)
    ir.save(model, entry)
    note = f"float activations (accuracy_level {FLOAT_ACTIVATIONS}), slower: {measured}"
    progress.note(f"onnx-int{bits}: {note}")
    return note


def _sample(path: Path) -> tuple[list[list[int]], list[NDArray[np.float32]]]:
    """Let a model write a few texts at temperature 1; return their ids and the logits after each id."""
    random = np.random.default_rng(0)
    engine = _open(path)
    texts, logits = [], []
    try:
        length = min(_PROBE_TOKENS, engine.context_length)
        for first in np.linspace(0, engine.vocab_size - 1, _PROBE_TEXTS).astype(int):
            engine.rewind(0)
            ids, rows = [int(first)], []
            while True:
                rows.append(engine.append(ids[-1:]).copy())
                if len(ids) == length:
                    break
                # Adding Gumbel noise and taking the largest is sampling from the softmax.
                ids.append(int(np.argmax(rows[-1] + random.gumbel(size=engine.vocab_size))))
            texts.append(ids)
            logits.append(np.stack(rows))
    finally:
        engine.close()
    return texts, logits


def _mean_kl(reference: Sequence[NDArray[np.float32]], path: Path, texts: Sequence[Sequence[int]]) -> float:
    engine = _open(path)
    try:
        total = 0.0
        for ids, expected in zip(texts, reference, strict=True):
            total += float(kl_divergence(expected, engine.logits(ids)).sum())
        return total / sum(len(ids) for ids in texts)
    finally:
        engine.close()


def _open(path: Path) -> Engine:
    """Open one ONNX file on one thread, so that the sums, and the choice made on them, repeat."""
    from edgestill.runtime.engines import open_engine
    from edgestill.runtime.model_source import ModelSource

    return open_engine(ModelSource(str(path), "onnx", path), engine="onnxruntime", threads=1)
