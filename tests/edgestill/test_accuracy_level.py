"""int8 activations are kept where they are harmless and rejected where they flip what is decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file

from edgestill.accuracy_level import count_flips, settle_accuracy_level
from edgestill.artifact import Artifact, Checkpoint
from edgestill.export.onnx import export_onnx
from edgestill.export.parity import Reference, reference_logits
from edgestill.progress import SILENT
from edgestill.runtime.engines import open_engine
from edgestill.runtime.model_source import locate_model

TEXTS = [list(range(20, 90)), list(range(100, 180))]
Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]


def changed(source: Path, folder: Path, change: Callable[[Tensors], None]) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def levels(artifact: Artifact) -> dict[str, int]:
    graph = ir.load(artifact.folder / artifact.entry).graph
    nodes = [node for node in graph if node.op_type == "MatMulNBits"]
    return {str(node.name): node.attributes["accuracy_level"].as_int() for node in nodes}


@pytest.fixture
def reference(tiny_checkpoint: Path) -> Reference:
    return reference_logits(Checkpoint.open(tiny_checkpoint), TEXTS)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_int8_activations_stay_where_they_decide_nothing(
    precision: str, tiny_checkpoint: Path, tmp_path: Path, reference: Reference
) -> None:
    written = export_onnx(Checkpoint.open(tiny_checkpoint), precision, tmp_path)
    settled = settle_accuracy_level(written, reference, SILENT)
    assert set(levels(settled).values()) == {4}
    assert settled.sha256 == written.sha256
    assert "int8 activations: " in settled.notes[-1]
    assert "of 150 greedy tokens" in settled.notes[-1]
    assert {path.name for path in written.folder.iterdir()} == {path.name for path in settled.folder.iterdir()}


def outlier_before(head: str, channels: slice) -> Callable[[Tensors], None]:
    """Make a norm's first channel huge, and the weights that read it zero: nothing changes but the rounding."""

    def change(tensors: Tensors) -> None:
        tensors[head][channels.start] *= 3e4
        for name, tensor in tensors.items():
            if name == "model.embed_tokens.weight":
                tensor[:, channels.start] = 0

    return change


def test_int8_activations_that_flip_decided_tokens_are_rejected(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = changed(tiny_checkpoint, tmp_path / "outlier", outlier_before("model.norm.weight", slice(0, 1)))
    checkpoint = Checkpoint.open(folder)
    with reference_logits(checkpoint, TEXTS) as reference:
        written = export_onnx(checkpoint, "int8", tmp_path)
        before = open_engine(locate_model(written.folder)).logits(TEXTS[0])
        settled = settle_accuracy_level(written, reference, SILENT)
        after = open_engine(locate_model(settled.folder)).logits(TEXTS[0])
        expected = reference.logits(0).argmax(axis=-1)
    assert set(levels(settled).values()) == {1}
    assert (after.argmax(axis=-1) == expected).mean() > 0.9 > (before.argmax(axis=-1) == expected).mean()
    assert settled.notes[-1].startswith("float activations (accuracy_level 1)")
    assert "int8 activations rejected" in settled.notes[-1]
    described = json.loads((settled.folder / "artifact.json").read_text())
    assert described["sha256"] == settled.sha256 != written.sha256
    assert described["parent"] == checkpoint.sha256()


def test_float_activations_in_one_role_are_tried_before_all(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        # One neuron of the MLP is huge and read by nothing; the others in its block are what is lost.
        for layer in (0, 1):
            tensors[f"model.layers.{layer}.mlp.up_proj.weight"][::32] *= 1e4
            tensors[f"model.layers.{layer}.mlp.down_proj.weight"] *= 4
            tensors[f"model.layers.{layer}.mlp.down_proj.weight"][:, ::32] = 0

    checkpoint = Checkpoint.open(changed(tiny_checkpoint, tmp_path / "neuron", change))
    with reference_logits(checkpoint, TEXTS) as reference:
        settled = settle_accuracy_level(export_onnx(checkpoint, "int8", tmp_path), reference, SILENT)
    found = levels(settled)
    assert {level for name, level in found.items() if ".down." in name} == {1}
    assert {level for name, level in found.items() if ".down." not in name} == {4}


def test_other_files_are_left_alone(tiny_checkpoint: Path, tmp_path: Path, reference: Reference) -> None:
    artifact = export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path)
    assert settle_accuracy_level(artifact, reference, SILENT) is artifact


def test_a_flip_counts_as_decided_only_above_the_rounding_of_the_weights() -> None:
    reference = np.array([[3.0, 1.0, 0.0], [1.0, 0.9, 0.0], [0.0, 5.0, 1.0]], np.float32)
    exact = np.array([[3.1, 1.1, 0.0], [1.0, 0.8, 0.0], [5.0, 0.0, 1.0]], np.float32)
    found = np.array([[1.0, 3.0, 0.0], [0.8, 0.9, 0.0], [0.0, 5.0, 1.0]], np.float32)
    # Row 0: a lead of 2.0 against a change of 0.1; row 1: 0.2 against 0.1; row 2: the weights alone lost it already.
    assert count_flips(reference, exact, found) == (3, 2)
    assert count_flips(reference, exact, exact) == (0, 0)
