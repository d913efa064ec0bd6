"""The hard cases of the parity check: how they are planned, and that each finds a fault that others miss."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgestill.artifact import Artifact, Checkpoint
from edgestill.export import export_checkpoint
from edgestill.export.parity import check_parity
from edgestill.export.parity_cases import (
    BOUNDARY_POSITIONS,
    MAX_REFERENCE_BYTES,
    Case,
    HardIds,
    Model,
    RopeBoundary,
    plan_cases,
    rope_boundary,
)
from edgestill.export.parity_reference import Reference, reference_logits
from edgestill.results import Parity
from edgestill.runtime.engines import open_engine
from edgestill.runtime.engines.llama_cpp import LlamaCppEngine
from edgestill.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgestill.runtime.model_source import locate_model

gguf = pytest.importorskip("gguf")

TEXTS = [list(range(20, 60)), list(range(100, 130))]
HARD = HardIds(tuple(tuple(range(10, 60)) for _ in range(14)), (0, 1, 2))
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "rope_theta": 10000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + index / 10 for index in range(8)],
    "long_factor": [1.5 + 2 * index for index in range(8)],
}


@pytest.fixture(scope="module")
def long_phi3(write_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Phi-3 whose original context, 256, is a context that llama.cpp can be opened with."""
    sizes = {"original_max_position_embeddings": 256, "max_position_embeddings": 512}
    folder = tmp_path_factory.mktemp("long-phi3")
    return write_checkpoint(folder, architecture="phi3", tied=False, rope_parameters=dict(LONGROPE), **sizes)


@pytest.fixture(scope="module")
def references() -> Any:
    """Return references by checkpoint, each computed once."""
    known: dict[Path, Reference] = {}

    def reference(checkpoint: Path) -> Reference:
        if checkpoint not in known:
            known[checkpoint] = reference_logits(Checkpoint.open(checkpoint), TEXTS)
        return known[checkpoint]

    yield reference
    for one in known.values():
        one.close()


def check(artifact: Artifact, reference: Reference) -> Parity:
    return check_parity(artifact, reference, min_top1_agreement=0, max_kl=100)


def failing(result: Parity) -> set[str]:
    return {case.name for case in result.cases if case.passed is False}


def export(checkpoint: Path, out: Path, format: str = "onnx") -> Artifact:
    precision = {"onnx": "fp32", "gguf": "f32"}[format]
    return export_checkpoint(Checkpoint.open(checkpoint), format, precision, out)  # type: ignore[arg-type]


def change_rows(artifact: Artifact, name: str, rows: Sequence[int] | slice) -> Artifact:
    """Turn some rows of a stored matrix of an ONNX file around."""
    tensor = ir.load(artifact.folder / artifact.entry).graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    changed = tensor.numpy().copy()
    changed[rows] = -changed[rows]
    with (artifact.folder / f"{artifact.entry}.data").open("r+b") as file:
        file.seek(tensor.offset or 0)
        file.write(changed.tobytes())
    return artifact


