"""Damaged checkpoints that fuzzing found: each was a crash, a hang or an abort of the process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError
from edgestill.export import export_checkpoint


def same_id_twice(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"]["twice"] = 30


def id_without_end(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"]["far"] = 1 << 31


def id_past_the_embedding(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"]["far"] = 5000


def layers_without_end(config: dict[str, Any]) -> None:
    config["num_hidden_layers"] = 1 << 20


def theta_past_float32(config: dict[str, Any]) -> None:
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e40}


@pytest.mark.parametrize("format", ["gguf", "onnx"])
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tokenizer.json", id_without_end),
        ("tokenizer.json", id_past_the_embedding),
        ("config.json", layers_without_end),
        ("config.json", theta_past_float32),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(
    name: str, damage: Callable[[dict[str, Any]], None], format: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    _refused(name, damage, format, tiny_checkpoint, tmp_path)


def test_two_texts_for_one_token_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    _refused("tokenizer.json", same_id_twice, "gguf", tiny_checkpoint, tmp_path)


def _refused(
    name: str, damage: Callable[[dict[str, Any]], None], format: Any, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    values = json.loads((folder / name).read_text())
    damage(values)
    (folder / name).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=str(folder / name)):
        export_checkpoint(Checkpoint.open(folder), format, {"gguf": "f16", "onnx": "fp32"}[format], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))
