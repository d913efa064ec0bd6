"""Checkpoint -> onnx-portable: standard operators only, for runtimes without onnxruntime's contrib operators.

Any causal language model that keeps keys and values, and any sequence classifier, traced by torch: the weights
pass through torch's memory, unlike those of the other formats.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from edgestill.artifact import Artifact, Checkpoint
from edgestill.errors import MissingDependencyError, UnsupportedError
from edgestill.export.onnx import ENTRY, copy_companions
from edgestill.onnx_file import check_standard, save_onnx
from edgestill.progress import SILENT, Progress
from edgestill.storage import whole_folder

PORTABLE_PRECISIONS: Final = MappingProxyType({"fp32": "float32", "fp16": "float16"})
_PACKAGES: Final = ("torch", "transformers", "optimum", "onnx", "onnx_ir", "onnxscript")

_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts")

Task = Literal["text-generation", "text-classification"]
_AUTO_CLASSES: Final[dict[Task, str]] = {
    "text-generation": "AutoModelForCausalLM",
    "text-classification": "AutoModelForSequenceClassification",
}


def export_portable(checkpoint: Checkpoint, precision: str, out_dir: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write ``out_dir/onnx-portable-<precision>/`` (``fp32``, ``fp16``) and return its artifact.

    The graph passes onnx.checker and strict shape inference, has no operator of another domain, and dynamic
    batch and sequence axes. The same checkpoint gives the same bytes. Raises UnsupportedError for another
    precision or kind of model, CheckpointError for a damaged checkpoint, StageError when torch can't trace it
    or the file fails its checks, MissingDependencyError without the packages of ``edgestill[portable]``.
    """
    if precision not in PORTABLE_PRECISIONS:
        raise UnsupportedError(f"onnx-portable precision {precision!r} is not one of {', '.join(PORTABLE_PRECISIONS)}")
    _require_packages()
    from edgestill.export.portable_graph import tidy
    from edgestill.export.portable_trace import WRAPPER_PREFIX, trace_classifier, trace_decoder
    from edgestill.runtime.torch_model import load_torch_model

    task = _task_of(checkpoint)
    final = out_dir / f"onnx-portable-{precision}"
    with whole_folder(final) as folder, progress.task(f"exporting onnx-portable-{precision}", 4, "steps") as steps:
        # Attention written out: torch's fused one comes out with more operators.
        model = load_torch_model(
            checkpoint.path,
            _AUTO_CLASSES[task],
            name=str(checkpoint.path),
            dtype=PORTABLE_PRECISIONS[precision],
            attention="eager",
        )
        _refuse_experts(checkpoint, model)
        steps.advance()
        if task == "text-classification":
            _check_padding(checkpoint, model)
            graph = trace_classifier(model)
        else:
            graph = trace_decoder(model)
        steps.advance()
        tidy(graph, WRAPPER_PREFIX)
        save_onnx(graph, folder / ENTRY)
        steps.advance()
        check_standard(folder / ENTRY)
        copy_companions(checkpoint, folder)
        Artifact.describe(folder, "onnx-portable", precision, ENTRY, parent=checkpoint.sha256())
        steps.advance()
    return Artifact.open(final)


def _require_packages() -> None:
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingDependencyError(
                f"onnx-portable needs {package}, which can't be imported ({error}); pip install 'edgestill[portable]'"
            ) from error


def _task_of(checkpoint: Checkpoint) -> Task:
    """Return optimum's name of what the checkpoint's architecture is for."""
    import transformers
    from optimum.exporters.tasks import TasksManager

    where = checkpoint.path / "config.json"
    config = checkpoint.config()
    if config.get("quantization_config") is not None:
        raise UnsupportedError(f"{where}: the weights are already quantised; give the unquantised checkpoint")
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    kind = getattr(transformers, name, None) if isinstance(name, str) and name[:1].isupper() else None
    try:
        found = None if not isinstance(kind, type) else TasksManager.infer_task_from_model(kind)
    except ValueError:
        found = None
    task = next((known for known in _AUTO_CLASSES if known == found), None)
    if task is None:
        raise UnsupportedError(
            f"{where}: architecture {name!r} is neither a causal language model nor a sequence classifier of "
            "transformers; onnx-portable takes those"
        )
    return task


def _refuse_experts(checkpoint: Checkpoint, model: Any) -> None:
    """Which expert a token goes to is known when it runs: there is no graph of it that doesn't run them all."""
    text = model.config.get_text_config()
    for key in _EXPERTS:
        if getattr(text, key, None):
            raise UnsupportedError(
                f"{checkpoint.path / 'config.json'}: {key} {getattr(text, key)}: a mixture of experts; "
                "onnx-portable takes dense models"
            )


def _check_padding(checkpoint: Checkpoint, model: Any) -> None:
    """A decoder classifies by the last token that isn't padding: it must know which that is."""
    text = model.config.get_text_config()
    if getattr(model, "score", None) is not None and text.pad_token_id is None:
        raise UnsupportedError(
            f"{checkpoint.path / 'config.json'}: no pad_token_id in it, by which a batch is padded; set it to the id "
            "of the tokenizer's padding token"
        )