def change_tensor(artifact: Artifact, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Artifact:
    """Change a float32 tensor of a GGUF file in place."""
    found = next(tensor for tensor in gguf.GGUFReader(artifact.model_path).tensors if tensor.name == name)
    with artifact.model_path.open("r+b") as file:
        file.seek(int(found.data_offset))
        file.write(change(np.array(found.data)).astype(np.float32).tobytes())
    return artifact


@pytest.mark.parametrize("format", ["onnx", "gguf"])
@pytest.mark.parametrize("kind", ["long_phi3", "tiny_phi3"])
def test_a_model_with_longrope_is_compared_on_both_sides_of_its_boundary(
    kind: str, format: str, references: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    checkpoint = request.getfixturevalue(kind)
    result = check(export(checkpoint, tmp_path, format), references(checkpoint))
    assert result.passed, result.reasons
    rows = {case.name: case for case in result.cases}
    assert rows["rope-boundary"].positions == 34
    assert ("llama.cpp session" in rows["rope-boundary"].note) == (format == "gguf")
    # No session of llama.cpp is within an original context of 64: texts that are longer stand for the others.
    assert bool(rows["held-out"].note) == (format == "gguf" and kind == "tiny_phi3")
    assert all(case.positions for case in result.cases)


@pytest.mark.parametrize("format", ["onnx", "gguf"])
def test_a_model_with_llama3_scaling_is_compared_across_its_original_context(
    format: str, write_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "llama3", rope_parameters=dict(LLAMA3))
    with reference_logits(Checkpoint.open(checkpoint), TEXTS) as reference:
        result = check(export(checkpoint, tmp_path, format), reference)
    assert result.passed, result.reasons
    assert result.cases[-1].positions == 34
    assert result.cases[-1].note == "llama3, original context 128"


def test_rotary_factors_that_are_wrong_beyond_the_boundary_are_found_there_alone(
    long_phi3: Path, references: Any, tmp_path: Path
) -> None:
    onnx = change_rows(export(long_phi3, tmp_path), "rotary.cos", slice(256, None))
    assert failing(check(onnx, references(long_phi3))) == {"rope-boundary"}
    written = change_tensor(
        export(long_phi3, tmp_path, "gguf"), "rope_factors_long.weight", lambda factors: factors * 2
    )
    assert failing(check(written, references(long_phi3))) == {"rope-boundary"}


def test_a_wrong_embedding_of_a_special_token_is_found(tiny_qwen2: Path, references: Any, tmp_path: Path) -> None:
    broken = change_rows(export(tiny_qwen2, tmp_path), "embedding.weight", [3])
    assert failing(check(broken, references(tiny_qwen2))) == {"special-tokens", "vocabulary"}


def test_a_wrong_embedding_of_a_token_that_no_text_holds_is_found(
    tiny_qwen2: Path, references: Any, tmp_path: Path
) -> None:
    reference = references(tiny_qwen2)
    others = [case for case in reference.cases if case.name != "vocabulary"]
    used = {token for case in others for run in case.runs for token in run.text}
    unused = max(set(range(reference.vocab_size)) - used)
    broken = change_rows(export(tiny_qwen2, tmp_path), "embedding.weight", [unused])
    assert failing(check(broken, reference)) == {"vocabulary"}


def test_learned_positions_that_are_wrong_far_out_are_found(tiny_gpt2: Path, references: Any, tmp_path: Path) -> None:
    broken = change_rows(export(tiny_gpt2, tmp_path), "positions.weight", slice(200, None))
    found = failing(check(broken, references(tiny_gpt2)))
    assert "long" in found
    assert "held-out" not in found


@pytest.mark.parametrize(("precision", "forgotten"), [("fp32", 1), ("int4", 8)])
def test_a_kv_cache_that_is_off_after_a_rewind_is_found(
    precision: str,
    forgotten: int,
    tiny_checkpoint: Path,
    references: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rewind = OnnxRuntimeEngine.rewind

    def careless(self: OnnxRuntimeEngine, position: int) -> None:
        rewind(self, min(position + forgotten, self.position) if position else 0)

    monkeypatch.setattr(OnnxRuntimeEngine, "rewind", careless)
    artifact = replace(export(tiny_checkpoint, tmp_path), precision=precision)
    result = check(artifact, references(tiny_checkpoint))
    assert failing(result) == {"chunks"}
    assert result.reasons[0].startswith("chunks: in pieces, after rewinds, ")


def test_a_prompt_length_that_goes_wrong_is_found(
    tiny_checkpoint: Path, references: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = OnnxRuntimeEngine.append

    def careless(self: OnnxRuntimeEngine, token_ids: Sequence[int]) -> np.ndarray:
        return append(self, token_ids) + np.float32(len(token_ids) == 17)

    monkeypatch.setattr(OnnxRuntimeEngine, "append", careless)
    assert failing(check(export(tiny_checkpoint, tmp_path), references(tiny_checkpoint))) == {"lengths"}


@pytest.mark.parametrize("format", ["onnx", "gguf"])
def test_a_window_that_llama_cpp_ignores_is_announced_and_the_text_before_it_compared(
    format: str, write_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "phi3", architecture="phi3", tied=False, sliding_window=48)
    with reference_logits(Checkpoint.open(checkpoint), TEXTS) as reference:
        result = check(export(checkpoint, tmp_path, format), reference)
    assert result.passed, result.reasons
    long = next(case for case in result.cases if case.name == "long")
    assert long.positions == (48 if format == "gguf" else 256)
    assert ("sliding window: from token 48 on" in long.note) == (format == "gguf")


def test_a_quantised_file_is_not_refused_for_what_hard_texts_do_to_it(
    tiny_checkpoint: Path, references: Any, tmp_path: Path
) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "onnx", "int4", tmp_path)
    result = check(artifact, references(tiny_checkpoint))
    assert result.passed, result.reasons
    vocabulary = next(case for case in result.cases if case.name == "vocabulary")
    assert (vocabulary.max_abs_diff.value or 0) > 0.1


def test_a_float32_gguf_is_compared_with_a_float32_cache(tiny_checkpoint: Path, tmp_path: Path) -> None:
    engine = open_engine(locate_model(export(tiny_checkpoint, tmp_path, "gguf").model_path))
    assert isinstance(engine, LlamaCppEngine)
    assert engine.kv_precision == "f32"
    engine.close()


def test_limits_that_the_engine_cannot_meet_are_told(tiny_gemma2: Path, references: Any, tmp_path: Path) -> None:
    result = check(export(tiny_gemma2, tmp_path, "gguf"), references(tiny_gemma2))
    assert result.passed, result.reasons
    assert "float32" in result.notes[0]


def test_a_reference_without_tokenizer_still_checks_what_needs_none(tiny_checkpoint: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(tiny_checkpoint, tmp_path / "bare")
    for file in bare.glob("*token*"):
        file.unlink()
    with reference_logits(Checkpoint.open(bare), TEXTS) as reference:
        result = check(export(bare, tmp_path), reference)
    assert result.passed, result.reasons
    assert result.tokenizer is None
    not_run = {case.name: case.note for case in result.cases if case.passed is None}
    assert not_run.pop("rope-boundary").startswith("config.json has no rotary scaling")
    assert not_run == {name: "the reference has no tokenizer" for name in ("unicode", "special-tokens")}


def test_a_gguf_file_can_be_the_reference_of_one_made_from_it(long_phi3: Path, tmp_path: Path) -> None:
    from edgestill.quantize import quantize_artifact

    source = export(long_phi3, tmp_path, "gguf")
    with reference_logits(source.model_path, TEXTS) as reference:
        assert check(source, reference).max_abs_diff.value == 0
        result = check(quantize_artifact(source, "q8_0", tmp_path), reference)
    assert result.passed, result.reasons
    assert result.cases[-1].note == "the reference is a GGUF file, which doesn't tell where one is"
    assert result.tokenizer is not None
    assert result.tokenizer.ids_equal == result.tokenizer.texts


def by_name(cases: Sequence[Case]) -> dict[str, Case]:
    return {case.name: case for case in cases}


def test_every_special_token_stands_between_ordinary_ones_and_rows_are_spread_evenly() -> None:
    cases = by_name(plan_cases("held-out", TEXTS, HARD, Model(1000, 512, 1 << 20)))
    special = cases["special-tokens"].runs[0].text
    assert special[::2] == (0, 1, 2)
    assert all(token >= 10 for token in special[1::2])
    rows = [token for run in cases["vocabulary"].runs for token in run.text]
    assert rows[0] == 0
    assert rows[-1] == 999
    assert max(np.diff(rows)) <= 2
    many = by_name(plan_cases("held-out", TEXTS, replace(HARD, special=tuple(range(3000))), Model(9000, 512, 1)))
    kept = [token for run in many["special-tokens"].runs for token in run.text[::2]]
    assert 400 < len(kept) <= 512
    assert kept[-1] > 2990


def test_lengths_are_those_around_the_tiles_and_chunks_rewind() -> None:
    cases = by_name(plan_cases("held-out", TEXTS, HARD, Model(1000, 4096, 1 << 20)))
    lengths = [length for _, length in cases["lengths"].runs[0].pieces]
    assert {1, 2, 3, 15, 16, 17, 31, 32, 33, 127, 128, 129, 511, 512, 513} <= set(lengths)
    pieces = cases["chunks"].runs[0].pieces
    assert pieces[:4] == ((0, 1), (1, 7), (8, 64), (72, 33))
    backwards = [start for (before, length), (start, _) in itertools.pairwise(pieces) if start < before + length]
    assert backwards == [40, 8, 64, 0]
    assert len(cases["long"].runs[0].text) == 1024


@given(
    vocab_size=st.integers(2, 260_000),
    context=st.integers(8, 140_000),
    weights=st.integers(1000, 1 << 36),
    held_out=st.lists(st.integers(0, 3000), max_size=6),
    original=st.integers(4, 10_000),
    kind=st.sampled_from(["llama3", "longrope", None]),
)
@settings(max_examples=150, deadline=None)
def test_what_a_reference_keeps_is_bounded_whatever_the_model(
    vocab_size: int, context: int, weights: int, held_out: list[int], original: int, kind: str | None
) -> None:
    boundary = RopeBoundary(kind, original) if kind and original < context else None
    model = Model(vocab_size, context, weights, boundary)
    cases = plan_cases("held-out", [[1] * count for count in held_out], HARD, model)
    whole = {run.text for case in cases for run in case.runs if case.name != "rope-boundary"}
    kept = sum(map(len, whole)) + 2 * sum(run.positions for run in cases[-1].runs)
    extra = 0 if boundary is None or not boundary.always_beyond else kept
    assert (kept - extra) * 4 * vocab_size <= MAX_REFERENCE_BYTES + 100 * 4 * vocab_size
    assert all(len(run.text) <= context for case in cases for run in case.runs)
    assert all(sum(piece) <= len(run.text) for case in cases for run in case.runs for piece in run.pieces)
    hard = sum(len(run.text) for case in cases[1:5] for run in case.runs)
    assert boundary is not None or hard <= max(96, model.affordable) + 64
    assert all(case.runs or case.skipped for case in cases[1:] if any(held_out))
    assert len(cases[-1].runs) == 0 or len(cases[-1].runs[0].text) <= BOUNDARY_POSITIONS


def test_a_boundary_that_costs_too_much_is_left_out_and_said() -> None:
    far = Model(32_000, 131_072, 1 << 20, RopeBoundary("llama3", 8192))
    assert "takes 8,208 positions, the check runs 4,160" in plan_cases("held-out", TEXTS, HARD, far)[-1].skipped
    large = Model(32_000, 131_072, 15_000_000_000, RopeBoundary("longrope", 4096))
    assert "the check runs 106 of a model of this size" in plan_cases("held-out", TEXTS, HARD, large)[-1].skipped


def test_the_boundary_is_read_as_transformers_reads_it() -> None:
    config = {"max_position_embeddings": 131072, "rope_scaling": {"type": "su"}}
    assert rope_boundary(config) is None
    assert rope_boundary({**config, "original_max_position_embeddings": 4096}) == RopeBoundary("su", 4096)
    assert rope_boundary({"max_position_embeddings": 131072, "rope_parameters": LLAMA3}) == RopeBoundary("llama3", 128)
    assert rope_boundary({"max_position_embeddings": 128, "rope_parameters": LLAMA3}) is None
    assert rope_boundary({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2}}) is None
