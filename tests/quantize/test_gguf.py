from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from edgestill.artifact import Artifact, Checkpoint  # noqa: E402
from edgestill.errors import DiskFullError, ModelFileError, StageError, UnsupportedError  # noqa: E402
from edgestill.export import export_checkpoint  # noqa: E402
from edgestill.quantize import artifact_from_path, quantize_artifact  # noqa: E402
from edgestill.quantize import gguf as quantizer  # noqa: E402
from edgestill.quantize.foreign import TENSOR_TYPES  # noqa: E402
from edgestill.runtime.engines.llama_cpp import LlamaCppEngine  # noqa: E402
from edgestill.runtime.gguf_header import TENSOR_BLOCKS, read_gguf_header  # noqa: E402


@pytest.fixture(scope="module")
def source(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f32", tmp_path_factory.mktemp("f32"))


def _dequantised(path: Path) -> dict[str, Any]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize(("precision", "limit"), [("q8_0", 0.01), ("q4_0", 0.15), ("q4_k_m", 0.15)])
def test_a_quantised_file_is_smaller_loads_and_stays_near(
    source: Artifact, tmp_path: Path, precision: str, limit: float
) -> None:
    artifact = quantize_artifact(source, precision, tmp_path)
    assert artifact == Artifact.open(tmp_path / f"gguf-{precision}")
    assert artifact.parent == source.sha256
    assert artifact.size_bytes < source.size_bytes / 2
    exact, rounded = _dequantised(source.model_path), _dequantised(artifact.model_path)
    for name, weights in exact.items():
        error = np.abs(weights - rounded[name].reshape(weights.shape)).max()
        assert error <= limit * np.abs(weights).max(), name
    engine = LlamaCppEngine(artifact.model_path, threads=1)
    try:
        assert np.isfinite(engine.logits([1, 2, 3])).all()
    finally:
        engine.close()


def test_what_the_source_s_notes_say_is_kept(source: Artifact, tmp_path: Path) -> None:
    noted = replace(source, notes=("the tokenizer composes its input",))
    assert quantize_artifact(noted, "q8_0", tmp_path).notes == noted.notes


def test_llama_cpp_s_fallback_is_named_in_the_notes(source: Artifact, tmp_path: Path) -> None:
    (note,) = quantize_artifact(source, "q4_k_m", tmp_path).notes
    assert "15 of 15 matrices in Q5_0" in note
    assert "64, 160 values" in note
    assert "multiple of 256" in note
    assert quantize_artifact(source, "q8_0", tmp_path).notes == ()


def test_the_same_source_gives_the_same_bytes_for_any_number_of_threads(
    source: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quantize_artifact(source, "q4_0", tmp_path / "a")
    monkeypatch.setattr(quantizer, "_threads", lambda: 3)
    assert quantize_artifact(source, "q4_0", tmp_path / "b").sha256 == first.sha256


def test_quantising_twice_is_refused(source: Artifact, tmp_path: Path) -> None:
    once = quantize_artifact(source, "q8_0", tmp_path)
    with pytest.raises(UnsupportedError, match="already quantised"):
        quantize_artifact(once, "q4_0", tmp_path)
    disguised = Artifact(once.folder, "gguf", "f32", once.entry, once.sha256, once.size_bytes)
    with pytest.raises(UnsupportedError, match="Q8_0"):
        quantize_artifact(disguised, "q4_0", tmp_path)


def test_an_unknown_precision_is_refused(source: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="q8_0, q4_0, q4_k_m"):
        quantize_artifact(source, "int4", tmp_path)


def test_a_failing_quantiser_is_an_error_with_its_last_line_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "no-such-architecture")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(StageError, match=r"quantiser stopped with code.*no-such-architecture"):
        quantize_artifact(artifact_from_path(path), "q8_0", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_told_as_one_and_leaves_nothing(
    source: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(quantizer.shutil, "disk_usage", lambda path: full)
    monkeypatch.setattr(quantizer, "_FILE_TYPES", {"q8_0": 99999})
    with pytest.raises(DiskFullError, match="disk full"):
        quantize_artifact(source, "q8_0", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_from_outside_is_described_by_its_own_header(source: Artifact, tmp_path: Path) -> None:
    quantised = quantize_artifact(source, "q4_k_m", tmp_path)
    shutil.copyfile(quantised.model_path, tmp_path / "theirs.gguf")
    found = artifact_from_path(tmp_path / "theirs.gguf")
    assert (found.format, found.precision, found.sha256) == ("gguf", "q4_k_m", quantised.sha256)
    assert found.model_path == tmp_path / "theirs.gguf"
    assert artifact_from_path(quantised.folder) == artifact_from_path(quantised.model_path) == quantised


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    for name, content in (("a.gguf", b""), ("b.gguf", b"GGUF"), ("c.onnx", b"\xff\xfe no"), ("d.txt", b"x")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFileError, match=name):
            artifact_from_path(tmp_path / name)
    with pytest.raises(ModelFileError, match="nothing"):
        artifact_from_path(tmp_path / "nothing")
    with pytest.raises(ModelFileError, match="name one"):
        artifact_from_path(tmp_path)


def test_a_truncated_or_garbled_file_is_refused_or_read_but_never_worse(source: Artifact, tmp_path: Path) -> None:
    whole = source.model_path.read_bytes()
    draw = random.Random(0)
    path = tmp_path / "x.gguf"
    for length in sorted(draw.randrange(len(whole)) for _ in range(40)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            artifact_from_path(path)
    for _ in range(300):
        garbled = bytearray(whole[:60_000])
        for _ in range(draw.randint(1, 8)):
            garbled[draw.randrange(2000)] = draw.randrange(256)
        path.write_bytes(garbled)
        with pytest.raises(ModelFileError):
            artifact_from_path(path)


def test_the_tables_of_types_are_ggml_s() -> None:
    for number, name in TENSOR_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == TENSOR_BLOCKS[number]


def test_the_header_s_table_is_the_reader_s(source: Artifact) -> None:
    header = read_gguf_header(source.model_path)
    expected = [
        (tensor.name, int(tensor.tensor_type), tuple(int(extent) for extent in tensor.shape))
        for tensor in gguf.GGUFReader(source.model_path).tensors
    ]
    assert [(tensor.name, tensor.type, tensor.shape) for tensor in header.table] == expected
    assert header.file_type == 0
