"""The ONNX writer against torch, over the variants of a decoder."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from edgestill.artifact import Artifact, Checkpoint
from edgestill.errors import CheckpointError, DiskFullError, InputError, UnsupportedError
from edgestill.export import export_checkpoint
from edgestill.export.architectures import Rope, RopeScaling, describe_checkpoint
from edgestill.export.onnx import export_onnx
from edgestill.export.weights import Weights
from edgestill.progress import SILENT, Task
from edgestill.runtime.engine import Engine
from edgestill.runtime.engines import open_engine
from edgestill.runtime.model_source import locate_model

VOCAB = 96


def random_llama(
    folder: Path, *, tied: bool = True, dtype: torch.dtype = torch.float32, family: str = "Llama", **settings: object
) -> Path:
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 128,
        **settings,
    }
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCAB, tie_word_embeddings=tied, initializer_range=0.15, bos_token_id=None, eos_token_id=1, **sizes
    )
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


def onnx_engine(artifact: Artifact) -> Engine:
    return open_engine(locate_model(artifact.model_path), threads=1)


def largest_difference(checkpoint: Path, out: Path, length: int = 40) -> float:
    reference = open_engine(locate_model(checkpoint), threads=1)
    engine = onnx_engine(export_onnx(Checkpoint.open(checkpoint), "fp32", out))
    ids = np.random.default_rng(0).integers(0, engine.vocab_size, length)
    return float(np.abs(reference.logits(ids) - engine.logits(ids)).max())


def test_logits_equal_torch_for_a_tied_llama(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert largest_difference(tiny_checkpoint, tmp_path) < 1e-4


def test_logits_equal_torch_for_qwen2_with_biases_and_its_own_head(tiny_qwen2: Path, tmp_path: Path) -> None:
    assert largest_difference(tiny_qwen2, tmp_path) < 1e-4


@pytest.mark.parametrize("sizes", [{"head_dim": 32}, {"head_dim": 24}, {"head_dim": 8, "num_key_value_heads": 3}])
def test_logits_equal_torch_for_a_qwen3_whatever_the_size_of_its_heads(sizes: dict[str, int], tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "qwen3", family="Qwen3", **sizes)
    assert largest_difference(folder, tmp_path) < 1e-4


def test_norms_over_all_heads_are_right_where_heads_are_padded(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "olmo2", family="Olmo2", tied=False, head_dim=24)
    assert largest_difference(folder, tmp_path) < 1e-4


@pytest.mark.parametrize(
    "kind",
    [
        "tiny_mistral",
        "tiny_granite",
        "tiny_smollm3",
        "tiny_olmo2",
        "tiny_phi3",
        "tiny_gemma2",
        "tiny_gemma3",
        "tiny_gpt2",
    ],
)
def test_logits_equal_torch_for_others_in_llamas_shape(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert largest_difference(request.getfixturevalue(kind), tmp_path, 150) < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"tied": False},
        {"head_dim": 32},
        {"head_dim": 8},
        {"head_dim": 24, "attention_bias": True},
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 3},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
                "rope_theta": 5000.0,
            }
        },
        {"max_position_embeddings": 65536},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16},
    ],
    ids=lambda settings: ",".join(f"{key}={str(value)[:24]}" for key, value in settings.items()),
)
def test_logits_equal_torch_for_a_llama_with(settings: dict[str, object], tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "checkpoint", **settings)  # type: ignore[arg-type]
    assert largest_difference(folder, tmp_path / "out", 100) < 1e-4


def test_logits_equal_torch_for_a_real_model(shared_data: Path, tmp_path: Path) -> None:
    assert largest_difference(shared_data / "stories260K-hf", tmp_path, 200) < 1e-3


def test_a_prompt_that_crosses_longropes_original_context_has_the_long_factors_throughout(
    tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The engine runs prompts in pieces, and each piece by itself would still be within the original context of 64.
    monkeypatch.setattr("edgestill.runtime.engines.onnxruntime._MAX_CHUNK", 32)
    assert largest_difference(tiny_phi3, tmp_path, 150) < 1e-4
    artifact = Artifact.open(tmp_path / "onnx-fp32")
    assert any("grows past 64 tokens" in note for note in artifact.notes)
    reference, engine = open_engine(locate_model(tiny_phi3), threads=1), onnx_engine(artifact)
    ids = list(range(10, 140))
    assert np.abs(reference.append(ids) - engine.append(ids)).max() < 1e-4


def test_phi3_has_transformers_default_of_the_original_context(tiny_phi3: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_phi3, tmp_path / "unsaid")
    config = json.loads((folder / "config.json").read_text())
    del config["original_max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    with Weights(Checkpoint.open(folder)) as weights:
        rope = describe_checkpoint(Checkpoint.open(folder), weights).rope
    assert rope is not None
    assert rope.scaling is not None
    assert rope.scaling.original_context == transformers.Phi3Config().original_max_position_embeddings


def test_token_by_token_equals_the_whole_prompt(tiny_checkpoint: Path, tmp_path: Path) -> None:
    engine = onnx_engine(export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path))
    ids = list(range(10, 50))
    whole = engine.logits(ids)
    steps = np.stack([engine.append([token]).copy() for token in ids])
    np.testing.assert_allclose(steps, whole, atol=1e-4)


def test_the_same_checkpoint_gives_the_same_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    first = export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path / "a")
    second = export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path / "b")
    assert first.sha256 == second.sha256
    names = sorted(path.name for path in first.folder.iterdir())
    assert all((first.folder / name).read_bytes() == (second.folder / name).read_bytes() for name in names)


def test_a_tied_embedding_is_stored_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path)
    weights = sum(path.stat().st_size for path in tiny_checkpoint.glob("*.safetensors"))
    assert artifact.size_bytes < weights + 16_000


def test_tokenizer_template_and_configuration_travel_with_the_graph(tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        assert (artifact.folder / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
    genai = json.loads((artifact.folder / "genai_config.json").read_text())
    model = ir.load(artifact.folder / "model.onnx")
    inputs = {value.name for value in model.graph.inputs}
    decoder = genai["model"]["decoder"]
    assert decoder["inputs"]["past_key_names"] % 1 in inputs
    assert decoder["num_hidden_layers"] == 2
    assert decoder["head_size"] == 16
    assert genai["model"]["eos_token_id"] == 1
    assert artifact.parent == Checkpoint.open(tiny_checkpoint).sha256()


def test_named_chat_templates_and_generation_defaults_travel_too(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "named")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.3}))
    before = Checkpoint.open(folder).sha256()
    artifact = export_onnx(Checkpoint.open(folder), "fp32", tmp_path / "out")
    for name in ("additional_chat_templates/tool_use.jinja", "generation_config.json"):
        assert (artifact.folder / name).read_bytes() == (folder / name).read_bytes()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ other }}")
    assert Checkpoint.open(folder).sha256() != before


def test_padded_heads_are_told(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "checkpoint", head_dim=8)
    artifact = export_onnx(Checkpoint.open(folder), "fp32", tmp_path / "out")
    assert "padded" in artifact.notes[0]
    assert json.loads((artifact.folder / "genai_config.json").read_text())["model"]["decoder"]["head_size"] == 16


def test_a_truncated_checkpoint_leaves_nothing_behind(tiny_checkpoint: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        export_onnx(Checkpoint.open(damaged), "fp32", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


class Notes:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def task(self, label: str, total: float | None = None, unit: str = "") -> contextlib.AbstractContextManager[Task]:
        return SILENT.task(label, total, unit)

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", "int4_g128"])
@pytest.mark.parametrize("settings", [{}, {"max_position_embeddings": 65536, "head_dim": 24}])
def test_the_size_is_said_before_writing_and_right(
    precision: str, settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[int] = []

    def keep(progress: object, final: Path, folder: Path, size_bytes: int) -> None:
        assert not list(folder.iterdir())
        announced.append(size_bytes)

    monkeypatch.setattr("edgestill.export.onnx.announce_size", keep)
    checkpoint = Checkpoint.open(random_llama(tmp_path / "checkpoint", **settings))  # type: ignore[arg-type]
    assert [export_onnx(checkpoint, precision, tmp_path / "out").size_bytes] == announced


def test_the_size_is_said_in_a_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    notes = Notes()
    size = export_onnx(Checkpoint.open(tiny_checkpoint), "int4", tmp_path, progress=notes).size_bytes
    assert notes.texts == [f"onnx-int4: {size / 1e6:.2f} MB to write"]


def test_no_room_is_said_before_writing(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 5000))
    with pytest.raises(DiskFullError, match=r"onnx-fp32 will have 0\.\d\d MB and only 0\.01 MB are free"):
        export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path)


def test_int8_takes_little_more_than_a_byte_a_parameter(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "checkpoint", hidden_size=256, intermediate_size=1024, num_attention_heads=16)
    with Weights(Checkpoint.open(folder)) as weights:
        parameters = describe_checkpoint(Checkpoint.open(folder), weights).parameters()
    assert export_onnx(Checkpoint.open(folder), "int8", tmp_path / "out").size_bytes <= 1.1 * parameters


def test_fp16_is_float16_throughout_and_near(tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = export_onnx(Checkpoint.open(tiny_checkpoint), "fp16", tmp_path)
    graph = ir.load(artifact.folder / "model.onnx").graph
    floats = {value.dtype for value in (*graph.inputs, *graph.outputs)} - {ir.DataType.INT64}
    stored = {value.dtype for value in graph.initializers.values() if value.const_value.size > 64}
    assert floats == stored == {ir.DataType.FLOAT16}
    reference = open_engine(locate_model(tiny_checkpoint), threads=1)
    ids = list(range(10, 50))
    assert np.abs(reference.logits(ids) - onnx_engine(artifact).logits(ids)).max() < 0.02


@pytest.mark.parametrize(
    ("value", "precision"), [(7e4, "fp16"), (np.nan, "fp32"), (np.inf, "int8"), (np.nan, "int4"), (np.inf, "int4")]
)
def test_a_value_that_a_file_can_t_hold_is_named(
    value: float, precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "odd")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"odd: tensor '.*up.*' has .*"):
        export_onnx(Checkpoint.open(folder), precision, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def other_architecture(source: Path, folder: Path, family: str, **settings: object) -> Path:
    """A tiny checkpoint of an architecture that isn't described here, with another's tokenizer."""
    config = getattr(transformers, f"{family}Config")(
        vocab_size=384, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=1, **settings
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(source / name, folder / name)
    return folder


def test_what_we_don_t_describe_is_built_by_onnxruntime_genai_and_says_so(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime_genai")
    folder = other_architecture(tiny_checkpoint, tmp_path / "gemma", "Gemma", head_dim=16)
    artifact = export_onnx(Checkpoint.open(folder), "fp32", tmp_path / "out")
    assert "onnxruntime-genai" in artifact.notes[0]
    assert {"tokenizer.json", "chat_template.jinja", "genai_config.json"} <= {
        path.name for path in artifact.folder.iterdir()
    }
    reference = open_engine(locate_model(folder), threads=1)
    ids = list(range(10, 50))
    assert np.abs(reference.logits(ids) - onnx_engine(artifact).logits(ids)).max() < 1e-3


def test_without_onnxruntime_genai_it_is_refused_with_the_cure(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgestill.export.genai_builder.find_spec", lambda package: None)
    folder = other_architecture(tiny_checkpoint, tmp_path / "gemma", "Gemma", head_dim=16)
    with pytest.raises(UnsupportedError, match=r"GemmaForCausalLM.*supported: .*Qwen2.*edgestill\[distill,genai\]"):
        export_onnx(Checkpoint.open(folder), "fp32", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_mixture_of_experts_is_refused_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = other_architecture(tiny_checkpoint, tmp_path / "mixtral", "Mixtral", num_local_experts=4)
    for format in ("onnx", "gguf"):
        with pytest.raises(UnsupportedError, match=r"MixtralForCausalLM.*mixture of 4 experts.*supported: "):
            export_checkpoint(Checkpoint.open(folder), format, "fp32" if format == "onnx" else "f16", tmp_path / "out")  # type: ignore[arg-type]


def test_another_precision_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="bf16"):
        export_onnx(Checkpoint.open(tiny_checkpoint), "bf16", tmp_path)


def test_rotary_frequencies_equal_those_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = transformers.LlamaConfig(
        hidden_size=2048, num_attention_heads=32, max_position_embeddings=131072, rope_parameters=parameters
    )
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    found = Rope(500000.0, 64, RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)).frequencies()
    np.testing.assert_allclose(found, expected.double().numpy(), rtol=1e-6)
