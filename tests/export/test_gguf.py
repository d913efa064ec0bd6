from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from edgestill.artifact import Artifact, Checkpoint  # noqa: E402
from edgestill.errors import CheckpointError, UnsupportedError  # noqa: E402
from edgestill.export import export_checkpoint  # noqa: E402
from edgestill.export.architectures import RopeScaling  # noqa: E402
from edgestill.export.gguf import export_gguf  # noqa: E402
from edgestill.export.gguf_tensors import llama3_rope_factors  # noqa: E402
from edgestill.runtime.engines.llama_cpp import LlamaCppEngine  # noqa: E402

IDS = [5, 17, 300, 42, 9, 260, 261, 31, 77, 128, 301, 14]


def _torch_logits(path: Path, ids: list[int], activation: Any = None) -> Any:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    if activation is not None:
        for module in model.modules():
            for name in ("act", "act_fn"):
                if name in module._modules:
                    module._modules[name] = torch.nn.Module()
                    module._modules[name].forward = activation
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def _gguf_logits(path: Path, ids: list[int]) -> Any:
    engine = LlamaCppEngine(path, threads=1)
    try:
        return engine.logits(ids)
    finally:
        engine.close()


def _assert_same_logits(checkpoint: Path, out: Path, ids: list[int] = IDS) -> Artifact:
    artifact = export_checkpoint(Checkpoint.open(checkpoint), "gguf", "f32", out)
    expected, found = _torch_logits(checkpoint, ids), _gguf_logits(artifact.model_path, ids)
    assert np.abs(expected - found).max() <= 1e-3
    assert (expected.argmax(-1) == found.argmax(-1)).all()
    return artifact


def _edited(source: Path, target: Path, **config: object) -> Path:
    shutil.copytree(source, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return target


def _keys(artifact: Artifact) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(artifact.model_path).fields.items()}


def _rewrite(folder: Path, **changed: np.ndarray[Any, Any]) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    save_file({**load_file(path), **changed}, path)


def test_a_llama_computes_torch_s_logits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    _assert_same_logits(tiny_checkpoint, tmp_path)


def test_a_qwen2_computes_torch_s_logits(tiny_qwen2: Path, tmp_path: Path) -> None:
    artifact = _assert_same_logits(tiny_qwen2, tmp_path)
    names = [tensor.name for tensor in gguf.GGUFReader(artifact.model_path).tensors]
    assert "output.weight" in names
    assert "blk.0.attn_q.bias" in names


def test_a_qwen3_computes_torch_s_logits(tiny_qwen3: Path, tmp_path: Path) -> None:
    artifact = _assert_same_logits(tiny_qwen3, tmp_path)
    assert "blk.1.attn_k_norm.weight" in [tensor.name for tensor in gguf.GGUFReader(artifact.model_path).tensors]
    with pytest.raises(UnsupportedError, match="attention_bias"):
        export_gguf(Checkpoint.open(_edited(tiny_qwen3, tmp_path / "biased", attention_bias=True)), "f32", tmp_path)


@pytest.mark.parametrize(
    "kind",
    ["tiny_mistral", "tiny_granite", "tiny_smollm3", "tiny_olmo2", "tiny_phi3"],
)
def test_others_in_llamas_shape_compute_torch_s_logits(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    _assert_same_logits(request.getfixturevalue(kind), tmp_path, (IDS * 15)[:150])


def _ggml_gelu(values: Any) -> Any:
    """GELU as ggml's CPU backend computes it: by a table from float16 to float16 between -10 and 10."""
    import torch

    looked_up = torch.nn.functional.gelu(values.half().float(), approximate="tanh").half().float()
    return torch.where(values <= -10, 0.0, torch.where(values >= 10, values, looked_up))


@pytest.mark.parametrize("kind", ["tiny_gemma2", "tiny_gemma3", "tiny_gpt2"])
def test_models_with_a_gelu_compute_torch_s_logits_but_for_ggml_s_table(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    checkpoint, ids = request.getfixturevalue(kind), (IDS * 15)[:150]
    artifact = export_checkpoint(Checkpoint.open(checkpoint), "gguf", "f32", tmp_path)
    found = _gguf_logits(artifact.model_path, ids)
    assert np.abs(_torch_logits(checkpoint, ids) - found).max() <= 1e-2
    expected = _torch_logits(checkpoint, ids, _ggml_gelu)
    # An input on the border between two float16 is rounded either way.
    assert np.quantile(np.abs(expected - found), 0.99) <= 1e-3
    assert np.abs(expected - found).max() <= 2e-3


def test_another_layout_of_smollm3_is_refused(tiny_smollm3: Path, tmp_path: Path) -> None:
    other = _edited(tiny_smollm3, tmp_path / "other", no_rope_layers=[1, 0, 1, 0, 1])
    with pytest.raises(UnsupportedError, match="no_rope_layers"):
        export_gguf(Checkpoint.open(other), "f32", tmp_path)


def test_a_window_shorter_than_the_context_is_refused(tiny_mistral: Path, tmp_path: Path) -> None:
    short = _edited(tiny_mistral, tmp_path / "short", sliding_window=96)
    with pytest.raises(UnsupportedError, match=r"config\.json: sliding_window 96 .* lower the latter to 96"):
        export_gguf(Checkpoint.open(short), "f32", tmp_path)
    within = _edited(tiny_mistral, tmp_path / "within", sliding_window=96, max_position_embeddings=96)
    _assert_same_logits(within, tmp_path, (IDS * 8)[:96])


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "rope_theta": 500000.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
)
def test_rotary_scaling_computes_torch_s_logits(
    tiny_checkpoint: Path, tmp_path: Path, scaling: dict[str, object]
) -> None:
    folder = _edited(tiny_checkpoint, tmp_path / "scaled", rope_parameters=scaling)
    _assert_same_logits(folder, tmp_path, (IDS * 15)[:150])


def test_llama3_rope_factors_follow_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=512,
        num_attention_heads=8,
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(np.arange(0, 64, 2) / 64)
    factors = llama3_rope_factors(RopeScaling("llama3", 32.0, 1.0, 4.0, 8192), 500000.0, 64)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-5)


