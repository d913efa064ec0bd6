"""int8 in standard operators: close to float32, a quarter of its size, the same whatever shares a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgestill.artifact import Artifact
from edgestill.errors import ModelFileError, UnsupportedError
from edgestill.export.classifier_parity import check_classifier_parity, classifier_reference
from edgestill.export.parity import check_parity, reference_logits
from edgestill.onnx_file import save_onnx
from edgestill.progress import SILENT
from edgestill.quantize import quantize_artifact
from edgestill.quantize.portable_graph import PortableQuantizer
from edgestill.runtime.classifier import Classifier
from edgestill.runtime.session import GenerationOptions, Session
from tests.conftest import TEXTS


@pytest.fixture(scope="module")
def quantized(
    portable_classifiers: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("int8")
    return {kind: quantize_artifact(one, "int8", root / kind) for kind, one in portable_classifiers.items()}


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "llama", "qwen2", "qwen3"])
def test_a_quantised_classifier_agrees_with_the_one_it_was_made_from(
    kind: str, portable_classifiers: dict[str, Artifact], quantized: dict[str, Artifact]
) -> None:
    reference = classifier_reference(portable_classifiers[kind].model_path, TEXTS)
    result = check_classifier_parity(quantized[kind], reference, min_top1_agreement=0.8, max_kl=0.05)
    assert result.passed, result.reasons
    assert result.max_abs_diff.value is not None
    assert result.max_abs_diff.value > 0


def test_every_operator_is_a_standard_one_and_integers_are_multiplied(quantized: dict[str, Artifact]) -> None:
    for artifact in quantized.values():
        model = onnx.load(artifact.folder / "model.onnx")
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions
        assert sum(node.op_type == "MatMulInteger" for node in model.graph.node) >= 5


def test_matrices_take_a_quarter(portable_classifiers: dict[str, Artifact], quantized: dict[str, Artifact]) -> None:
    for kind, artifact in quantized.items():
        before = ir.load(portable_classifiers[kind].folder / "model.onnx").graph.initializers.values()
        after = ir.load(artifact.folder / "model.onnx").graph.initializers.values()
        sizes = [sum(v.const_value.nbytes for v in values if v.const_value is not None) for values in (before, after)]
        assert sizes[1] < 0.35 * sizes[0], kind  # scales of rows of 64 take their part


def test_a_text_gets_the_same_logits_in_any_company(quantized: dict[str, Artifact]) -> None:
    with Classifier.open(quantized["qwen2"].folder, threads=1) as classifier:
        batch = classifier.logits(TEXTS)
        alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(batch, alone, atol=1e-4)


def test_the_same_source_gives_the_same_bytes(
    portable_classifiers: dict[str, Artifact], quantized: dict[str, Artifact], tmp_path: Path
) -> None:
    again = quantize_artifact(portable_classifiers["bert"], "int8", tmp_path)
    first = quantized["bert"]
    assert again.sha256 == first.sha256
    assert sorted(path.name for path in again.folder.iterdir()) == sorted(path.name for path in first.folder.iterdir())


@pytest.mark.parametrize("kind", ["llama", "phi3", "gemma3"])
def test_a_quantised_decoder_runs_with_its_cache(
    kind: str, portable_decoders: dict[str, tuple[Path, Artifact]], tmp_path: Path
) -> None:
    _, source = portable_decoders[kind]
    artifact = quantize_artifact(source, "int8", tmp_path)
    with reference_logits(source.model_path, [list(range(20, 120)), list(range(200, 230))]) as reference:
        result = check_parity(artifact, reference, min_top1_agreement=0.8, max_kl=0.05)
    assert result.passed, result.reasons
    with Session.open(artifact.folder) as session:
        assert len(session.generate(TEXTS[0], GenerationOptions(max_new_tokens=8, ignore_eos=True)).token_ids) == 8


def test_a_tied_embedding_stays_one_tensor(portable_decoders: dict[str, tuple[Path, Artifact]], tmp_path: Path) -> None:
    _, source = portable_decoders["llama"]
    artifact = quantize_artifact(source, "int8", tmp_path)
    stored = ir.load(artifact.folder / "model.onnx").graph.initializers
    shapes = [tuple(value.shape.numpy()) for value in stored.values() if value.shape is not None]
    assert shapes.count((384, 64)) == 1
    assert (64, 384) not in shapes


def test_integers_are_those_of_rounding_to_the_scale(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(96, 64)).astype(np.float32)
    weight[:, 5] = 0
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", 96]))
    stored = ir.Value(name="w", const_value=ir.tensor(weight, name="w"), type=x.type, shape=ir.Shape([96, 64]))
    node = ir.node("MatMul", (x, stored))
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", x.type, ir.Shape(["batch", 64])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[stored], opset_imports={"": 18})
    model = ir.Model(graph, ir_version=10)
    with SILENT.task("") as task:
        PortableQuantizer(model, task).run()
    save_onnx(model, tmp_path / "model.onnx")
    kept = ir.load(tmp_path / "model.onnx").graph.initializers
    integers, scales = (kept[name].const_value.numpy() for name in ("w.q8", "w.scales"))  # type: ignore[union-attr]
    assert np.abs(integers).max() == 63  # two products of uint8 and int8 must fit 16 bits
    assert (np.abs(integers * scales - weight) <= scales / 2 + 1e-6).all()

    import onnxruntime

    rows = random.normal(size=(7, 96)).astype(np.float32) * np.logspace(-3, 3, 7, dtype=np.float32)[:, None]
    rows[3] = 0
    found = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"x": rows})[0]
    row_scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30) / 127
    quantised = np.floor(rows / row_scales + 0.5)
    np.testing.assert_allclose(found, (quantised @ integers) * row_scales * scales, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("precision", "says"), [("int4", "is not one of int8"), ("q8_0", "is not one of int8")])
def test_another_precision_is_refused(
    precision: str, says: str, portable_classifiers: dict[str, Artifact], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=says):
        quantize_artifact(portable_classifiers["bert"], precision, tmp_path)


def test_what_is_quantised_already_is_refused(quantized: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="already quantised"):
        quantize_artifact(quantized["bert"], "int8", tmp_path)


def test_a_damaged_file_is_named(portable_classifiers: dict[str, Artifact], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(portable_classifiers["bert"].folder, tmp_path / "damaged")
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match=r"damaged/model\.onnx"):
        quantize_artifact(Artifact.open(folder), "int8", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_large_weights_lie_beside_the_graph(
    portable_classifiers: dict[str, Artifact],
    quantized: dict[str, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgestill.onnx_file.EMBEDDED_BYTES", 0)
    artifact = quantize_artifact(portable_classifiers["bert"], "int8", tmp_path)
    data = artifact.folder / "model.onnx.data"
    assert data.stat().st_size > 10_000
    assert artifact.size_bytes == data.stat().st_size + (artifact.folder / "model.onnx").stat().st_size
    with (
        Classifier.open(artifact.folder, threads=1) as one,
        Classifier.open(quantized["bert"].folder, threads=1) as two,
    ):
        np.testing.assert_array_equal(one.logits(TEXTS), two.logits(TEXTS))
        assert one.network.weights_bytes == artifact.size_bytes
