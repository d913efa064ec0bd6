"""The web app in a headless Chromium: both engines, with and without isolation, offline, and with damaged bundles."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from edgestill.artifact import Checkpoint
from edgestill.bench_results import BenchDocument
from edgestill.bundle import Bundle, Contents, GenerationDefaults, pack_bundle
from edgestill.dataset import Message
from edgestill.devices.apps import write_app
from edgestill.export import export_checkpoint
from edgestill.packing import describe
from edgestill.runtime.golden import GoldenInput, make_golden, read_golden
from tests.devices.ascii_model import speak_ascii

PACKAGES = Path(__file__).resolve().parents[2] / "build" / "web"
NEEDED = ("onnxruntime-web", "@wllama/wllama", "@huggingface/tokenizers", "@huggingface/jinja", "playwright-core")
NAME = '"\'><script>window.ran = 1</script><img src=x onerror="window.ran = 2">${window.ran = 3}\n{{7*7}} é \U0001f600'
PROMPTS: tuple[GoldenInput, ...] = (
    "Once upon a time",
    "naïve café — 東京 \U0001f600 </script>",
    (Message("system", "be brief"), Message("user", "dim the kitchen lights \U0001f600")),
)
CONTEXT = 1024

Drive = Callable[..., dict[str, Any]]
Project = Callable[..., Path]


@pytest.fixture(scope="module")
def drive() -> Drive:
    """Run a scenario of web_app.mjs on a project; returns what it found."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None or shutil.which("node") is None:
        pytest.skip("no chromium or no node on this machine")
    if lacking := [name for name in NEEDED if not (PACKAGES / "node_modules" / name).is_dir()]:
        pytest.skip(f"npm install --prefix build/web {' '.join(lacking)}")

    def run(project: Path, scenario: str, **options: object) -> dict[str, Any]:
        script = Path(__file__).with_name("web_app.mjs")
        command = ["node", str(script), str(PACKAGES), browser, str(project), scenario, json.dumps(options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


@pytest.fixture(scope="module")
def web_bundle(drive: Drive, write_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny random model with a chat template, in both formats, exact and quantised; its name attacks the page."""
    root = tmp_path_factory.mktemp("web-bundle")
    folder = write_checkpoint(root / "checkpoint", tied=False, max_position_embeddings=CONTEXT)
    speak_ascii(folder)
    checkpoint = Checkpoint.open(folder)
    kinds: tuple[tuple[Literal["onnx", "gguf"], str], ...] = (
        ("onnx", "fp32"),
        ("gguf", "f32"),
        ("onnx", "int4"),
        ("gguf", "q8_0"),
    )
    artifacts = [export_checkpoint(checkpoint, format, precision, root) for format, precision in kinds]
    return pack_bundle(
        Contents(
            name=NAME,
            created="2026-01-01",
            task="conversation",
            ship="onnx-int4",
            chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
            generation=GenerationDefaults(max_new_tokens=24, eos_token_ids=(1,)),
            context_length=CONTEXT,
            headline=None,
            artifacts=[(artifact, describe(artifact, None, {}, None)) for artifact in artifacts],
            tokenizer_files={checkpoint.relative(file): file for file in checkpoint.tokenizer_files()},
            golden=make_golden({artifact.name: artifact.folder for artifact in artifacts}, PROMPTS, 24),
            report_html="<html></html>",
            licenses={"LICENSE": "Apache-2.0"},
            provenance={},
        ),
        root / "bundle",
    )


@pytest.fixture(scope="module")
def project(web_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Write the app around artifacts of the bundle, with its packages."""

    def write(*names: str) -> Path:
        folder = tmp_path_factory.mktemp("web-app") / "app"
        write_app(web_bundle.folder, "web", folder, artifacts=names)
        command = ["npm", "run", "--silent", "vendor", "--", "--from", str(PACKAGES / "node_modules")]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
        return folder

    return write


@pytest.fixture(scope="module")
def exact(project: Project) -> Path:
    return project("onnx-fp32", "gguf-f32")


@pytest.mark.parametrize(("isolated", "measured"), [(True, "onnx"), (False, "gguf")], ids=["isolated", "not-isolated"])
def test_both_engines_give_the_golden_tokens_and_work_offline(
    drive: Drive, exact: Path, web_bundle: Bundle, isolated: bool, measured: str
) -> None:
    goldens = read_golden(web_bundle)
    rows = [json.loads(line) for line in (exact / "bundle" / "golden.jsonl").read_text("utf-8").splitlines()]
    found = drive(
        exact,
        "whole",
        isolated=isolated,
        query="?threads=2",
        goldens=[{"prompt": row["prompt"], "max_new_tokens": row["max_new_tokens"]} for row in rows],
        measured=[measured],
        bench={"promptTokens": 16, "newTokens": 8, "repetitions": 6},
        long="The lighthouse keeper climbed the stairs every evening. " * 6,
    )
    assert found["ready"]["isolated"] is isolated
    assert found["ready"]["threads"] == (2 if isolated else 1)
    assert found["ready"]["failed"] == []
    assert found["first"]["error"] is None
    tokens = sum(len(golden.token_ids["onnx-fp32"]) for golden in goldens)
    assert found["first"]["selftest"][0] == f"passed: {tokens} tokens of 3 answers, all of them the likeliest"
    assert all(line.endswith("all of them the likeliest") for line in found["first"]["selftest"])
    for engine, artifact in (("onnx", "onnx-fp32"), ("gguf", "gguf-f32")):
        expected = [list(golden.token_ids[artifact]) for golden in goldens]
        assert [answer["ids"] for answer in found["answers"][engine]] == expected, engine
        assert found["offline"]["answers"][engine][0]["ids"] == expected[0], engine
    assert found["cancelled"][measured] == {"early": ["cancelled", ""], "later": "cancelled", "after": 4}
    _check_bench(found["benches"][measured], measured, 2 if isolated else 1)
    texts = [[answer["text"] for answer in found["answers"][engine]] for engine in ("onnx", "gguf")]
    assert texts[0] == texts[1]
    assert found["offline"]["ready"]["failed"] == []
    assert found["ready"]["tested"] == ["gguf", "onnx"]
    assert found["offline"]["ready"]["tested"] == []  # remembered
    assert found["told"] == []


def _check_bench(document: dict[str, Any], engine: str, threads: int) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schemas = Path(__file__).resolve().parents[2] / "edgestill" / "schemas"
    jsonschema.validate(document, json.loads((schemas / "bench.json").read_text("utf-8")))
    record = BenchDocument.model_validate_json(json.dumps(document)).results[0]
    assert record.engine == {"onnx": "onnxruntime-web", "gguf": "wllama"}[engine]
    assert (record.threads, record.new_tokens, record.repetitions) == (threads, 8, 6)
    assert record.peak_pss_bytes.value is None
    assert "memory" in record.peak_pss_bytes.source
    for figure in (record.ttft_seconds, record.prefill_tokens_per_second, record.decode_tokens_per_second):
        assert figure.value is not None
        assert figure.ci95 is not None
        assert figure.ci95[0] <= figure.value <= figure.ci95[1]
    assert len(record.raw["inter_token_seconds"]) == 6 * 7
    assert record.inter_token_seconds.p99.value is None


def test_quantised_artifacts_pass_the_self_test(drive: Drive, project: Project) -> None:
    found = drive(project("onnx-int4", "gguf-q8_0"), "visit", visits=[{}])["visits"][0]
    assert found["ready"]["failed"] == []
    assert [one["artifact"] for one in found["ready"]["engines"]] == ["gguf-q8_0", "onnx-int4"]
    assert all(line.startswith("passed: ") for line in found["shown"]["selftest"])


def test_a_changed_bundle_is_refused_in_words(drive: Drive, exact: Path, tmp_path: Path) -> None:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def rewrite(path: Path, old: str, new: str) -> None:
        path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")

    bundle, artifacts = Path("bundle"), Path("bundle", "artifacts")

    def damage_both(root: Path) -> None:
        flip(root / "onnx-fp32" / "model.onnx.data")
        (root / "gguf-f32" / "model.gguf").write_bytes(b"GGUF")

    golden = (exact / bundle / "golden.jsonl").read_text("utf-8")
    cases: dict[str, Callable[[Path], object]] = {
        "gguf": lambda root: flip(root / artifacts / "gguf-f32" / "model.gguf"),
        "both": lambda root: damage_both(root / artifacts),
        "golden": lambda root: (root / bundle / "golden.jsonl").write_text(golden.replace("[", "[ ", 1), "utf-8"),
        "manifest": lambda root: rewrite(root / bundle / "manifest.json", '"context_length": 1', '"context_length": 2'),
        "later": lambda root: rewrite(root / bundle / "manifest.json", "edgestill.bundle/1", "edgestill.bundle/2"),
        "vendor": lambda root: (root / "vendor").unlink(),
    }
    for name, change in cases.items():
        shutil.copytree(exact, tmp_path / name, ignore=shutil.ignore_patterns("vendor"))
        (tmp_path / name / "vendor").symlink_to(exact / "vendor")
        change(tmp_path / name)
    visits = drive(exact, "visit", visits=[{"project": str(tmp_path / name)} for name in cases])["visits"]
    found = dict(zip(cases, visits, strict=True))
    changed = "its bytes changed (sha256 differs from the manifest)"
    assert found["gguf"]["ready"]["failed"] == ["gguf"]
    assert found["gguf"]["shown"]["error"] == f"artifacts/gguf-f32/model.gguf: {changed}"
    assert found["gguf"]["shown"]["engines"] == [["gguf", True], ["onnx", False]]  # gguf can't be chosen
    assert found["both"]["ready"]["failed"] == ["gguf", "onnx"]
    shorter = r"artifacts/gguf-f32/model\.gguf: 4 bytes, the manifest says \d+"
    assert re.fullmatch(shorter, found["both"]["shown"]["error"])
    assert found["both"]["shown"]["selftest"][1] == f"failed: artifacts/onnx-fp32/model.onnx.data: {changed}"
    assert found["golden"]["ready"]["failed"] == ["gguf", "onnx"]
    assert found["golden"]["shown"]["error"].startswith("golden.jsonl: more than the ")
    assert found["manifest"]["ready"]["error"].endswith("changed after packing (its digest doesn't match)")
    assert 'schema "edgestill.bundle/2" is not "edgestill.bundle/1"' in found["later"]["ready"]["error"]
    assert "npm run vendor" in found["vendor"]["ready"]["error"]
    for name in ("manifest", "later", "vendor"):
        assert found[name]["shown"]["error"] == found[name]["ready"]["error"]


def test_a_hostile_name_is_text_on_a_labelled_page_that_fits_a_phone(drive: Drive, exact: Path, tmp_path: Path) -> None:
    views = [("wide", 1200, 800, "light"), ("phone", 360, 740, "dark")]
    found = drive(exact, "look", out=str(tmp_path), views=views)
    for name, width, height, _ in views:
        page = found[name]
        assert page["heading"] == NAME
        assert page["ran"] is None
        assert not {"SCRIPT", "IMG"} & set(page["tags"])
        assert (page["overflow"], page["unlabelled"]) == (0, 0)
        assert page["answer"]
        _check_picture(tmp_path / f"{name}.png", (width, height))
    assert found["told"] == []


def _check_picture(path: Path, size: tuple[int, int]) -> None:
    from PIL import Image

    with Image.open(path) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
        assert image.size == size
    assert colours is not None
    assert len(colours) > 100


def test_packages_of_another_version_are_refused(drive: Drive, exact: Path, tmp_path: Path) -> None:
    shutil.copytree(exact, tmp_path / "app", ignore=shutil.ignore_patterns("vendor"))
    package = tmp_path / "app" / "package.json"
    package.write_text(package.read_text("utf-8").replace('"onnxruntime-web": "', '"onnxruntime-web": "9'), "utf-8")
    command = ["node", "scripts/vendor.mjs", "--from", str(PACKAGES / "node_modules")]
    done = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "run npm install again" in done.stderr
    assert not (package.parent / "vendor" / "vendored.json").exists()
