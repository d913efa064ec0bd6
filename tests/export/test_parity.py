"""Parity: what it measures, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import safetensors.torch
import scipy.special
import torch

from edgestill.artifact import Artifact, Checkpoint
from edgestill.errors import GateError, InputError
from edgestill.export import parity_cases
from edgestill.export.onnx import export_onnx
from edgestill.export.parity import check_parity
from edgestill.export.parity_cases import Case, Run
from edgestill.export.parity_reference import Reference, reference_logits
from edgestill.runtime.engines import open_engine
from edgestill.runtime.model_source import locate_model

TEXTS = [list(range(20, 60)), list(range(100, 130))]


@pytest.fixture
def artifact(tiny_checkpoint: Path, tmp_path: Path) -> Artifact:
    return export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path)


@pytest.fixture
def reference(tiny_checkpoint: Path) -> Reference:
    return reference_logits(Checkpoint.open(tiny_checkpoint), TEXTS)


def change_weight(artifact: Artifact, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Artifact:
    """Change one weight of an artifact in place; the folder still opens."""
    tensor = ir.load(artifact.folder / artifact.entry).graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    changed = change(tensor.numpy().copy())
    with (artifact.folder / f"{artifact.entry}.data").open("r+b") as file:
        file.seek(tensor.offset or 0)
        file.write(changed.tobytes())
    return artifact


def test_a_faithful_file_passes(artifact: Artifact, reference: Reference) -> None:
    result = check_parity(artifact, reference, min_top1_agreement=1.0, max_kl=1e-6)
    assert result.passed, result.reasons
    assert result.top1_agreement.value == 1.0
    assert result.positions == 70
    assert result.max_abs_diff.value is not None
    assert result.max_abs_diff.value < 1e-4


def test_figures_equal_a_float64_computation(tiny_checkpoint: Path, tmp_path: Path, reference: Reference) -> None:
    other = export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path)
    noise = np.random.default_rng(0)
    change_weight(other, "layers.1.o.weight", lambda weight: weight + noise.normal(0, 0.05, weight.shape).astype("f4"))
    result = check_parity(replace(other, precision="f16"), reference, min_top1_agreement=0, max_kl=10)
    engine = open_engine(locate_model(other.folder), threads=1)
    found = np.concatenate([engine.logits(text) for text in TEXTS]).astype(np.float64)
    expected = np.concatenate([reference.whole(text) for text in reference.texts]).astype(np.float64)
    p, q = scipy.special.softmax(expected, axis=-1), scipy.special.softmax(found, axis=-1)
    assert result.passed
    assert result.mean_kl.value == pytest.approx(scipy.special.rel_entr(p, q).sum(axis=-1).mean(), rel=1e-3)
    assert result.top1_agreement.value == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())
    assert result.max_abs_diff.value == pytest.approx(np.abs(found - expected).max(), rel=1e-4)
    assert [case.name for case in result.cases] == [case.name for case in reference.cases]
    assert result.cases[0].mean_kl == result.mean_kl

    # Prompts of many lengths: the last position of each, though the reference ran only the longest.
    lengths = next(case for case in reference.cases if case.name == "lengths")
    text = lengths.runs[0].text
    found = np.stack([engine.logits(text[:length])[-1] for _, length in lengths.runs[0].pieces]).astype(np.float64)
    expected = open_engine(locate_model(tiny_checkpoint)).logits(text)[lengths.runs[0].ends].astype(np.float64)
    p, q = scipy.special.softmax(expected, axis=-1), scipy.special.softmax(found, axis=-1)
    row = next(case for case in result.cases if case.name == "lengths")
    assert row.positions == len(found) > 15
    assert row.mean_kl.value == pytest.approx(scipy.special.rel_entr(p, q).sum(axis=-1).mean(), rel=1e-3)
    assert row.max_abs_diff.value == pytest.approx(np.abs(found - expected).max(), rel=1e-4)


def test_a_changed_weight_is_refused_by_the_fixed_gate_of_fp32(artifact: Artifact, reference: Reference) -> None:
    change_weight(artifact, "layers.0.down.weight", lambda weight: weight + np.float32(0.01))
    result = check_parity(artifact, reference, min_top1_agreement=0, max_kl=100)
    assert not result.passed
    assert any("largest |logit difference|" in reason and "0.001" in reason for reason in result.reasons)


def test_reasons_name_gate_value_and_limit(artifact: Artifact, reference: Reference) -> None:
    change_weight(artifact, "layers.0.o.weight", lambda weight: weight[::-1])
    changed = replace(artifact, precision="int4")
    result = check_parity(changed, reference, min_top1_agreement=0.98, max_kl=0.01)
    assert not result.passed
    assert any("below min_top1_agreement 0.98" in reason for reason in result.reasons)
    assert any("above max_kl 0.01" in reason for reason in result.reasons)


def test_a_file_with_a_nan_weight_is_refused(artifact: Artifact, reference: Reference) -> None:
    change_weight(artifact, "layers.0.up.weight", lambda weight: np.full_like(weight, np.nan))
    result = check_parity(artifact, reference, min_top1_agreement=0, max_kl=100)
    assert not result.passed
    assert "not finite" in result.reasons[0]
    assert result.mean_kl.value is None


def test_a_checkpoint_with_a_nan_weight_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "nan")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(GateError, match=r"not finite \(held-out: first at text 0, position 0\)"):
        reference_logits(Checkpoint.open(folder), TEXTS)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_a_truncated_file_is_refused(artifact: Artifact, reference: Reference, name: str) -> None:
    file = artifact.folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    result = check_parity(artifact, reference, min_top1_agreement=0, max_kl=100)
    assert not result.passed
    assert "onnxruntime" in result.reasons[0]


def test_another_vocabulary_is_refused(artifact: Artifact) -> None:
    with Reference("other", "other", [Case("held-out", (Run((1, 2)),))], 7) as reference:
        result = check_parity(artifact, reference, min_top1_agreement=0, max_kl=100)
    assert not result.passed
    assert "the reference has 7" in result.reasons[0]


def test_a_broken_kv_cache_is_refused(
    artifact: Artifact, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgestill.runtime.engines.onnxruntime import OnnxRuntimeEngine

    append = OnnxRuntimeEngine.append

    def forgetful(self: OnnxRuntimeEngine, token_ids: list[int]) -> np.ndarray:
        self.rewind(0)
        return append(self, token_ids)

    monkeypatch.setattr(OnnxRuntimeEngine, "append", forgetful)
    for precision in ("fp32", "int4"):
        result = check_parity(replace(artifact, precision=precision), reference, min_top1_agreement=0, max_kl=100)
        assert not result.passed
        assert result.reasons[0].startswith("steps: token by token")


def test_positions_are_bounded_and_texts_cut_to_the_context(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_cases, "MAX_POSITIONS", 300)
    with reference_logits(Checkpoint.open(tiny_checkpoint), [[], [5] * 1000, [6] * 1000]) as reference:
        assert [len(text) for text in reference.texts] == [256, 44]


def test_no_tokens_at_all_is_an_error(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="no tokens"):
        reference_logits(Checkpoint.open(tiny_checkpoint), [[]])


def test_an_artifact_can_be_the_reference(artifact: Artifact) -> None:
    with reference_logits(artifact.model_path, TEXTS) as reference:
        result = check_parity(artifact, reference, min_top1_agreement=1, max_kl=0)
    assert result.passed, result.reasons
