"""What the engines say of their builds: their own texts, read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgestill.runtime.engine import DescribedEngine
from edgestill.runtime.engine_builds import llama_features, onnxruntime_commit
from edgestill.runtime.session import Session


def test_a_llama_cpp_build_s_features_are_those_switched_on() -> None:
    assert llama_features("CPU : SSE3 = 1 | AVX512 = 0 | FMA = 1 | NEON = 0 | SVE_CNT = 32 | OPENMP = 1 | ") == (
        *("sse3", "fma", "sve_cnt", "openmp"),
    )
    assert llama_features("") == ()


def test_an_onnxruntime_build_names_its_commit() -> None:
    assert onnxruntime_commit("ORT Build Info: git-branch=HEAD, git-commit-id=fab30a4, build type=Release") == "fab30a4"
    assert onnxruntime_commit("ORT Build Info: build type=Release") is None


@pytest.mark.parametrize(("format", "package"), [("gguf", "llama_cpp"), ("onnx", "onnxruntime"), ("hf", "torch")])
def test_every_engine_says_its_version_and_how_it_was_opened(
    tiny_checkpoint: Path, tmp_path: Path, format: str, package: str
) -> None:
    pytest.importorskip(package)
    from edgestill.artifact import Checkpoint
    from edgestill.export import export_checkpoint

    model = tiny_checkpoint
    if format != "hf":
        precision = "f16" if format == "gguf" else "fp32"
        model = export_checkpoint(Checkpoint.open(tiny_checkpoint), format, precision, tmp_path).model_path  # type: ignore[arg-type]
    with Session.open(model, threads=1) as session:
        engine = session.engine
        assert isinstance(engine, DescribedEngine)
        build = engine.describe()
    assert build.version
    assert build.build
    assert ("flash_attention" in build.settings) == (format == "gguf")
    assert build.parameters in (None, 110_912)
    if format == "gguf":
        assert build.commit is None
        assert build.features
