"""A Hugging Face folder loaded into torch: whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError
from edgestill.runtime.engines import require


def load_torch_model(
    folder: Path, auto_class: str, *, name: str, dtype: str = "float32", attention: str | None = None
) -> Any:
    """Load a model by one of transformers' Auto classes (its name), on the CPU, ready for inference.

    ``dtype`` is torch's name of the weights' type; ``attention`` an implementation (None: transformers' own
    choice); ``name`` is what errors call the model. Raises CheckpointError when a file is damaged or a weight
    is missing (transformers alone would invent it), MissingDependencyError without torch or transformers.
    """
    Checkpoint.open(folder)  # a truncated file is named before the heavy imports
    torch = require("torch", engine="torch", extra="distill")
    transformers = require("transformers", engine="torch", extra="distill")
    import safetensors

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, report = getattr(transformers, auto_class).from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{name}: torch can't load it ({reason[0]})") from error
    if lacking := sorted(report["missing_keys"]):
        raise CheckpointError(f"{name}: {len(lacking)} weights are missing, {lacking[0]} first; save the model again")
    return model.eval()
