"""A bundle of one random model in five GGUF forms, and a version of it in which one artifact is another; made once."""

from __future__ import annotations

import shutil
from pathlib import Path

from random_models import make_models

from edgestill.artifact import Artifact
from edgestill.bundle import Bundle, Contents, GenerationDefaults, open_bundle, pack_bundle
from edgestill.packing import describe
from edgestill.runtime.golden import make_golden

ARTIFACTS = ("gguf-f32", "gguf-f16", "gguf-bf16", "gguf-q8_0", "gguf-q4_0")
CHANGED = "gguf-q8_0"
NAME = "a bench's bundle"


def make_bundles(folder: Path, size: str) -> tuple[Bundle, Bundle]:
    """Return two versions of a bundle of five artifacts, which differ in one (``CHANGED``) and in what follows."""
    bundles = (folder / size / "bundle", folder / size / "bundle-updated")
    if not all((one / "manifest.json").is_file() for one in bundles):
        of_size = folder / size
        folders = make_models(folder, (size,), ARTIFACTS)
        artifacts = {one.name: one for one in folders}
        _pack(artifacts, of_size / "checkpoint", bundles[0])
        _pack(
            artifacts | {CHANGED: _another(artifacts[CHANGED], of_size / "other")}, of_size / "checkpoint", bundles[1]
        )
    return open_bundle(bundles[0]), open_bundle(bundles[1])


def _another(artifact: Path, folder: Path) -> Path:
    """Return the artifact again, one byte of its last tensor changed: as large, and another model."""
    before = Artifact.open(artifact)
    place = folder / artifact.name
    shutil.copytree(artifact, place, dirs_exist_ok=True)
    content = bytearray(before.model_path.read_bytes())
    content[-100] ^= 1
    (place / before.entry).write_bytes(content)
    Artifact.describe(place, before.format, before.precision, before.entry, parent=before.parent)
    return place


def _pack(artifacts: dict[str, Path], checkpoint: Path, out: Path) -> None:
    opened = [Artifact.open(folder) for folder in artifacts.values()]
    prompts = ("abc def", "some words that nobody knows")
    contents = Contents(
        name=NAME,
        created="2026-01-01",
        task="text",
        ship="gguf-q4_0",
        chat_template=None,
        generation=GenerationDefaults(max_new_tokens=8, eos_token_ids=(1,)),
        context_length=256,
        headline=None,
        artifacts=[(artifact, describe(artifact, None, {}, None)) for artifact in opened],
        tokenizer_files={"tokenizer.json": checkpoint / "tokenizer.json"},
        golden=make_golden(artifacts, prompts, 8),
        report_html="<html></html>",
        licenses={"LICENSE": "Apache-2.0"},
        provenance={},
    )
    pack_bundle(contents, out)
