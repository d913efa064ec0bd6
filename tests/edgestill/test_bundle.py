"""Bundles: packed whole, and every change to what was packed is found and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgestill.artifact import Artifact
from edgestill.bundle import (
    Bundle,
    BundleArtifact,
    Contents,
    GenerationDefaults,
    open_bundle,
    pack_bundle,
    verify_files,
)
from edgestill.errors import BundleError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    folder = tmp_path / "gguf-f32"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    artifact = Artifact.describe(folder, "gguf", "f32", "model.gguf")
    (tmp_path / "tokenizer.json").write_text("{}")
    contents = Contents(
        name="demo",
        created="2024-01-01T00:00:00+00:00",
        task="json",
        ship="gguf-f32",
        chat_template=None,
        generation=GenerationDefaults(max_new_tokens=8),
        context_length=64,
        headline=None,
        artifacts=[
            (
                artifact,
                BundleArtifact(
                    name="gguf-f32",
                    format="gguf",
                    precision="f32",
                    entry="model.gguf",
                    size_bytes=artifact.size_bytes,
                    sha256=artifact.sha256,
                    parity=None,
                    metrics={},
                    bench=None,
                ),
            )
        ],
        tokenizer_files={"tokenizer.json": tmp_path / "tokenizer.json"},
        golden="",
        report_html="<p>",
        licenses={"STATED.txt": "MIT\n"},
        provenance={"digest": "not the manifest's own"},
    )
    return pack_bundle(contents, tmp_path / "bundle")


def test_a_packed_bundle_opens_and_verifies(bundle: Bundle) -> None:
    verify_files(bundle)
    assert [entry.path for entry in bundle.manifest.files if entry.kind == "model"] == [
        "artifacts/gguf-f32/artifact.json",
        "artifacts/gguf-f32/model.gguf",
    ]
    assert next(iter(json.loads((bundle.folder / "manifest.json").read_text()))) == "schema"


def test_every_flipped_byte_is_found_and_its_file_named(bundle: Bundle) -> None:
    for path in sorted(path for path in bundle.folder.rglob("*") if path.is_file() and path.stat().st_size):
        sound = path.read_bytes()
        for at in {0, len(sound) // 2, len(sound) - 1}:
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            with pytest.raises(BundleError) as error:
                verify_files(open_bundle(bundle.folder))
            assert str(path) in str(error.value)
        path.write_bytes(sound)
    verify_files(open_bundle(bundle.folder))


def test_a_missing_and_an_extra_file_are_named(bundle: Bundle) -> None:
    extra = bundle.folder / "artifacts" / "surprise"
    extra.touch()
    with pytest.raises(BundleError, match="surprise: not in the manifest"):
        verify_files(bundle)
    extra.unlink()
    (bundle.folder / "golden.jsonl").unlink()
    with pytest.raises(BundleError, match=r"golden\.jsonl: missing"):
        verify_files(bundle)


def test_a_link_instead_of_a_file_is_refused(bundle: Bundle) -> None:
    file = bundle.folder / "golden.jsonl"
    file.rename(bundle.folder.parent / "elsewhere")
    file.symlink_to(bundle.folder.parent / "elsewhere")
    with pytest.raises(BundleError, match="a link"):
        verify_files(bundle)


@pytest.mark.parametrize("schema", ["edgestill.bundle/2", None, 1])
def test_an_unknown_schema_version_is_refused(bundle: Bundle, schema: object) -> None:
    path = bundle.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    with pytest.raises(BundleError, match="schema"):
        open_bundle(bundle.folder)


def test_a_path_that_leaves_the_bundle_is_refused(bundle: Bundle) -> None:
    from edgestill.bundle import _digest

    path = bundle.folder / "manifest.json"
    text = path.read_text().replace('"golden.jsonl"', '"../../secret"')
    path.write_text(text.replace(bundle.manifest.digest, _digest(text), 1))
    with pytest.raises(BundleError, match="leaves the bundle"):
        open_bundle(bundle.folder)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(tmp_path)
