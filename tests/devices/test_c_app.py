"""The C app: compiled here, it answers as Session does, tests its bundle, measures, and speaks MQTT."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgestill.bench_results import BenchDocument
from edgestill.bundle import Bundle
from edgestill.dataset import Message
from edgestill.devices.apps import write_app
from edgestill.runtime.generation import GenerationOptions
from edgestill.runtime.native.build import NativeBuild
from edgestill.runtime.session import Session


@pytest.fixture(scope="module")
def project(hostile_bundle: Bundle, native_build: NativeBuild, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c app") / "the project"
    write_app(hostile_bundle.folder, "c", folder)
    configure = ["cmake", "-B", "build", f"-DEDGESTILL={native_build.header.parent}", "-DCMAKE_C_FLAGS=-Werror"]
    subprocess.run(configure, cwd=folder, check=True, capture_output=True)
    built = subprocess.run(["cmake", "--build", "build"], cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def gateway(project: Path, *words: str, said: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["build/gateway", *words], cwd=project, input=said, capture_output=True, text=True, check=check
    )


def test_its_own_test_passes(project: Path) -> None:
    done = subprocess.run(["ctest", "--test-dir", "build"], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_answers_are_those_of_session(project: Path, hostile_bundle: Bundle) -> None:
    said = ["dim the lights \U0001f600", 'a "quoted" \\ back\\slash\tand a tab']
    done = gateway(project, "run", said="\n".join(said) + "\n\n")
    with Session.open(hostile_bundle.artifact_folder("gguf-f32")) as session:
        options = GenerationOptions(max_new_tokens=24)
        answers = [session.generate([Message("user", one)], options).text for one in said]
    assert done.stdout == "".join(f"{answer}\n" for answer in answers)


def test_the_self_test_runs_once_where_its_result_is_kept(project: Path, tmp_path: Path) -> None:
    first = gateway(project, "run", "--state", str(tmp_path))
    again = gateway(project, "run", "--state", str(tmp_path))
    assert "first start" in first.stderr
    assert "first start" not in again.stderr
    assert "first start" in gateway(project, "selftest", "--state", str(tmp_path)).stderr


def test_the_bench_is_a_document_of_ours(project: Path) -> None:
    done = gateway(project, "bench", "--threads", "1")
    (record,) = BenchDocument.model_validate_json(done.stdout).results
    assert record.repetitions == 10
    assert record.decode_tokens_per_second.value


def test_wrong_words_and_a_changed_bundle_are_refused(project: Path, tmp_path: Path) -> None:
    for words in (
        ["fly"],
        ["run", "--threads", "many"],
        ["run", "--port", "0"],
        ["run", "--bundle"],
        ["run", "--x", "y"],
    ):
        done = gateway(project, *words, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
    spoilt = Path(shutil.copytree(project / "bundle", tmp_path / "bundle"))
    model = spoilt / "artifacts" / "gguf-f32" / "model.gguf"
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    done = gateway(project, "run", "--bundle", str(spoilt), check=False)
    assert done.returncode == 1
    assert "model.gguf" in done.stderr


def test_a_signal_ends_it(project: Path) -> None:
    process = subprocess.Popen(
        ["build/gateway", "run"], cwd=project, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "first start" in process.stderr.readline()
    while process.stderr.readline().strip() != "}":
        pass
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


@pytest.fixture
def broker(free_port: Callable[[], int]) -> Iterator[int]:
    """A broker of this machine's, on a free port."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None or not Path("/usr/include/mosquitto.h").is_file():
        pytest.skip("mosquitto or libmosquitto-dev isn't installed")
    port = free_port()
    process = subprocess.Popen([program, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    yield port
    process.terminate()
    process.wait()


def test_a_prompt_over_mqtt_is_answered(project: Path, broker: int, hostile_bundle: Bundle) -> None:
    at = ["-p", str(broker), "-V", "5"]
    process = subprocess.Popen(
        ["build/gateway", "mqtt", "--port", str(broker), "--topic", "home/model", "--host", "127.0.0.1"],
        cwd=project,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stderr is not None
    while "waiting for prompts" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.2)
    listen = ["mosquitto_sub", *at, "-t", "home/model/#", "-C", "200", "-W", "6", "-F", "%t %p"]
    listening = subprocess.Popen(listen, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    subprocess.run(["mosquitto_pub", *at, "-t", "home/model", "-m", 'dim "it"'], check=True)
    lines = listening.communicate()[0].splitlines()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    answers = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("home/model/answer ")]
    with Session.open(hostile_bundle.artifact_folder("gguf-f32")) as session:
        text = session.generate([Message("user", 'dim "it"')], GenerationOptions(max_new_tokens=24)).text
    assert answers == [{"prompt": 'dim "it"', "answer": text, "ok": True}]
    assert any(line.startswith("home/model/stream ") for line in lines)
