"""The teacher: one that exists, or a new one trained on gold answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example
from edgestill.distill.settings import Precision, TrainSettings
from edgestill.errors import CheckpointError, DataError, MissingDependencyError
from edgestill.progress import SILENT, Progress
from edgestill.recipe import TrainedTeacher
from edgestill.storage import remove, sha256_json, whole_folder, write_json

_KEY_FILE: Final = "stage.json"
_MODEL_FILES: Final = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.model",
    "merges.txt",
    "LICEN[CS]E*",
    "NOTICE*",
    "COPYING*",
)


def load_teacher(model: Path | str) -> Checkpoint:
    """Return the checkpoint of a Hugging Face folder, or of a hub name (downloaded, or from the hub's cache).

    Raises CheckpointError when it is neither, or can't be reached.
    """
    if Path(model).is_dir():
        return Checkpoint.open(model)
    name = str(model)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{name}: no such folder; give a Hugging Face model folder or a hub name (owner/model)")
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingDependencyError("hub names need huggingface_hub; pip install 'edgestill[distill]'") from error
    try:
        folder = huggingface_hub.snapshot_download(name, allow_patterns=list(_MODEL_FILES))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{name}: not cached and can't be fetched ({reason}); give a folder") from error
    return Checkpoint.open(folder)


def train_teacher(
    section: TrainedTeacher,
    examples: Sequence[Example],
    out_dir: Path,
    *,
    max_length: int,
    seed: int,
    precision: Precision = "fp32",
    save_every_seconds: float = 10.0,
    progress: Progress = SILENT,
) -> Checkpoint:
    """Train a new Llama on gold answers: its tokenizer first, then its weights (sft).

    Resumable like :func:`edgestill.distill.training.train`; the untrained model lies in a hidden sibling
    until ``out_dir`` is whole. ``max_length`` (tokens) is cut to the architecture's context.
    """
    from edgestill.distill.encode import ChatTokenizer, encode_examples
    from edgestill.distill.grow import grow_depth
    from edgestill.distill.training import library_versions, train

    max_length = min(max_length, section.architecture.context)
    start, shallow, grown = (out_dir.with_name(f".{out_dir.name}.{part}") for part in ("start", "shallow", "grown"))
    rows = [example.to_row() for example in examples]
    whole = sha256_json([section.model_dump(mode="json"), rows, max_length, seed, precision, library_versions()])
    if _is_stage(out_dir, whole):  # killed before its caller noted that it was done
        for left in (start, shallow, grown):
            remove(left)
        return Checkpoint.open(out_dir)
    beginning = new_model(section, examples, start, seed=seed)
    try:
        data = encode_examples(examples, ChatTokenizer.open(beginning), max_length=max_length, progress=progress)
    except DataError:
        remove(start)
        raise
    if data.too_long:
        progress.note(f"{data.too_long} rows longer than {max_length} tokens are left out of the teacher's training")
    settings = TrainSettings(
        learning_rate=section.learning_rate,
        batch_size=section.batch_size,
        epochs=section.epochs,
        warmup_fraction=section.warmup_fraction,
        precision=precision,
        save_every_seconds=save_every_seconds,
    )
    if section.grow_from is None:
        train(beginning, data, settings, out_dir, seed=seed, label="train teacher", progress=progress)
    else:
        label = f"train teacher ({section.grow_from} layers)"
        first = train(beginning, data, settings, shallow, seed=seed, label=label, progress=progress)
        grow_depth(first, section.architecture.layers, grown)
        further = replace(settings, epochs=section.grown_epochs, learning_rate=section.learning_rate / 3)
        label = f"train teacher ({section.architecture.layers} layers)"
        train(Checkpoint.open(grown), data, further, out_dir, seed=seed + 1, label=label, progress=progress)
    write_json(out_dir / _KEY_FILE, whole)
    for left in (start, shallow, grown):
        remove(left)
    return Checkpoint.open(out_dir)


def _is_stage(folder: Path, key: str) -> bool:
    """Tell whether ``folder`` is what the same training left."""
    try:
        return bool(json.loads((folder / _KEY_FILE).read_text(encoding="utf-8")) == key)
    except (OSError, ValueError):
        return False


def new_model(section: TrainedTeacher, examples: Sequence[Example], out_dir: Path, *, seed: int) -> Checkpoint:
    """Write an untrained model with a tokenizer trained on the examples' contents."""
    from edgestill.distill.new_model import initialize
    from edgestill.distill.tokenizer import train_tokenizer

    texts = (text for example in examples for text in (example.text, *(m.content for m in example.messages)) if text)
    tokenizer = out_dir.with_name(f".{out_dir.name.lstrip('.')}.tokenizer")
    with whole_folder(tokenizer) as folder:
        train_tokenizer(
            texts, section.vocab_size, folder, max_length=section.architecture.context, tokens=section.tokens
        )
        (folder / "config.json").write_text("{}\n", encoding="utf-8")
    try:
        beginning = section.architecture.model_copy(update={"layers": section.grow_from or section.architecture.layers})
        return initialize(beginning, Checkpoint(tokenizer), out_dir, seed=seed)
    finally:
        remove(tokenizer)
