"""A small bundle of GGUF and ONNX whose name attacks every file that it is written into, and the native library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgestill.artifact import Checkpoint
from edgestill.bundle import Bundle, Contents, GenerationDefaults, pack_bundle
from edgestill.dataset import Message
from edgestill.export import export_checkpoint
from edgestill.packing import describe
from edgestill.runtime.golden import GoldenInput, make_golden
from edgestill.runtime.native.binding import NativeLibrary
from edgestill.runtime.native.build import NativeBuild, build_native
from tests.devices.ascii_model import speak_ascii

HOSTILE_NAME = '@Anna\'s "best" ${x} $y %1$s <b>&amp; ]]> {{7*7}} */ \\ \\(z) #if \n// é \U0001f600'

GOLDEN_PROMPTS: tuple[GoldenInput, ...] = (
    "Once upon a time",
    "naïve café — 東京 \U0001f600 \"${x}\" 'y' \\n </string>",
    (Message("system", "be brief"), Message("user", "dim the kitchen lights \U0001f600")),
)


@pytest.fixture(scope="session")
def native_build(tmp_path_factory: pytest.TempPathFactory) -> NativeBuild:
    return build_native("host", tmp_path_factory.mktemp("native") / "out", installed_llama=True)


@pytest.fixture(scope="session")
def native_library(native_build: NativeBuild) -> NativeLibrary:
    assert native_build.library is not None
    return NativeLibrary(native_build.library)


@pytest.fixture(scope="session")
def hostile_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _packed(tiny_checkpoint, tmp_path_factory.mktemp("hostile-bundle"))


@pytest.fixture(scope="session")
def ascii_bundle(write_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """As ``hostile_bundle``, of a model that a browser's engines can carry."""
    folder = write_checkpoint(tmp_path_factory.mktemp("ascii-checkpoint") / "checkpoint", tied=False)
    speak_ascii(folder)
    return _packed(folder, tmp_path_factory.mktemp("ascii-bundle"))


def _packed(folder: Path, out: Path) -> Bundle:
    checkpoint = Checkpoint.open(folder)
    artifacts = [export_checkpoint(checkpoint, "gguf", "f32", out), export_checkpoint(checkpoint, "onnx", "fp32", out)]
    contents = Contents(
        name=HOSTILE_NAME,
        created="2026-01-01",
        task="conversation",
        ship="gguf-f32",
        chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
        generation=GenerationDefaults(max_new_tokens=24, eos_token_ids=(1,)),
        context_length=256,
        headline=None,
        artifacts=[(artifact, describe(artifact, None, {}, None)) for artifact in artifacts],
        tokenizer_files={"tokenizer.json": folder / "tokenizer.json"},
        golden=make_golden({artifact.name: artifact.folder for artifact in artifacts}, GOLDEN_PROMPTS, 24),
        report_html="<html></html>",
        licenses={"LICENSE": "Apache-2.0"},
        provenance={},
    )
    return pack_bundle(contents, out / "bundle")
