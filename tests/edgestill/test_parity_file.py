"""parity.json: whole, valid, about the file beside it, and part of the bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from edgestill.artifact import Artifact, Checkpoint
from edgestill.bundle import open_bundle, verify_files
from edgestill.cli import console
from edgestill.errors import BundleError, ModelFileError
from edgestill.packing import pack_artifacts
from edgestill.parity_gate import built_in_gates, export_checked, quantize_checked, recorded_parity
from edgestill.progress import SILENT
from edgestill.recipe import Gates
from edgestill.results import ArtifactsDocument
from edgestill.schemas import schema_text

pytest.importorskip("gguf")


def export(checkpoint: Path, out: Path, gates: Gates | None = None) -> ArtifactsDocument:
    opened = Checkpoint.open(checkpoint)
    return export_checked(opened, "gguf", "f16", out, gates=gates or built_in_gates("fp32"), data=None, progress=SILENT)


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactsDocument, Path]:
    out = tmp_path_factory.mktemp("exported")
    return export(tiny_checkpoint, out), out / "gguf-f16"


def test_the_result_lies_beside_the_file_and_is_what_was_printed(exported: tuple[ArtifactsDocument, Path]) -> None:
    document, folder = exported
    written = json.loads((folder / "parity.json").read_text())
    jsonschema.validate(written, json.loads(schema_text("parity")), jsonschema.Draft202012Validator)
    assert next(iter(written)) == "schema"
    printed = json.loads(document.to_json())["artifacts"][0]
    assert written["parity"] == printed["parity"]
    assert written["sha256"] == printed["sha256"] == Artifact.open(folder).sha256
    assert [case["name"] for case in written["parity"]["cases"]] == [
        *("built-in", "unicode", "special-tokens", "vocabulary", "long", "lengths", "steps", "chunks"),
        "rope-boundary",
    ]
    assert written["parity"]["tokenizer"]["ids_equal"] == written["parity"]["tokenizer"]["texts"]


def test_the_cases_are_printed(exported: tuple[ArtifactsDocument, Path], capsys: pytest.CaptureFixture[str]) -> None:
    console.print_artifacts(exported[0], as_json=False)
    output = capsys.readouterr()
    for name in ("built-in", "special-tokens", "chunks", "tokenizer (llama.cpp): "):
        assert name in output.out
    assert "rope-boundary not run: config.json has no rotary scaling" in output.err


def test_a_refused_file_keeps_its_result(tiny_checkpoint: Path, tmp_path: Path) -> None:
    document = export(tiny_checkpoint, tmp_path, Gates(min_top1_agreement=1, max_kl=0))
    assert document.artifacts == ()
    written = json.loads((tmp_path / "gguf-f16.refused" / "parity.json").read_text())
    assert written["parity"]["passed"] is False
    assert list(document.refused[0].reasons) == written["parity"]["reasons"]
    assert len(written["parity"]["cases"]) == 9


def test_a_file_made_of_another_does_not_inherit_its_result(tiny_checkpoint: Path, tmp_path: Path) -> None:
    opened = Checkpoint.open(tiny_checkpoint)
    export_checked(opened, "onnx", "fp32", tmp_path, gates=built_in_gates("fp32"), data=None, progress=SILENT)
    source = Artifact.open(tmp_path / "onnx-fp32")
    assert recorded_parity(source) is not None
    quantize_checked(source, "int8", tmp_path, reference=None, gates=None, data=None, progress=SILENT)
    assert not (tmp_path / "onnx-int8" / "parity.json").exists()


def test_a_result_about_other_bytes_or_a_damaged_one_is_not_taken(
    exported: tuple[ArtifactsDocument, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(exported[1], tmp_path / "gguf-f16")
    assert recorded_parity(Artifact.open(folder)) == exported[0].artifacts[0].parity
    file = folder / "parity.json"
    file.write_text(file.read_text().replace(Artifact.open(folder).sha256, "0" * 64))
    assert recorded_parity(Artifact.open(folder)) is None
    file.write_text("{}")
    with pytest.raises(ModelFileError, match=r"parity\.json: not a parity result"):
        recorded_parity(Artifact.open(folder))


def test_the_result_travels_in_the_bundle(
    exported: tuple[ArtifactsDocument, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "dim the kitchen lights"}\n')
    bundle = pack_artifacts(
        Checkpoint.open(tiny_checkpoint),
        [Artifact.open(exported[1])],
        prompts=prompts,
        out=tmp_path / "bundle",
        name="tiny",
        task="text",
        golden_prompts_count=1,
        max_new_tokens=4,
        ship=None,
        progress=SILENT,
    )
    verify_files(bundle)
    name = "artifacts/gguf-f16/parity.json"
    entry = next(entry for entry in bundle.manifest.files if entry.path == name)
    assert entry.kind == "report"  # measured: two runs of one recipe have the same content without it
    assert bundle.manifest.artifact("gguf-f16").parity == exported[0].artifacts[0].parity
    assert (bundle.folder / name).read_bytes() == (exported[1] / "parity.json").read_bytes()
    (bundle.folder / name).write_text("{}")
    with pytest.raises(BundleError, match=r"parity\.json"):
        verify_files(open_bundle(bundle.folder))
