"""Steps of one token with a mask that ends in zeros, beside those with a mask of the sequence's length."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgestill.artifact import Checkpoint
from edgestill.export.onnx import export_onnx
from edgestill.export.onnx_graph import PADDED_MASK_KEY
from edgestill.runtime.engines import open_engine
from edgestill.runtime.model_source import locate_model


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        ("tiny_checkpoint", True),
        ("tiny_mistral", True),
        ("tiny_smollm3", True),
        ("tiny_gemma2", True),
        ("tiny_gemma3", True),
        ("tiny_phi3", False),
        ("tiny_gpt2", False),
    ],
)
def test_a_mask_that_ends_in_zeros_changes_no_bit_where_the_file_declares_it(
    kind: str, declared: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgestill.runtime.engines.onnxruntime._MASK_STEP", 16)
    artifact = export_onnx(Checkpoint.open(request.getfixturevalue(kind)), "fp32", tmp_path / "ours")
    growing = shutil.copytree(artifact.model_path, tmp_path / "growing")
    model = ir.load(growing / "model.onnx")
    assert (model.metadata_props.pop(PADDED_MASK_KEY, None) == "true") is declared
    ir.save(model, growing / "model.onnx")
    padded = open_engine(locate_model(artifact.model_path), threads=1)
    plain = open_engine(locate_model(growing), threads=1)
    ids = [int(number) for number in np.random.default_rng(1).integers(0, padded.vocab_size, 60)]
    steps = [[number] for number in ids[:20]] + [ids[20:27]] + [[number] for number in ids[27:]]
    for back in (60, 30, 20, 33, 16, 0):  # after the first time: from within a step's mask, and from its edges
        for piece in steps:
            assert padded.position == plain.position
            assert (padded.append(piece) == plain.append(piece)).all()
        padded.rewind(back)
        plain.rewind(back)
        steps = [[number] for number in ids[back : back + 20]]
