"""A bundle of GGUF artifacts and the native library, linked to the installed llama-cpp-python."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgestill.artifact import Artifact, Checkpoint
from edgestill.bundle import Bundle, Contents, GenerationDefaults, pack_bundle
from edgestill.dataset import Message
from edgestill.export import export_checkpoint
from edgestill.packing import describe
from edgestill.quantize import quantize_artifact
from edgestill.runtime.golden import GoldenInput, make_golden
from edgestill.runtime.native.binding import NativeLibrary, NativeSession
from edgestill.runtime.native.build import NativeBuild, build_native

PROMPTS: tuple[GoldenInput, ...] = (
    "Once upon a time",
    "naïve café — 東京 \U0001f600",
    (Message("system", "be brief"), Message("user", "dim the kitchen lights")),
)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> NativeBuild:
    """The library and the program, linked to the installed llama-cpp-python; objects come from the cache."""
    flags = os.environ.get("EDGESTILL_NATIVE_FLAGS", "").split()  # sanitizers: benchmarks/native/sanitized.py
    return build_native("host", tmp_path_factory.mktemp("native") / "out", installed_llama=True, extra_flags=flags)


@pytest.fixture(scope="session")
def library(built: NativeBuild) -> NativeLibrary:
    assert built.library is not None
    return NativeLibrary(built.library)


@pytest.fixture(scope="session")
def artifacts(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    out = tmp_path_factory.mktemp("native-artifacts")
    checkpoint = Checkpoint.open(tiny_checkpoint)
    exported = [export_checkpoint(checkpoint, "gguf", precision, out) for precision in ("f32", "f16", "q8_0")]
    return [*exported, quantize_artifact(exported[1], "q4_0", out)]


@pytest.fixture(scope="session")
def prompts() -> tuple[GoldenInput, ...]:
    return PROMPTS


@pytest.fixture
def repack(artifacts: list[Artifact], tmp_path: Path) -> Callable[..., Path]:
    """Pack artifacts (None: the right ones) with golden answers."""

    def pack(golden: str, packed: list[Artifact] | None = None) -> Path:
        return pack_bundle(contents(packed or artifacts, golden), tmp_path / "repacked").folder

    return pack


@pytest.fixture(scope="session")
def packed(artifacts: list[Artifact], tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    golden = make_golden({artifact.name: artifact.folder for artifact in artifacts}, PROMPTS, 24)
    return pack_bundle(contents(artifacts, golden), tmp_path_factory.mktemp("native-bundle") / "bundle")


def contents(artifacts: list[Artifact], golden: str) -> Contents:
    return Contents(
        name="tiny",
        created="2026-01-01",
        task="text",
        ship="gguf-q4_0",
        chat_template=None,
        generation=GenerationDefaults(max_new_tokens=24),
        context_length=256,
        headline=None,
        artifacts=[(artifact, describe(artifact, None, {}, None)) for artifact in artifacts],
        tokenizer_files={},
        golden=golden,
        report_html="<html></html>",
        licenses={},
        provenance={},
    )


@pytest.fixture
def bundle(packed: Bundle, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(packed.folder, tmp_path / "bundle"))


@pytest.fixture
def session(library: NativeLibrary, packed: Bundle) -> NativeSession:
    return library.open(packed.folder, threads=1)