def test_stories260k_computes_torch_s_logits(shared_data: Path, tmp_path: Path) -> None:
    artifact = _assert_same_logits(shared_data / "stories260K-hf", tmp_path)
    keys = _keys(artifact)
    assert keys["tokenizer.ggml.eos_token_id"] == 2
    assert keys["tokenizer.ggml.eot_token_id"] == 1  # generation_config lists both
    assert keys["tokenizer.ggml.add_bos_token"] is True


def test_tied_weights_are_stored_once_and_norms_stay_float32(tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path)
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(artifact.model_path).tensors}
    assert "output.weight" not in types
    assert {kind for name, kind in types.items() if "norm" in name} == {"F32"}
    assert {kind for name, kind in types.items() if "norm" not in name} == {"F16"}


def test_f16_holds_the_rounded_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(artifact.model_path).tensors}
    source = load_file(tiny_checkpoint / "model.safetensors")
    np.testing.assert_array_equal(
        tensors["blk.1.ffn_down.weight"], source["model.layers.1.mlp.down_proj.weight"].astype(np.float16)
    )


def test_the_same_checkpoint_gives_the_same_bytes_wherever_it_lies(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "elsewhere")
    first = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path / "a")
    second = export_checkpoint(Checkpoint.open(tmp_path / "elsewhere"), "gguf", "f16", tmp_path / "b")
    assert first.sha256 == second.sha256
    assert first.parent == second.parent
    assert first == Artifact.open(tmp_path / "a" / "gguf-f16")


def test_chunks_smaller_than_a_tensor_give_the_same_bytes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f32", tmp_path / "a")
    monkeypatch.setattr("edgestill.export.gguf_tensors._CHUNK_BYTES", 700)
    # As a large file is written: it leaves the page cache on its way.
    monkeypatch.setattr("edgestill.export.gguf_tensors._FLUSH_BYTES", 1000)
    monkeypatch.setattr("edgestill.export.gguf_tensors._LARGE_FILE", 0)
    chunked = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f32", tmp_path / "b")
    assert whole.sha256 == chunked.sha256
    assert whole.model_path.read_bytes() == chunked.model_path.read_bytes()


def test_the_chat_template_travels_in_the_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f32", tmp_path)
    assert "add_generation_prompt" in _keys(artifact)["tokenizer.chat_template"]


def test_a_value_that_f16_cannot_hold_is_refused_and_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = _edited(tiny_checkpoint, tmp_path / "big")
    _rewrite(folder, **{"model.layers.0.mlp.up_proj.weight": np.full((160, 64), 7e4, np.float32)})
    with pytest.raises(UnsupportedError, match=r"ffn_up.*70000.*f32"):
        export_gguf(Checkpoint.open(folder), "f16", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert export_gguf(Checkpoint.open(folder), "f32", tmp_path / "out").precision == "f32"


def test_a_weight_that_is_not_a_number_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = _edited(tiny_checkpoint, tmp_path / "nan")
    _rewrite(folder, **{"model.norm.weight": np.full(64, np.nan, np.float32)})
    with pytest.raises(CheckpointError, match="NaN"):
        export_gguf(Checkpoint.open(folder), "f32", tmp_path / "out")


def test_an_unknown_precision_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="q4_0"):
        export_gguf(Checkpoint.open(tiny_checkpoint), "q4_0", tmp_path)


