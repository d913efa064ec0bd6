"""ONNX of an architecture that we don't describe: by onnxruntime-genai's model builder, in a process of its own.

It loads the whole checkpoint with torch and transformers; no code that lies in the checkpoint is run.
"""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edgestill.artifact import Checkpoint
from edgestill.child import module_command
from edgestill.errors import StageError, UnsupportedError
from edgestill.progress import Progress

_BUILDER: Final = "onnxruntime_genai.models.builder"
_PACKAGES: Final = ("onnxruntime_genai", "torch", "transformers")


def build_with_genai(
    checkpoint: Checkpoint, precision: str, folder: Path, refusal: str, progress: Progress
) -> tuple[str, ...]:
    """Write model.onnx, model.onnx.data and genai_config.json to ``folder``; return the note that says by whom.

    ``refusal`` is why we don't write it ourselves: it is raised as UnsupportedError where the builder isn't installed
    or doesn't know the architecture either. Raises StageError when the builder fails otherwise.
    """
    found = [find_spec(package) for package in _PACKAGES]
    if any(package is None for package in found):
        raise UnsupportedError(
            f"{refusal}; for more: pip install 'edgestill[distill,genai]' (onnxruntime-genai's model builder)"
        )
    version = metadata.version("onnxruntime-genai")
    if not _names(found[0], checkpoint):
        raise UnsupportedError(f"{refusal}; onnxruntime-genai {version} doesn't build it either")
    progress.note(f"not described here: onnxruntime-genai {version}'s model builder writes it, whole in memory")
    cache = folder / "builder-cache"
    base, _, group = precision.partition("_g")
    options = ["hf_remote=false", *([f"block_size={group}"] if group else [])]
    words = ("-m", str(checkpoint.path), "-o", str(folder), "-p", base, "-e", "cpu", "-c", str(cache))
    with progress.task(f"onnx-{precision} by onnxruntime-genai's builder"):
        done = subprocess.run(
            module_command(_BUILDER, *words, "--extra_options", *options),
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    last = lines[-1].strip() if lines else "no message"
    if done.returncode or not (folder / "model.onnx").is_file():
        raise StageError(f"{checkpoint.path}: onnxruntime-genai {version}'s model builder failed: {last}")
    if cache.is_dir():
        cache.rmdir()
    return (f"written by onnxruntime-genai {version}'s model builder, not by edgestill's own writer",)


def _names(package: ModuleSpec | None, checkpoint: Checkpoint) -> bool:
    """Whether the builder's source names the architecture: asking it costs seconds, and torch."""
    names = checkpoint.config().get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    folders = package.submodule_search_locations if package is not None else None
    if not isinstance(name, str) or not name.isidentifier() or not folders:
        return False
    source = Path(folders[0]) / "models" / "builder.py"
    return source.is_file() and f'"{name}"' in source.read_text(encoding="utf-8")
