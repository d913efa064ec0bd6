"""onnx-portable: standard operators only, with the logits of torch, prefill and decode in one graph."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers

from edgestill.artifact import Artifact, Checkpoint
from edgestill.errors import CheckpointError, MissingDependencyError, StageError, UnsupportedError
from edgestill.export import export_checkpoint
from edgestill.export.classifier_parity import check_classifier_parity, classifier_reference
from edgestill.onnx_file import check_standard, save_onnx
from edgestill.runtime.session import GenerationOptions, Session
from tests.conftest import TEXTS, make_classifier

KINDS = ("llama", "phi3", "gemma3")


def feeds(artifact: Artifact, ids: np.ndarray, mask: np.ndarray, past: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    positions = np.clip(mask.cumsum(axis=1) - 1, 0, None)[:, -ids.shape[1] :]
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}


def empty_past(session: onnxruntime.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    caches = [one for one in session.get_inputs() if one.name.startswith("past_key_values.")]
    return {one.name: np.zeros((batch, one.shape[1], 0, one.shape[3]), np.float32) for one in caches}


@pytest.mark.parametrize("kind", KINDS)
def test_prefill_and_decode_with_left_padding_equal_torch(
    kind: str, portable_decoders: dict[str, tuple[Path, Artifact]]
) -> None:
    checkpoint, artifact = portable_decoders[kind]
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    session = onnxruntime.InferenceSession(str(artifact.folder / "model.onnx"))
    ids = np.random.default_rng(0).integers(5, 300, (3, 90))
    mask = np.ones_like(ids)
    mask[1, :4], mask[2, :11] = 0, 0
    past, outputs = empty_past(session, 3), [one.name for one in session.get_outputs()]
    cache = transformers.DynamicCache(config=model.config)
    begin = 0
    for end in (70, 71, 72, 90):  # a prompt, two tokens one by one, a piece; past windows and original context
        piece, seen = ids[:, begin:end], mask[:, :end]
        given = feeds(artifact, piece, seen, past)
        found = dict(zip(outputs, session.run(None, given), strict=True))
        with torch.inference_mode():
            expected = model(
                input_ids=torch.from_numpy(piece),
                attention_mask=torch.from_numpy(seen),
                position_ids=torch.from_numpy(given["position_ids"]),
                past_key_values=cache,
                use_cache=True,
            ).logits.numpy()
        attended = seen[:, begin:].astype(bool)
        np.testing.assert_allclose(found["logits"][attended], expected[attended], atol=1e-4)
        past = {f"past_key_values.{name[8:]}": value for name, value in found.items() if name.startswith("present.")}
        assert all(value.shape[2] == end for value in past.values())
        begin = end


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_answers_as_the_checkpoint_does(
    kind: str, portable_decoders: dict[str, tuple[Path, Artifact]]
) -> None:
    checkpoint, artifact = portable_decoders[kind]
    options = GenerationOptions(max_new_tokens=24, ignore_eos=True)
    with Session.open(checkpoint) as reference, Session.open(artifact.folder) as session:
        assert session.engine.name == "onnxruntime"
        assert session.generate(TEXTS[0], options).token_ids == reference.generate(TEXTS[0], options).token_ids


def test_every_axis_of_time_and_batch_is_dynamic_and_named(portable_decoders: dict[str, tuple[Path, Artifact]]) -> None:
    model = ir.load(portable_decoders["llama"][1].folder / "model.onnx")
    axes = {value.name: [str(axis) for axis in value.shape or ()] for value in model.graph.inputs}
    assert axes["input_ids"] == axes["position_ids"] == ["batch", "sequence"]
    assert axes["attention_mask"] == ["batch", "total_sequence"]
    assert axes["past_key_values.0.key"] == ["batch", "2", "past_sequence", "16"]
    assert [str(axis) for axis in model.graph.outputs[0].shape or ()] == ["batch", "sequence", "384"]


def test_a_tied_embedding_is_stored_once_and_weights_keep_their_names(
    portable_decoders: dict[str, tuple[Path, Artifact]],
) -> None:
    checkpoint, artifact = portable_decoders["llama"]
    weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    assert artifact.size_bytes < weights + 24_000
    assert "model.layers.0.mlp.down_proj.weight" in ir.load(artifact.folder / "model.onnx").graph.initializers


def test_nothing_of_this_machine_is_in_the_file(portable_decoders: dict[str, tuple[Path, Artifact]]) -> None:
    data = (portable_decoders["llama"][1].folder / "model.onnx").read_bytes()
    assert b"/" + b"site-packages" not in data
    assert str(Path(transformers.__file__).parent).encode() not in data


def test_tokenizer_template_and_configuration_travel(portable_decoders: dict[str, tuple[Path, Artifact]]) -> None:
    checkpoint, artifact = portable_decoders["llama"]
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
    ):
        assert (artifact.folder / name).read_bytes() == (checkpoint / name).read_bytes()
    assert artifact.parent == Checkpoint.open(checkpoint).sha256()


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "llama", "qwen2", "qwen3"])
def test_a_classifier_has_torchs_logits_alone_and_padded(
    kind: str, classifier_folders: dict[str, Path], portable_classifiers: dict[str, Artifact]
) -> None:
    reference = classifier_reference(classifier_folders[kind], TEXTS)
    assert len({len(text) for text in reference.texts}) > 3
    assert len(reference.logits) == 2 * len(reference.texts)
    result = check_classifier_parity(portable_classifiers[kind], reference, min_top1_agreement=1, max_kl=1e-6)
    assert result.passed, result.reasons
    assert result.max_abs_diff.value is not None
    assert result.max_abs_diff.value < 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_classifies_by_its_last_token_whichever_side_is_padded(
    side: str, classifier_folders: dict[str, Path], portable_classifiers: dict[str, Artifact]
) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier_folders["qwen3"]).eval()
    session = onnxruntime.InferenceSession(str(portable_classifiers["qwen3"].folder / "model.onnx"))
    ids = np.random.default_rng(0).integers(5, 150, (2, 12))
    mask = np.ones_like(ids)
    padded = slice(0, 5) if side == "left" else slice(7, None)
    ids[1, padded], mask[1, padded] = 0, 0
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    found = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_every_operator_is_a_standard_one(
    portable_classifiers: dict[str, Artifact], portable_decoders: dict[str, tuple[Path, Artifact]]
) -> None:
    for artifact in (*portable_classifiers.values(), *(artifact for _, artifact in portable_decoders.values())):
        model = onnx.load(artifact.folder / "model.onnx")
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]


def test_the_same_checkpoint_gives_the_same_bytes(
    classifier_folders: dict[str, Path], portable_classifiers: dict[str, Artifact], tmp_path: Path
) -> None:
    again = export_checkpoint(Checkpoint.open(classifier_folders["bert"]), "onnx-portable", "fp32", tmp_path)
    first = portable_classifiers["bert"]
    names = sorted(path.name for path in first.folder.iterdir())
    assert all((first.folder / name).read_bytes() == (again.folder / name).read_bytes() for name in names)


def test_a_foreign_operator_is_refused(tmp_path: Path) -> None:
    axes = ir.Shape(["batch", 4])
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=axes)
    node = ir.node("FusedMatMul", (x, x), domain="com.microsoft")
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = "y", axes, x.type
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18, "com.microsoft": 1})
    save_onnx(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(StageError, match=r"com\.microsoft\.FusedMatMul"):
        check_standard(tmp_path / "model.onnx")


def test_a_fixed_batch_and_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    for axes, says in ((ir.Shape([2, 4]), "batch axis of 'x' is fixed"), (ir.Shape(["batch", 4]), "onnx.checker")):
        x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=axes)
        node = ir.node("Transpose", (x,), {"perm": [1, 0]})
        node.outputs[0].name, node.outputs[0].type = "y", x.type
        node.outputs[0].shape = ir.Shape(["batch", 9])
        graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18})
        save_onnx(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
        with pytest.raises(StageError, match=says):
            check_standard(tmp_path / "model.onnx")


def test_another_kind_of_model_is_refused_by_name(classifier_folders: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((classifier_folders["bert"] / "config.json").read_text())
    folder = make_classifier(tmp_path / "other", "bert")
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(UnsupportedError, match="'BertForMaskedLM' is neither a causal language model nor a sequence"):
        export_checkpoint(Checkpoint.open(folder), "onnx-portable", "fp32", tmp_path)


def test_a_model_with_another_state_than_keys_and_values_is_refused(tmp_path: Path) -> None:
    config = transformers.MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=32, state_size=4)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    with pytest.raises(UnsupportedError, match=r"mamba: .*KV cache"):
        export_checkpoint(Checkpoint.open(tmp_path / "mamba"), "onnx-portable", "fp32", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_local_experts": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32}
    transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads)).save_pretrained(tmp_path / "mixtral")
    with pytest.raises(UnsupportedError, match="num_local_experts 2: a mixture of experts"):
        export_checkpoint(Checkpoint.open(tmp_path / "mixtral"), "onnx-portable", "fp32", tmp_path / "out")


def test_a_decoder_without_a_padding_token_is_refused(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "qwen2", "qwen2", pad_token_id=None)
    with pytest.raises(UnsupportedError, match="no pad_token_id"):
        export_checkpoint(Checkpoint.open(folder), "onnx-portable", "fp32", tmp_path / "out")


def test_a_missing_weight_is_never_invented(tmp_path: Path) -> None:
    import safetensors.torch

    folder = make_classifier(tmp_path / "bert", "bert")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing, classifier\.weight"):
        export_checkpoint(Checkpoint.open(folder), "onnx-portable", "fp32", tmp_path / "out")


def test_a_missing_package_is_named_with_its_cure(
    classifier_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without_optimum(name: str, package: str | None = None) -> ModuleType:
        if name == "optimum":
            raise ModuleNotFoundError("No module named 'optimum'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without_optimum)
    with pytest.raises(MissingDependencyError, match=r"needs optimum.*pip install 'edgestill\[portable\]'"):
        export_checkpoint(Checkpoint.open(classifier_folders["bert"]), "onnx-portable", "fp32", tmp_path)
