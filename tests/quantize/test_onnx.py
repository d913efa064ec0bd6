"""int8 and int4 ONNX: the operators' arithmetic, how near they stay, and what travels along."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgestill.artifact import Artifact, Checkpoint
from edgestill.errors import ModelFileError, UnsupportedError
from edgestill.export.onnx import export_onnx
from edgestill.quantize.onnx import quantize_onnx
from edgestill.runtime.divergence import kl_divergence
from edgestill.runtime.engines import open_engine
from edgestill.runtime.model_source import locate_model
from edgestill.weight_blocks import GRIDS, block_size, dequantize_rows, quantize_rows


@pytest.fixture(scope="module")
def tiny_fp32(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path_factory.mktemp("tiny"))


def logits(artifact: Artifact, ids: list[int]) -> np.ndarray:
    engine = open_engine(locate_model(artifact.folder), threads=1)
    return engine.logits(ids)


def divergence(source: Artifact, quantized: Artifact, ids: list[int]) -> float:
    return float(kl_divergence(logits(source, ids), logits(quantized, ids)).mean())


def packed_weights(artifact: Artifact) -> dict[str | None, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    initializers = ir.load(artifact.folder / artifact.entry).graph.initializers.values()
    arrays = {value.name: value.const_value.numpy() for value in initializers if value.const_value is not None}
    return {name: array for name, array in arrays.items() if array.dtype == np.uint8}


@given(
    rows=st.integers(1, 5),
    inputs=st.integers(1, 100),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([32, 64]),
    scale=st.sampled_from([1e-6, 0.02, 1.0, 1e6]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_weight_is_off_by_at_most_half_a_step_of_its_block(
    rows: int, inputs: int, bits: int, block: int, scale: float, seed: int
) -> None:
    weights = (np.random.default_rng(seed).standard_normal((rows, inputs)) * scale).astype(np.float32)
    quantized = quantize_rows(weights, bits, block)
    assert quantized.packed.shape == (rows, -(-inputs // block), block * bits // 8)
    error = np.abs(dequantize_rows(quantized, bits, inputs) - weights)
    largest = np.abs(weights).max()
    # With a fixed zero point the positive end has one step less than the negative: it may lose a whole step.
    assert error.max() <= largest / (1 << (bits - 1)) * 1.7


@pytest.mark.parametrize(
    ("grid", "inputs", "expected"),
    [
        ("int4", 64, 32),
        ("int4_g128", 1536, 128),
        ("int4_g128", 576, 128),  # 64 zeros more: a ninth
        ("int4_g128", 172, 64),  # 128 would pad it by a half, 64 by 20
        ("int4_g128", 64, 64),
        ("int4_g128", 80, 32),
        ("int8", 576, 64),
        ("int8", 80, 32),
    ],
)
def test_a_block_is_halved_while_it_pads_too_much(grid: str, inputs: int, expected: int) -> None:
    assert block_size(GRIDS[grid], inputs) == expected


def test_a_block_of_zeros_stays_zeros() -> None:
    for bits in (4, 8):
        quantized = quantize_rows(np.zeros((2, 40), np.float32), bits, 32)
        assert not dequantize_rows(quantized, bits, 40).any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_block_with_a_value_that_is_no_number_has_such_a_scale(bad: float, bits: int) -> None:
    weights = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float32)
    weights[1, 40] = bad
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(quantize_rows(weights, bits, 32).scales)
    assert finite.tolist() == [[True] * 3, [True, False, True], [True] * 3]


@pytest.mark.parametrize("block", [32, 64, 128])
def test_eight_roundings_find_nearly_what_hundred_find(block: int) -> None:
    weights = np.random.default_rng(0).standard_normal((200, block)).astype(np.float32)
    found = weights - dequantize_rows(quantize_rows(weights, 4, block), 4, block)
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=1)[:, None], axis=1)
    best = np.full(len(weights), np.inf)
    for offset in np.linspace(-2, 1.2, 100):
        rounded = np.clip(np.rint(weights * (offset - 8) / largest), -8, 7)
        scales = (rounded * weights).sum(axis=1) / (rounded * rounded).sum(axis=1)
        best = np.minimum(best, np.square(weights - rounded * scales[:, None]).sum(axis=1))
    assert np.square(found).sum() <= 1.01 * best.sum()


def test_the_scale_search_is_never_worse_than_onnxruntimes_round_to_nearest() -> None:
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    weights = np.random.default_rng(0).standard_normal((32, 128)).astype(np.float32)
    packed = np.zeros((32, 4, 16), np.uint8)
    scales, zero_points = np.zeros(32 * 4, np.float32), np.zeros((32, 2), np.uint8)
    quantize_matmul_4bits(packed, np.ascontiguousarray(weights.T), scales, zero_points, 32, 32, 128, True)
    theirs = dequantize_rows(type(quantize_rows(weights, 4, 32))(packed, scales.reshape(32, 4)), 4, 128)
    ours = dequantize_rows(quantize_rows(weights, 4, 32), 4, 128)
    assert np.square(theirs - weights).mean() < 0.02  # the layout is understood
    assert np.square(ours - weights).mean() < np.square(theirs - weights).mean()


@pytest.mark.parametrize(("precision", "limit"), [("int8", 0.002), ("int4", 0.06), ("int4_g128", 0.1)])
@pytest.mark.parametrize(
    "kind",
    [
        "tiny_checkpoint",
        "tiny_qwen2",
        "tiny_qwen3",
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
def test_a_quantised_file_stays_near_its_source(
    precision: str, limit: float, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = export_onnx(Checkpoint.open(request.getfixturevalue(kind)), "fp32", tmp_path)
    quantized = quantize_onnx(source, precision, tmp_path)
    assert quantized.parent == source.sha256
    assert divergence(source, quantized, list(range(10, 90))) < limit


@pytest.mark.parametrize(("precision", "limit"), [("int8", 0.005), ("int4", 0.2), ("int4_g128", 0.25)])
def test_a_quantised_real_model_stays_near_its_source(
    precision: str, limit: float, shared_data: Path, tmp_path: Path
) -> None:
    import tokenizers

    folder = shared_data / "stories260K-hf"
    text = (shared_data / "tinystories-text" / "tinystories_sample.txt").read_text(encoding="utf-8")[:2500]
    ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:500]
    source = export_onnx(Checkpoint.open(folder), "fp32", tmp_path)
    quantized = quantize_onnx(source, precision, tmp_path)
    assert divergence(source, quantized, ids) < limit
    assert any("172" in note for note in quantized.notes)


def test_a_hidden_size_that_is_no_multiple_of_a_block_works(tmp_path: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=80,
        intermediate_size=100,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "odd")
    source = export_onnx(Checkpoint.open(tmp_path / "odd"), "fp32", tmp_path)
    for precision, limit in (("int8", 0.002), ("int4", 0.06), ("int4_g128", 0.1)):
        quantized = quantize_onnx(source, precision, tmp_path)
        assert divergence(source, quantized, list(range(10, 90))) < limit
        assert any(note.startswith("rows of 80") for note in quantized.notes)


def test_token_by_token_equals_the_whole_prompt(tiny_fp32: Artifact, tmp_path: Path) -> None:
    for precision in ("int8", "int4", "int4_g128"):
        engine = open_engine(locate_model(quantize_onnx(tiny_fp32, precision, tmp_path).folder), threads=1)
        ids = list(range(10, 50))
        whole = engine.logits(ids)
        steps = np.stack([engine.append([token]).copy() for token in ids])
        assert kl_divergence(whole, steps).mean() < 1e-3


def test_a_tied_embedding_is_stored_once_in_8_bits(tiny_fp32: Artifact, tmp_path: Path) -> None:
    artifact = quantize_onnx(tiny_fp32, "int8", tmp_path)
    graph = ir.load(artifact.folder / artifact.entry).graph
    packed = [value for name, value in graph.initializers.items() if name == "embedding.weight.q8"]
    assert [node.op_type for node in packed[0].consumers()] == ["GatherBlockQuantized", "MatMulNBits"]
    assert not any(node.op_type in ("Gather", "MatMul", "FusedMatMul") for node in graph)
    parameters = 384 * 64 + 2 * (64 * 128 + 64 * 64 + 3 * 64 * 160 + 128) + 64
    assert (artifact.folder / "model.onnx.data").stat().st_size < 1.12 * parameters


def test_the_same_source_gives_the_same_bytes(tiny_fp32: Artifact, tmp_path: Path) -> None:
    for precision in ("int8", "int4", "int4_g128"):
        first = quantize_onnx(tiny_fp32, precision, tmp_path / "a")
        second = quantize_onnx(tiny_fp32, precision, tmp_path / "b")
        assert first.sha256 == second.sha256
        assert first.notes == second.notes


def test_tokenizer_and_template_travel(tiny_fp32: Artifact, tmp_path: Path) -> None:
    artifact = quantize_onnx(tiny_fp32, "int4", tmp_path)
    assert sorted(path.name for path in artifact.folder.iterdir()) == sorted(
        path.name for path in tiny_fp32.folder.iterdir()
    )
    for name in ("tokenizer.json", "chat_template.jinja", "genai_config.json"):
        assert (artifact.folder / name).read_bytes() == (tiny_fp32.folder / name).read_bytes()
    assert json.loads((artifact.folder / "artifact.json").read_text())["precision"] == "int4"


def test_what_cannot_be_quantised_is_refused(tiny_fp32: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="int3"):
        quantize_onnx(tiny_fp32, "int3", tmp_path)
    with pytest.raises(UnsupportedError, match="onnx-int8 can't be quantised"):
        quantize_onnx(quantize_onnx(tiny_fp32, "int8", tmp_path), "int4", tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_a_truncated_source_is_an_error_and_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    source = export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path / "source")
    file = source.folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelFileError, match=name):
        quantize_onnx(source, "int8", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("precision", ["int8", "int4", "int4_g128"])
@pytest.mark.parametrize(
    "kind", ["tiny_checkpoint", "tiny_qwen2", "tiny_olmo2", "tiny_phi3", "tiny_gemma2", "tiny_gemma3", "tiny_granite"]
)
def test_exporting_in_blocks_gives_what_quantising_the_fp32_file_gives(
    kind: str, precision: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(request.getfixturevalue(kind))
    quantized = quantize_onnx(export_onnx(checkpoint, "fp32", tmp_path), precision, tmp_path / "quantized")
    exported = export_onnx(checkpoint, precision, tmp_path / "exported")
    packed = [packed_weights(artifact) for artifact in (quantized, exported)]
    assert sorted(packed[0]) == sorted(packed[1])
    for name, array in packed[0].items():
        np.testing.assert_array_equal(array, packed[1][name])
    assert divergence(quantized, exported, list(range(10, 90))) < 2e-3


def test_gpt2_is_exported_in_blocks_with_its_positions_in_float32(tiny_gpt2: Path, tmp_path: Path) -> None:
    source = export_onnx(Checkpoint.open(tiny_gpt2), "fp32", tmp_path)
    exported = export_onnx(Checkpoint.open(tiny_gpt2), "int8", tmp_path)
    assert divergence(source, exported, list(range(10, 90))) < 0.002
    assert ir.load(exported.folder / exported.entry).graph.initializers["positions.weight"].dtype == ir.DataType.FLOAT
