"""GGUF f32 / f16 -> q8_0, q4_0, q4_k_m by llama.cpp's own quantiser, in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter, deque
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edgestill.artifact import Artifact
from edgestill.child import module_command
from edgestill.errors import DiskFullError, MissingDependencyError, ModelFileError, StageError, UnsupportedError
from edgestill.progress import SILENT, Progress
from edgestill.quantize.foreign import TENSOR_TYPES
from edgestill.runtime.gguf_header import GgufHeader, read_gguf_header
from edgestill.storage import whole_folder

ENTRY: Final = "model.gguf"
_FILE_TYPES: Final = {"q8_0": 7, "q4_0": 2, "q4_k_m": 15}
_PROMISED: Final = {"q8_0": ("Q8_0",), "q4_0": ("Q4_0",), "q4_k_m": ("Q4_K", "Q6_K")}
_BLOCK: Final = {"q8_0": 32, "q4_0": 32, "q4_k_m": 256}
_FLOATS: Final = frozenset({"F32", "F16", "BF16"})
_ROOM_LEFT: Final = 1 << 20
_STEP: Final = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


def quantize_gguf(source: Artifact, precision: str, out_dir: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write ``out_dir/gguf-<precision>/model.gguf`` and return the artifact.

    ``source`` is an f32, f16 or bf16 GGUF; f32 is best, as f16 has been rounded once. The artifact's notes
    name the tensors that llama.cpp stored in another type than the precision promises, and why.

    Raises UnsupportedError for an unknown precision or a quantised source, ModelFileError for a damaged
    source, StageError with llama.cpp's last line when it fails, DiskFullError when there is no room.
    """
    if precision not in _FILE_TYPES:
        raise UnsupportedError(f"gguf precision {precision!r} is not one of {', '.join(_FILE_TYPES)}")
    quantised = sorted({_type_name(kind) for kind in read_gguf_header(source.model_path).tensor_types} - _FLOATS)
    if quantised:
        raise UnsupportedError(
            f"{source.model_path}: already quantised (it has {', '.join(quantised)} tensors); "
            "give the f32 or f16 file it was made from"
        )
    if find_spec("llama_cpp") is None:
        raise MissingDependencyError("GGUF quantising needs llama-cpp-python: pip install 'edgestill[gguf]'")
    final = out_dir / f"gguf-{precision}"
    with whole_folder(final) as folder:
        target = folder / ENTRY
        _run(source.model_path, target, precision, progress)
        try:
            written = read_gguf_header(target)
        except ModelFileError as error:
            raise _failure(target, f"wrote a damaged file ({error})") from error
        notes = (*source.notes, *fallback_notes(precision, written))
        Artifact.describe(folder, "gguf", precision, ENTRY, parent=source.sha256, notes=notes)
    for note in notes[len(source.notes) :]:
        progress.note(f"gguf-{precision}: {note}")
    return Artifact.open(final)


def fallback_notes(precision: str, written: GgufHeader) -> tuple[str, ...]:
    """Return a line for each way in which a file differs from what its precision's name promises."""
    promised, block = _PROMISED[precision], _BLOCK[precision]
    notes = []
    matrices = [tensor for tensor in written.table if len(tensor.shape) > 1]
    others = [tensor for tensor in matrices if _type_name(tensor.type) not in promised]
    short = [tensor for tensor in others if tensor.shape[0] % block]
    if short:
        rows = ", ".join(str(row) for row in sorted({tensor.shape[0] for tensor in short}))
        counts = sorted(Counter(_type_name(tensor.type) for tensor in short).items())
        notes.append(
            f"{len(short)} of {len(matrices)} matrices in {', '.join(f'{kind} ({count})' for kind, count in counts)}, "
            f"not {' or '.join(promised)}: their rows ({rows} values) aren't a multiple of {block}"
        )
    for tensor in others:
        if tensor not in short:
            notes.append(f"{tensor.name} in {_type_name(tensor.type)}: llama.cpp keeps it so for {precision}")
    return tuple(notes)


def _type_name(kind: int) -> str:
    return TENSOR_TYPES.get(kind, f"type {kind}")


def _run(source: Path, target: Path, precision: str, progress: Progress) -> None:
    numbers = (str(_FILE_TYPES[precision]), str(_threads()))
    command = module_command("edgestill.quantize.llama_quantize", str(source), str(target), *numbers)
    last: deque[str] = deque(maxlen=20)
    with (
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child,
        progress.task(f"gguf-{precision}", None, "tensors") as task,
    ):
        assert child.stderr is not None  # for the type checker: PIPE was asked for
        try:
            for raw in child.stderr:
                line = raw.decode("utf-8", "replace").strip()
                if line:
                    last.append(line)
                if step := _STEP.match(line):
                    task.set_total(float(step[2]))
                    task.advance()
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        wrong = [line for line in last if "failed" in line or "error" in line.lower()] or list(last)
        ended = f"signal {-child.returncode}" if child.returncode < 0 else f"code {child.returncode}"
        raise _failure(target, f"stopped with {ended}: {wrong[-1] if wrong else 'no message'}")


def _failure(target: Path, what: str) -> StageError:
    """Say why llama.cpp failed; it reports a full disk as any other failed write."""
    if shutil.disk_usage(target.parent).free < _ROOM_LEFT:
        return DiskFullError(
            f"disk full while quantising into {target.parent.parent}; free some room and run the same command again"
        )
    return StageError(f"llama.cpp's quantiser {what}")


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
