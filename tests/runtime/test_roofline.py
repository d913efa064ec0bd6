"""Bytes per token against an independent count, and when a share of the ceiling is stated."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from edgestill.artifact import Checkpoint
from edgestill.errors import StageError
from edgestill.export import export_checkpoint
from edgestill.figure import Figure
from edgestill.runtime import bandwidth
from edgestill.runtime.arithmetic import float32_rate
from edgestill.runtime.bandwidth import last_level_cache, read_bandwidth
from edgestill.runtime.bench import bench_model
from edgestill.runtime.bench_options import BenchOptions
from edgestill.runtime.model_source import locate_model
from edgestill.runtime.operations import Operations, gguf_operations, onnx_operations
from edgestill.runtime.roofline import prompt_ceiling, roofline
from edgestill.runtime.traffic import gguf_traffic, onnx_traffic

gguf = pytest.importorskip("gguf")
onnx = pytest.importorskip("onnx")

RATE = Figure.median([100.0] * 6, "tokens/s", "test")


@pytest.fixture(scope="module", params=["tiny_checkpoint", "tiny_qwen2"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """Tied, and with a head of its own."""
    return Path(request.getfixturevalue(request.param))


@pytest.mark.parametrize("precision", ["f32", "f16", "q8_0"])
def test_gguf_bytes_equal_those_of_the_library(checkpoint: Path, precision: str, tmp_path: Path) -> None:
    path = export_checkpoint(Checkpoint.open(checkpoint), "gguf", precision, tmp_path).model_path
    reader = gguf.GGUFReader(path)
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in reader.tensors}
    shapes = {tensor.name: [int(size) for size in tensor.shape] for tensor in reader.tensors}
    embedding = sizes["token_embd.weight"]
    row = embedding // shapes["token_embd.weight"][1]
    expected = sum(sizes.values()) + row - (embedding if "output.weight" in sizes else 0)
    found = gguf_traffic(path, 2)
    assert found.weights == expected
    fields = {key: field.contents() for key, field in reader.fields.items()}
    architecture = fields["general.architecture"]
    heads, layers = fields[f"{architecture}.attention.head_count_kv"], fields[f"{architecture}.block_count"]
    size = fields[f"{architecture}.embedding_length"] // fields[f"{architecture}.attention.head_count"]
    assert found.cached == 2 * layers * heads * size * 2
    assert found.at(10) == found.weights + 10 * found.cached


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", "int4_g128"])
def test_onnx_bytes_equal_an_independent_count(checkpoint: Path, precision: str, tmp_path: Path) -> None:
    path = locate_model(export_checkpoint(Checkpoint.open(checkpoint), "onnx", precision, tmp_path).model_path).path
    graph = onnx.load(path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {
        name for node in graph.node if node.op_type not in ("Gather", "GatherBlockQuantized") for name in node.input
    }
    whole = sum(array.nbytes for name, array in arrays.items() if name in products)
    rows = sum(
        arrays[name].nbytes / len(arrays[name])
        for node in graph.node
        if node.op_type in ("Gather", "GatherBlockQuantized")
        for name in node.input
        if name in arrays and arrays[name].ndim > 1
    )
    found = onnx_traffic(path)
    assert found is not None
    assert found.weights == pytest.approx(whole + rows, rel=0.01)
    item = 2 if precision == "fp16" else 4
    pasts = [value for value in graph.input if value.name.startswith("past_key_values.")]
    dims = [value.type.tensor_type.shape.dim for value in pasts]
    assert found.cached == sum(dim[1].dim_value * dim[3].dim_value * item for dim in dims) > 0


def test_a_fused_attention_s_keys_and_values_are_counted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    del tiny_checkpoint
    writer = gguf.GGUFWriter(tmp_path / "fused.gguf", "phi3")
    for name, shape in (
        ("token_embd.weight", (10, 8)),
        ("output.weight", (10, 8)),
        ("blk.0.attn_qkv.weight", (16, 8)),  # 8 rows of queries, 4 of keys, 4 of values
        ("blk.0.attn_output.weight", (8, 8)),
    ):
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gguf_traffic(tmp_path / "fused.gguf", 4)
    assert found.cached == 8 * 4
    assert found.weights == (80 + 128 + 64 + 8) * 4


def test_a_share_is_stated_only_beyond_the_last_cache(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path).model_path
    source = locate_model(path)
    inside = roofline(source, RATE, threads=1, positions=16, cache_bytes=1 << 30)
    assert inside is not None
    assert inside.share_of_ceiling.value is None
    assert "lie in the last cache of 1073.7 MB" in inside.share_of_ceiling.source
    beyond = roofline(source, RATE, threads=1, positions=16, cache_bytes=1)
    assert beyond is not None
    bandwidth, moved = beyond.read_bandwidth.value, beyond.bytes_per_token.value
    assert bandwidth is not None
    assert moved is not None
    assert beyond.ceiling_tokens_per_second.value == pytest.approx(bandwidth / moved)
    assert beyond.share_of_ceiling.value == pytest.approx(100 * moved / bandwidth)
    assert beyond.share_of_ceiling.basis == "derived"
    assert "above 1" not in beyond.share_of_ceiling.source
    fast = roofline(source, Figure(value=1e12, unit="tokens/s", n=1), threads=1, positions=16, cache_bytes=1)
    assert fast is not None
    assert "above 1: the device read slower" in fast.share_of_ceiling.source
    assert roofline(locate_model(tiny_checkpoint), RATE, threads=1, positions=16) is None


def test_bandwidth_that_can_t_be_measured_leaves_no_ceiling(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise StageError("measuring read bandwidth: the worker was killed by SIGKILL after nothing")

    monkeypatch.setattr(bandwidth, "run_in_worker", dies)
    path = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path).model_path
    found = roofline(locate_model(path), RATE, threads=1, positions=16, cache_bytes=1)
    assert found is not None
    assert found.read_bandwidth.value is None
    assert "killed by SIGKILL" in found.read_bandwidth.source
    assert found.ceiling_tokens_per_second.value is None
    assert found.share_of_ceiling.value is None


def test_bandwidth_is_measured_and_the_cache_read_from_the_system(tmp_path: Path) -> None:
    found = read_bandwidth(2, memory_bytes=64 << 20)
    assert found.value is not None
    assert 1e8 < found.value < 1e13
    assert "8 MB by 2 threads" in found.source
    as_read = read_bandwidth(1, cache_bytes=1 << 30, read_bytes=5e6)
    assert "over 5 MB by 1 threads" in as_read.source
    assert "over 67 MB" in read_bandwidth(1, cache_bytes=1 << 20, read_bytes=1e9).source
    assert any(kernel in found.source for kernel in ("float32 matrix by vector", "sum of 64-bit words"))
    for name, kind, size in (
        ("0", "Data", "32K"),
        ("1", "Instruction", "64M"),
        ("2", "Unified", "8M"),
        ("3", "?", "x"),
    ):
        folder = tmp_path / f"index{name}"
        folder.mkdir()
        (folder / "type").write_text(kind + "\n")
        (folder / "size").write_text(size + "\n")
    assert last_level_cache(tmp_path) == 8 << 20
    assert last_level_cache(tmp_path / "none") is None


def test_bench_sets_the_rate_beside_the_ceiling(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    path = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path).model_path
    options = BenchOptions(prompt_tokens=8, new_tokens=4, repetitions=3, warmup=0, roofline=True)
    record = bench_model(path, options)
    assert record.roofline is not None
    traffic = gguf_traffic(path, 2)
    assert record.roofline.bytes_per_token.value == pytest.approx(traffic.at(10))
    assert math.isfinite(record.decode_tokens_per_second.value or math.nan)
    assert record.roofline.prompt is not None
    operations = gguf_operations(path)
    assert operations is not None
    assert record.roofline.prompt.operations_per_token.value == pytest.approx(operations.each(8, 0))


def counted_by_torch(checkpoint: Path, tokens: int) -> int:
    """Return what torch counts for a prompt whose logits are all computed; its attention looks at every position."""
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros((1, tokens), dtype=torch.long))
    return counter.get_total_flops()


@pytest.mark.parametrize("precision", ["f16", "q8_0"])
def test_gguf_operations_equal_torchs_count(checkpoint: Path, precision: str, tmp_path: Path) -> None:
    path = export_checkpoint(Checkpoint.open(checkpoint), "gguf", precision, tmp_path).model_path
    found = gguf_operations(path)
    assert found is not None
    tokens = 24
    everywhere = tokens * (found.per_token + found.per_prompt) + tokens * tokens * found.per_pair
    assert everywhere == counted_by_torch(checkpoint, tokens)
    assert found.integer == (found.per_token if precision == "q8_0" else 0)


@pytest.mark.parametrize(("precision", "integers"), [("fp32", False), ("int8", True), ("int4", True)])
def test_onnx_operations_equal_torchs_count(precision: str, integers: bool, checkpoint: Path, tmp_path: Path) -> None:
    path = locate_model(export_checkpoint(Checkpoint.open(checkpoint), "onnx", precision, tmp_path).model_path).path
    found = onnx_operations(path)
    assert found is not None
    tokens = 24
    assert tokens * found.per_token + tokens * tokens * found.per_pair == counted_by_torch(checkpoint, tokens)
    assert found.per_prompt == 0
    assert found.integer == (found.per_token if integers else 0)


def test_operations_are_the_mean_over_a_prompt() -> None:
    found = Operations(per_token=100, per_prompt=50, per_pair=2, integer=0)
    # Three tokens after four: they look at 5, 6 and 7 positions, themselves among them.
    assert found.each(3, 4) == pytest.approx((3 * 100 + 50 + 2 * (5 + 6 + 7)) / 3)


def test_a_prompt_s_rate_stands_beside_the_device_s_arithmetic(tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifacts = {
        precision: export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", precision, tmp_path).model_path
        for precision in ("f16", "q8_0")
    }
    measured = float32_rate(1)
    assert measured.value is not None
    assert 1e8 < measured.value < 1e14
    assert float32_rate(1) is measured
    floats = prompt_ceiling(locate_model(artifacts["f16"]), RATE, threads=1, tokens=16)
    assert floats is not None
    each = floats.operations_per_token.value
    assert each is not None
    assert floats.ceiling_tokens_per_second.value == pytest.approx(measured.value / each)
    assert floats.share_of_float32_rate.value == pytest.approx(100 * each / measured.value)
    integers = prompt_ceiling(locate_model(artifacts["q8_0"]), RATE, threads=1, tokens=16)
    assert integers is not None
    assert integers.ceiling_tokens_per_second.value is None
    assert "100% of the operations are products of 8-bit integers" in integers.ceiling_tokens_per_second.source
    assert integers.share_of_float32_rate.value == floats.share_of_float32_rate.value
    assert prompt_ceiling(locate_model(tiny_checkpoint), RATE, threads=1, tokens=16) is None
