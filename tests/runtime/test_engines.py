"""Engines against torch and against each other, and against damaged files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError, ContextFullError, InputError, MissingDependencyError, ModelFileError
from edgestill.export import export_checkpoint
from edgestill.runtime.engine import Engine
from edgestill.runtime.engines import engine_names, open_engine, require
from edgestill.runtime.engines.llama_cpp import LlamaCppEngine, log_lines, log_to
from edgestill.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgestill.runtime.gguf_header import TENSOR_BLOCKS, read_gguf_header
from edgestill.runtime.model_source import locate_model

IDS = [40, 77, 12, 300, 5, 5, 201, 44, 90, 91, 150, 33]


@pytest.fixture(scope="session")
def models(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoint for each engine."""
    out = tmp_path_factory.mktemp("exported")
    checkpoint = Checkpoint.open(tiny_checkpoint)
    return {
        "torch": tiny_checkpoint,
        "onnxruntime": export_checkpoint(checkpoint, "onnx", "fp32", out).model_path,
        "llama.cpp": export_checkpoint(checkpoint, "gguf", "f32", out).model_path,
    }


@pytest.fixture(scope="session")
def reference(models: dict[str, Path]) -> np.ndarray:
    """Torch's own logits for IDS, without any engine."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(models["torch"], dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.fixture(params=["torch", "onnxruntime", "llama.cpp"])
def engine(request: pytest.FixtureRequest, models: dict[str, Path]) -> Iterator[Engine]:
    opened = open_engine(locate_model(models[request.param]), threads=1)
    yield opened
    opened.close()


def test_every_engine_is_listed() -> None:
    assert engine_names() == ("llama.cpp", "onnxruntime", "torch")


def test_logits_of_all_positions_equal_torchs(engine: Engine, reference: np.ndarray) -> None:
    logits = engine.logits(IDS)
    assert logits.shape == reference.shape
    assert logits.dtype == np.float32
    assert np.abs(logits - reference).max() < 1e-3
    assert engine.position == 0


def test_appending_token_by_token_equals_one_pass(engine: Engine, reference: np.ndarray) -> None:
    for position, token in enumerate(IDS):
        row = engine.append([token])
        assert row.shape == (engine.vocab_size,)
        assert np.abs(row - reference[position]).max() < 1e-3
        assert engine.position == position + 1


def test_appending_in_pieces_equals_one_pass(engine: Engine, reference: np.ndarray) -> None:
    engine.append(np.array(IDS[:5]))
    assert np.abs(engine.append(IDS[5:]) - reference[-1]).max() < 1e-3


def test_after_a_rewind_the_forgotten_tokens_have_no_effect(engine: Engine, reference: np.ndarray) -> None:
    engine.append(IDS[:4])
    engine.append([9, 8, 7, 6, 5, 4, 3])
    engine.append([2])
    engine.rewind(4)
    assert engine.position == 4
    assert np.abs(engine.append(IDS[4:]) - reference[-1]).max() < 1e-3
    engine.rewind(0)
    assert np.abs(engine.append(IDS) - reference[-1]).max() < 1e-3


def test_logits_after_an_answer_start_from_nothing(engine: Engine, reference: np.ndarray) -> None:
    engine.append(IDS[::-1])
    assert np.abs(engine.logits(IDS) - reference).max() < 1e-3


def test_the_context_can_be_filled_to_the_last_token_and_no_further(engine: Engine) -> None:
    assert engine.context_length == 256
    engine.append([1] * 255)
    engine.append([1])
    with pytest.raises(ContextFullError):
        engine.append([1])
    assert engine.position == 256
    with pytest.raises(ContextFullError):
        engine.logits([1] * 257)


def test_no_tokens_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError):
        engine.append([])


def test_the_asked_context_length_bounds_the_cache(models: dict[str, Path]) -> None:
    for path in models.values():
        opened = open_engine(locate_model(path), threads=1, context_length=64)
        assert opened.context_length == 64
        assert opened.threads == 1
        assert opened.weights_bytes is not None
        assert opened.weights_bytes > 400_000
        opened.close()


def test_a_context_longer_than_a_batch_is_prefilled_in_pieces(shared_data: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(shared_data / "stories260K-hf")
    ids = np.random.default_rng(0).integers(3, 512, 512)
    rows = []
    for format, precision in (("gguf", "f32"), ("onnx", "fp32")):
        artifact = export_checkpoint(checkpoint, format, precision, tmp_path)  # type: ignore[arg-type]
        opened = open_engine(locate_model(artifact.model_path), threads=1)
        if isinstance(opened, LlamaCppEngine | OnnxRuntimeEngine):
            opened._chunk = 100  # smaller than the context, and no divisor of it
        rows.append((opened.append(ids).copy(), opened.logits(ids)[-1]))
        opened.close()
    torch_engine = open_engine(locate_model(checkpoint.path), threads=1)
    expected = torch_engine.append(ids)
    for appended, last in rows:
        assert np.abs(appended - expected).max() < 1e-3
        assert np.abs(last - expected).max() < 1e-3


def test_onnx_with_group_query_attention_shares_its_buffers(models: dict[str, Path]) -> None:
    opened = open_engine(locate_model(models["onnxruntime"]), threads=1)
    assert isinstance(opened, OnnxRuntimeEngine)
    assert opened.shares_buffers


def test_onnx_without_group_query_attention_copies_the_cache_and_is_right(tmp_path: Path) -> None:
    # Logits of a token: how often each id was seen so far, kept in the "cache" as one-hot rows.
    vocab = 8
    eye = numpy_helper.from_array(np.eye(vocab, dtype=np.float32), "eye")
    axes = numpy_helper.from_array(np.array([1]), "axes")
    exclusive = numpy_helper.from_array(np.array(2), "axis")
    nodes = [
        helper.make_node("Gather", ["eye", "input_ids"], ["hot"]),
        helper.make_node("Unsqueeze", ["hot", "axes"], ["row"]),
        helper.make_node("Concat", ["past_key_values.0.key", "row"], ["present.0.key"], axis=2),
        helper.make_node("Concat", ["past_key_values.0.value", "row"], ["present.0.value"], axis=2),
        helper.make_node("CumSum", ["present.0.value", "axis"], ["counts4"]),
        helper.make_node("Squeeze", ["counts4", "axes"], ["all"]),
        helper.make_node("Shape", ["input_ids"], ["length"], start=1),
        helper.make_node("Neg", ["length"], ["from"]),
        helper.make_node("Slice", ["all", "from", "far", "axes"], ["logits"]),
    ]
    far = numpy_helper.from_array(np.array([2**31]), "far")
    cache = ["batch", 1, "past", vocab]
    grown = ["batch", 1, "total", vocab]
    graph = helper.make_graph(
        nodes,
        "counting",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
            helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, cache),
            helper.make_tensor_value_info("past_key_values.0.value", TensorProto.FLOAT, cache),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", vocab]),
            helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, grown),
            helper.make_tensor_value_info("present.0.value", TensorProto.FLOAT, grown),
        ],
        [eye, axes, exclusive, far],
    )
    graph.initializer[2].name = "axis"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    opened = open_engine(locate_model(tmp_path), threads=1, context_length=16)
    assert isinstance(opened, OnnxRuntimeEngine)
    assert not opened.shares_buffers
    assert opened.append([3, 3, 5]).tolist() == [0, 0, 0, 2, 0, 1, 0, 0]
    assert opened.append([5]).tolist() == [0, 0, 0, 2, 0, 2, 0, 0]
    opened.rewind(1)
    assert opened.append([0]).tolist() == [1, 0, 0, 1, 0, 0, 0, 0]


def test_a_graph_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx"
    )
    with pytest.raises(ModelFileError, match="context length"):
        open_engine(locate_model(tmp_path))
    with pytest.raises(ModelFileError, match="not a decoder"):
        open_engine(locate_model(tmp_path), context_length=8)


def test_a_truncated_onnx_file_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["onnxruntime"], tmp_path / "cut")
    path = tmp_path / "cut" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        open_engine(locate_model(tmp_path / "cut"))


def test_a_truncated_gguf_file_is_refused_wherever_it_is_cut(models: dict[str, Path], tmp_path: Path) -> None:
    whole = models["llama.cpp"].read_bytes()
    path = tmp_path / "cut.gguf"
    for size in (0, 3, 4, 10, 23, 24, 40, 100, 1000, 5000, 20000, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match=r"cut\.gguf"):
            open_engine(locate_model(path), threads=1)


def test_a_gguf_file_that_llama_cpp_refuses_is_refused_with_its_reason(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "strange.gguf"
    path.write_bytes(
        models["llama.cpp"]
        .read_bytes()
        .replace(b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00lxama")
    )
    with pytest.raises(ModelFileError, match="unknown model architecture"):
        open_engine(locate_model(path), threads=1)


def test_a_gguf_header_tells_types_and_size(models: dict[str, Path]) -> None:
    header = read_gguf_header(models["llama.cpp"])
    assert header.version == 3
    assert header.all_float32
    assert header.tensor_bytes < models["llama.cpp"].stat().st_size


def test_the_table_of_tensor_types_is_that_of_gguf() -> None:
    import gguf

    for number, sizes in TENSOR_BLOCKS.items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == sizes


def test_what_llama_cpp_logs_goes_to_the_file_and_not_to_stderr(
    models: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log_to(tmp_path / "llama.log")
    try:
        open_engine(locate_model(models["llama.cpp"]), threads=1).close()
    finally:
        log_to(None)
    assert "llama" in (tmp_path / "llama.log").read_text()
    assert log_lines()
    assert capfd.readouterr() == ("", "")


def test_a_float32_file_gets_a_float32_cache_unless_asked(models: dict[str, Path]) -> None:
    for asked, expected in ((None, "f32"), ("f16", "f16")):
        opened = LlamaCppEngine(models["llama.cpp"], threads=1, kv_precision=asked)  # type: ignore[arg-type]
        assert opened.kv_precision == expected
        opened.append([1, 2, 3])
        opened.close()


def test_a_checkpoint_with_a_missing_weight_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "lacking"
    shutil.copytree(tiny_checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        open_engine(locate_model(folder), threads=1)


def test_a_truncated_checkpoint_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_checkpoint, folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut"):
        open_engine(locate_model(folder), threads=1)


def test_an_engine_refuses_a_model_of_another_kind(models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="torch engine doesn't run a gguf model"):
        open_engine(locate_model(models["llama.cpp"]), engine="torch")
    with pytest.raises(InputError, match="unknown; choose one of"):
        open_engine(locate_model(models["llama.cpp"]), engine="tensorflow")
    with pytest.raises(InputError, match="threads"):
        open_engine(locate_model(models["llama.cpp"]), threads=0)


def test_a_missing_package_names_the_extra_to_install() -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgestill\[gguf\]'"):
        require("no_such_package_here", engine="llama.cpp", extra="gguf")


def test_a_model_argument_finds_every_kind(models: dict[str, Path], tmp_path: Path) -> None:
    assert locate_model(models["torch"]).kind == "transformers"
    assert locate_model(models["onnxruntime"]).kind == "onnx"
    assert locate_model(models["llama.cpp"]).kind == "gguf"
    assert locate_model(str(models["llama.cpp"].parent)).path == models["llama.cpp"]
    bundle = tmp_path / "bundle"
    shutil.copytree(models["llama.cpp"].parent, bundle / "artifacts" / "gguf-f32")
    (bundle / "manifest.json").write_text(json.dumps({}))
    found = locate_model(f"{bundle}#gguf-f32")
    assert found.path == bundle / "artifacts" / "gguf-f32" / "model.gguf"
    assert found.artifact is not None
    assert found.artifact.precision == "f32"
    assert str(found) == f"{bundle}#gguf-f32"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nowhere", "no such model"),
        ("bundle", r"name one: .*bundle#gguf-f32"),
        ("bundle#onnx-int4", "it holds gguf-f32"),
        ("bundle#..", "it holds gguf-f32"),
        ("bundle#../../etc", "it holds gguf-f32"),
        ("empty", "no model in this folder"),
        ("empty#x", "not a bundle"),
        ("file.txt", "suffix '.txt'"),
    ],
)
def test_an_unusable_model_argument_is_refused_in_one_line(
    text: str, reason: str, models: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(models["llama.cpp"].parent, tmp_path / "bundle" / "artifacts" / "gguf-f32")
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(InputError, match=reason) as caught:
        locate_model(f"{tmp_path}/{text}")
    assert "\n" not in str(caught.value)
