"""A MODEL argument's own files: their hash is of what is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgestill.errors import CheckpointError
from edgestill.runtime.model_source import ModelSource, locate_model


def test_one_file_s_hash_is_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    assert locate_model(tmp_path / "model.gguf").sha256() == hashlib.sha256(b"weights").hexdigest()


def test_several_files_hash_differs_when_one_of_them_does(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.safetensors").write_bytes(b"a")
    (tmp_path / "b.safetensors").write_bytes(b"b")
    before = locate_model(tmp_path).sha256()
    (tmp_path / "b.safetensors").write_bytes(b"c")
    assert locate_model(tmp_path).sha256() != before


def test_a_folder_without_weights_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        ModelSource("m", "transformers", tmp_path).sha256()
