"""What may be asked of an engine: the answers stay, the memory changes, what an engine lacks is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgestill.artifact import Checkpoint
from edgestill.errors import InputError
from edgestill.export import export_checkpoint
from edgestill.runtime.engine import AccountsForMemory, Engine, MemoryPart
from edgestill.runtime.engine_options import KV_BYTES, EngineOptions
from edgestill.runtime.engines import open_engine
from edgestill.runtime.model_source import locate_model
from edgestill.runtime.session import Session, read_tokenizer

IDS = [40, 77, 12, 300, 5, 5, 201, 44, 90, 91, 150, 33]


@pytest.fixture(scope="module")
def models(write_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama with heads of 32 (a block of ggml's) for each engine."""
    folder = tmp_path_factory.mktemp("options")
    checkpoint = write_checkpoint(folder / "checkpoint", num_attention_heads=2, num_key_value_heads=1)
    source = Checkpoint.open(checkpoint)
    return {
        "torch": checkpoint,
        "onnxruntime": export_checkpoint(source, "onnx", "fp32", folder).model_path,
        "llama.cpp": export_checkpoint(source, "gguf", "f16", folder).model_path,
        "llama.cpp q8_0": export_checkpoint(source, "gguf", "q8_0", folder).model_path,
    }


def opened(path: Path, options: EngineOptions) -> Engine:
    return open_engine(locate_model(path), threads=1, context_length=256, options=options)


def held(engine: Engine, kind: str) -> MemoryPart:
    assert isinstance(engine, AccountsForMemory)
    return next(part for part in engine.memory() if part.kind == kind)


@pytest.mark.parametrize("precision", ["f32", "f16", "q8_0", "q4_0"])
def test_llama_cpp_keeps_its_cache_in_the_asked_precision(precision: str, models: dict[str, Path]) -> None:
    reference = opened(models["llama.cpp"], EngineOptions()).logits(IDS)
    engine = opened(models["llama.cpp"], EngineOptions(kv_precision=precision))  # type: ignore[arg-type]
    assert isinstance(engine, AccountsForMemory)
    assert engine.kv_precision == engine.settings["kv_precision"] == precision
    # 2 layers, keys and values, one head of 32
    expected = 2 * 2 * 32 * 256 * KV_BYTES[precision]
    assert held(engine, "kv_cache").allocated == pytest.approx(expected, abs=0.006 * 2**20)
    apart = np.abs(engine.logits(IDS) - reference).max() / np.abs(reference).max()
    assert apart < {"f32": 0.01, "f16": 1e-6, "q8_0": 0.02, "q4_0": 0.2}[precision]
    assert (apart == 0) == (precision == "f16")
    engine.close()


def test_a_head_that_fills_no_block_gets_no_quantised_cache(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path).model_path  # heads of 16
    with pytest.raises(InputError, match=r"can't make a KV cache in q8_0 .*; use f16"):
        opened(model, EngineOptions(kv_precision="q8_0"))


def test_without_mmap_llama_cpp_reads_the_weights_into_memory(models: dict[str, Path]) -> None:
    answers = {}
    for mmap in (True, False):
        engine = opened(models["llama.cpp"], EngineOptions(mmap=mmap))
        assert isinstance(engine, AccountsForMemory)
        assert engine.settings["mmap"] is mmap
        assert any(part.kind == "weights" for part in engine.memory()) is not mmap
        answers[mmap] = engine.logits(IDS)
        engine.close()
    assert np.array_equal(answers[True], answers[False])


def test_onnxruntime_answers_the_same_without_arena_and_huge_pages(models: dict[str, Path]) -> None:
    reference = opened(models["onnxruntime"], EngineOptions()).logits(IDS)
    engine = opened(models["onnxruntime"], EngineOptions(arena=False, huge_pages=False))
    assert isinstance(engine, AccountsForMemory)
    assert engine.settings == {"arena": False, "huge_pages": False, "kv_precision": "f32"}
    assert np.array_equal(engine.logits(IDS), reference)
    assert held(engine, "weights").allocated is None


def test_onnxruntime_tells_what_it_copied_where_that_was_traced(models: dict[str, Path]) -> None:
    engine = opened(models["onnxruntime"], EngineOptions(trace=True))
    part = held(engine, "weights")
    if part.allocated is None:
        pytest.skip("this onnxruntime has no callback for its log")
    assert 100_000 < part.allocated < 2 * (engine.weights_bytes or 0)
    assert held(opened(models["onnxruntime"], EngineOptions()), "weights").allocated is None


@pytest.mark.skipif(sys.platform != "linux", reason="pagemap is Linux's")
@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_the_cache_of_keys_and_values_is_counted_by_its_addresses(name: str, models: dict[str, Path]) -> None:
    engine = opened(models[name], EngineOptions())
    before = (
        [part for part in engine.memory() if part.kind == "kv_cache"] if isinstance(engine, AccountsForMemory) else []
    )
    engine.append(IDS)
    after = held(engine, "kv_cache")
    positions = 256 if name == "onnxruntime" else len(IDS)
    assert after.allocated == 2 * 2 * 32 * positions * 4
    assert before[0].allocated == (after.allocated if name == "onnxruntime" else 0)
    assert after.resident is not None
    assert 0 < after.resident <= after.allocated


def test_torch_tells_its_parameters(models: dict[str, Path]) -> None:
    engine = opened(models["torch"], EngineOptions())
    assert held(engine, "weights").allocated == engine.weights_bytes


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "llama.cpp"])
def test_a_bare_model_is_opened_and_freed_beside_the_whole_one(name: str, models: dict[str, Path]) -> None:
    engine = opened(models[name], EngineOptions())
    reference = engine.logits(IDS)
    assert isinstance(engine, AccountsForMemory)
    close = engine.open_bare()
    assert (close is None) == (name == "torch")
    if close is not None:
        close()
    assert np.array_equal(engine.logits(IDS), reference)
    engine.close()


@pytest.mark.parametrize(
    ("name", "options", "lacks", "able"),
    [
        ("torch", EngineOptions(mmap=False), "mmap", "llama.cpp"),
        ("onnxruntime", EngineOptions(kv_precision="f16"), "kv_precision", "llama.cpp"),
        ("onnxruntime", EngineOptions(mmap=False), "mmap", "llama.cpp"),
        ("llama.cpp", EngineOptions(arena=False), "arena", "onnxruntime"),
        ("llama.cpp", EngineOptions(huge_pages=False), "huge_pages", "onnxruntime"),
    ],
)
def test_an_option_that_the_engine_lacks_is_refused(
    name: str, options: EngineOptions, lacks: str, able: str, models: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=f"the {name} engine has no option {lacks} .*leave it out: only {able} has it"):
        opened(models[name], options)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="kv_precision 'q2_k' is unknown; choose one of f32, f16, q8_0, q4_0"):
        EngineOptions(kv_precision="q2_k")  # type: ignore[arg-type]


def test_a_session_takes_options_and_a_tokenizer_that_was_read_before(models: dict[str, Path]) -> None:
    source = locate_model(models["onnxruntime"])
    tokenizer = read_tokenizer(source)
    assert tokenizer is not None
    with Session.open(source, threads=1, options=EngineOptions(arena=False), tokenizer=tokenizer) as session:
        assert session.tokenizer is tokenizer
        assert isinstance(session.engine, AccountsForMemory)
        assert session.engine.settings["arena"] is False
    assert read_tokenizer(locate_model(models["llama.cpp"])) is None
