"""The whole road on a tiny recipe: what is made, what is checked, what is not done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from edgestill.bundle import open_bundle, verify_files

PRECISIONS = ("f32", "f16", "q8_0", "q4_0", "q4_k_m")
COMMAND = [sys.executable, "-m", "edgestill.cli"]
STAGES = (
    "reading the data",
    "training the teacher",
    "the teacher answers",
    "caching the teacher's logits",
    "distilling the student",
    "training the same student",
    "making onnx-fp32",
    "making gguf-f16",
    "making onnx-int4",
    "making gguf-q4_0",
    "scoring teacher",
    "scoring gguf-q4_0",
    "measuring student",
    "generating golden answers",
    "packing the bundle",
)


def write_tiny(folder: Path) -> Path:
    """The tiny recipe, through the file beside this one (tests are no package)."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("tiny_recipe", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Path(module.write_tiny(folder))


def start(recipe: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "run", str(recipe), "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def hash_list(out: Path) -> list[tuple[str, str]]:
    """The bundle's files and hashes, without the report's page of measured times."""
    bundle = open_bundle(out / "bundle")
    return [(file.path, file.sha256) for file in bundle.manifest.files if file.kind != "report"]


def finished_twice(out: Path) -> list[str]:
    events = [json.loads(line) for line in (out / "steps" / "log.jsonl").read_text().splitlines()]
    done = [event["step"] for event in events if event["event"] == "done"]
    return sorted({step for step in done if done.count(step) > 1})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, object]]:
    """One undisturbed run: recipe, out folder, the JSON that was printed."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_tiny(folder / "input")
    process = start(recipe, folder / "out", "--json")
    printed, log = process.communicate()
    assert process.returncode == 0, log
    return recipe, folder / "out", json.loads(printed)


def test_the_run_leaves_a_bundle_that_verifies_and_a_report(run: tuple[Path, Path, dict[str, object]]) -> None:
    _, out, printed = run
    bundle = open_bundle(out / "bundle")
    verify_files(bundle)
    assert json.loads((out / "report.json").read_text()) == printed
    assert (out / "report.html").stat().st_size > 10_000
    names = {artifact.name for artifact in bundle.manifest.artifacts}
    assert {
        "onnx-fp32",
        "gguf-f32",
        "gguf-f16",
        "onnx-int8",
        "onnx-int4",
        "gguf-q8_0",
        "gguf-q4_0",
        "gguf-q4_k_m",
    } == names
    assert bundle.manifest.ship in {"onnx-int4", "gguf-q4_0", "gguf-q4_k_m"}


def test_every_document_matches_its_published_schema(run: tuple[Path, Path, dict[str, object]]) -> None:
    _, out, printed = run
    schemas = Path(__file__).resolve().parents[2] / "edgestill" / "schemas"
    jsonschema.validate(printed, json.loads((schemas / "report.json").read_text()))
    manifest = json.loads((out / "bundle" / "manifest.json").read_text())
    jsonschema.validate(manifest, json.loads((schemas / "manifest.json").read_text()))


def test_exact_files_agree_with_torch_on_every_token(run: tuple[Path, Path, dict[str, object]]) -> None:
    _, out, _ = run
    for artifact in open_bundle(out / "bundle").manifest.artifacts:
        if artifact.precision in ("fp32", "f32"):
            assert artifact.parity is not None
            assert artifact.parity.top1_agreement.value == 1.0
            assert (artifact.parity.max_abs_diff.value or 1.0) <= 1e-3


def test_the_report_holds_teacher_student_baseline_and_artifacts(run: tuple[Path, Path, dict[str, object]]) -> None:
    _, _, printed = run
    models = printed["models"]
    assert isinstance(models, list)
    assert {model["role"] for model in models} == {"teacher", "student", "baseline", "artifact"}
    assert all("accuracy" in model["metrics"] for model in models)
    gain = printed["distilling_gain"]
    assert isinstance(gain, dict)
    assert gain["n"] == 20
    headline = printed["headline"]
    assert isinstance(headline, dict)
    assert headline["latency_reduction"]["value"] is not None


def test_golden_answers_are_replayed_and_a_changed_one_is_named(run: tuple[Path, Path, dict[str, object]]) -> None:
    from edgestill.errors import GateError
    from edgestill.runtime.golden import replay_golden

    _, out, _ = run
    bundle = open_bundle(out / "bundle")
    assert replay_golden(bundle) == 4 * len(bundle.manifest.artifacts)
    golden = bundle.folder / "golden.jsonl"
    sound = golden.read_text()
    first, *rest = sound.splitlines()
    row = json.loads(first)
    row["token_ids"]["gguf-q4_0"][1] += 1
    golden.write_text("\n".join([json.dumps(row), *rest]) + "\n")
    try:
        with pytest.raises(GateError, match="gguf-q4_0: golden answer 1 differs at token 1"):
            replay_golden(bundle)
    finally:
        golden.write_text(sound)


def test_a_second_run_does_nothing_and_says_so(run: tuple[Path, Path, dict[str, object]]) -> None:
    recipe, out, _ = run
    process = start(recipe, out)
    _, log = process.communicate()
    assert process.returncode == 0
    assert "nothing changed since the last run" in log
    assert finished_twice(out) == []


def test_an_artifact_that_was_tampered_with_is_made_again(run: tuple[Path, Path, dict[str, object]]) -> None:
    recipe, out, _ = run
    expected = hash_list(out)
    file = out / "artifacts" / "gguf-q4_0" / "model.gguf"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    process = start(recipe, out)
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert "making gguf-q4_0" in log
    assert hash_list(out) == expected
    (out / "steps" / "log.jsonl").write_text("")


def test_kill_9_at_random_moments_changes_nothing(run: tuple[Path, Path, dict[str, object]], tmp_path: Path) -> None:
    """EDGESTILL_KILLS sets how many (3 in a normal test run)."""
    recipe, undisturbed, _ = run
    rng = random.Random(1)
    out = tmp_path / "out"
    kills = 0
    wanted = int(os.environ.get("EDGESTILL_KILLS", "3"))
    while kills < wanted:
        process = start(recipe, out)
        try:
            process.communicate(timeout=rng.uniform(5.0, 15.0))
            break  # finished before the kill: nothing more to disturb
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    process = start(recipe, out)
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert kills > 0
    assert hash_list(out) == hash_list(undisturbed)
    assert finished_twice(out) == []


def test_ctrl_c_in_each_stage_stops_with_130_and_the_next_run_continues(
    run: tuple[Path, Path, dict[str, object]], tmp_path: Path
) -> None:
    recipe, undisturbed, _ = run
    out = tmp_path / "out"
    seen = []
    for number in range(len(STAGES)):
        process = subprocess.Popen(
            [*COMMAND, "run", str(recipe), "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        stage = None
        for line in process.stderr:
            # A quick stage may have ended before the last signal arrived: then the next one is interrupted.
            stage = next((later for later in STAGES[number:] if later in line), None)
            if stage is not None:
                time.sleep(0.1)
                process.send_signal(signal.SIGINT)
                seen.append(stage)
                break
        _, rest = process.communicate()
        if stage is not None and not (stage == STAGES[-1] and process.returncode == 0):
            assert process.returncode == 130, (stage, rest)
            assert "Traceback" not in rest
            assert not [path for path in out.rglob("*.partial") if path.exists()]
    process = start(recipe, out)
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert hash_list(out) == hash_list(undisturbed)
    assert {"training the teacher", "distilling the student", "packing the bundle"} <= set(seen)