@pytest.mark.parametrize("precision", ["bf16", "q8_0"])
def test_other_precisions_load_and_stay_near(precision: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", precision, tmp_path)
    assert np.abs(_torch_logits(tiny_checkpoint, IDS) - _gguf_logits(artifact.model_path, IDS)).max() < 0.2
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(artifact.model_path).tensors}
    assert kinds["blk.0.attn_q.weight"] == precision.upper()
    assert kinds["output_norm.weight"] == "F32"


def test_openai_s_own_names_of_gpt2_are_read(tiny_gpt2: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    plain = _edited(tiny_gpt2, tmp_path / "plain")
    tensors = load_file(plain / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}, plain / "model.safetensors"
    )
    first = export_checkpoint(Checkpoint.open(tiny_gpt2), "gguf", "f16", tmp_path / "a")
    second = export_checkpoint(Checkpoint.open(plain), "gguf", "f16", tmp_path / "b")
    assert _tensor_bytes(first) == _tensor_bytes(second)


def _tensor_bytes(artifact: Artifact) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(artifact.model_path).tensors}


def test_where_a_file_comes_from_is_in_its_metadata(tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path)
    keys = _keys(artifact)
    assert keys["edgestill.checkpoint_sha256"] == artifact.parent == Checkpoint.open(tiny_checkpoint).sha256()
    assert keys["edgestill.version"]


def test_the_model_card_goes_into_the_metadata(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = _edited(tiny_checkpoint, tmp_path / "carded")
    card = "license: apache-2.0\nbase_model: someone/Llama-1B\ntags: [a, b]\nlanguage: en\nmodel_name: Phi-3 dream\n"
    (folder / "README.md").write_text(f"---\n{card}---\n# Model\n")
    keys = _keys(export_checkpoint(Checkpoint.open(folder), "gguf", "f16", tmp_path))
    assert keys["general.license"] == "apache-2.0"
    assert keys["general.base_model.0.repo_url"] == "https://huggingface.co/someone/Llama-1B"
    assert keys["general.tags"] == ["a", "b"]
    # llama.cpp refuses the name as it stands, for want of Phi-3's tokens.
    assert keys["general.name"] == "phi 3 dream"


def test_the_writer_writes_the_library_s_bytes(tmp_path: Path) -> None:
    from edgestill.export.gguf_writer import Writer

    def written(kind: Any, path: Path) -> bytes:
        writer = kind(path, "llama")
        writer.add_token_list(("a", "", "\u2581ü", "\U0001f600"))
        writer.add_token_scores([0.5, -1.0, 3e38])
        writer.add_token_types((1, 3, -6))
        writer.add_array("mixed.bytes", [b"a", b"bc"])
        writer.add_array("booleans", [True, False])
        writer.add_bool("one", True)
        writer.add_string("text", "é")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path.read_bytes()

    assert written(Writer, tmp_path / "ours") == written(gguf.GGUFWriter, tmp_path / "theirs")


def test_generation_defaults_go_into_the_metadata(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = _edited(tiny_checkpoint, tmp_path / "defaults")
    defaults = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1, "min_p": "high"}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 4], **defaults}))
    keys = _keys(export_checkpoint(Checkpoint.open(folder), "gguf", "f16", tmp_path))
    assert keys["general.sampling.temp"] == pytest.approx(0.7)
    assert keys["general.sampling.top_p"] == pytest.approx(0.9)
    assert keys["general.sampling.top_k"] == 20
    assert keys["general.sampling.penalty_repeat"] == pytest.approx(1.1)
    assert "general.sampling.min_p" not in keys


@pytest.mark.parametrize("card", ["---\n: [\n---\n", "---\nlicense: 3\ntags: {a: 1}\nbase_model: [1]\n---\n", "\0", ""])
def test_a_model_card_that_says_nothing_usable_is_left_out(card: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = _edited(tiny_checkpoint, tmp_path / "carded")
    (folder / "README.md").write_text(card)
    assert "general.license" not in _keys(export_checkpoint(Checkpoint.open(folder), "gguf", "f16", tmp_path))


def test_what_llama_cpp_can_t_compute_is_refused_as_gguf_only(tiny_gemma2: Path, tmp_path: Path) -> None:
    other = Checkpoint.open(_edited(tiny_gemma2, tmp_path / "other", query_pre_attn_scalar=100))
    with pytest.raises(UnsupportedError, match="query_pre_attn_scalar 100"):
        export_checkpoint(other, "gguf", "f16", tmp_path)
    export_checkpoint(other, "onnx", "fp32", tmp_path)
