"""The Python app: it runs as a service, as systemd would start it, and answers over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgestill.bench_results import BenchDocument
from edgestill.bundle import Bundle
from edgestill.dataset import Message
from edgestill.devices.apps import write_app
from edgestill.runtime.generation import GenerationOptions
from edgestill.runtime.session import Session


class Service(NamedTuple):
    """A service that said it was ready."""

    process: subprocess.Popen[bytes]
    address: str
    state: Path
    notices: list[str]


@pytest.fixture(scope="module")
def project(hostile_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python app") / "the project"
    write_app(hostile_bundle.folder, "python", folder)
    return folder


@pytest.fixture(scope="module")
def service(project: Path, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with a socket and folders as systemd gives them."""
    scratch = tmp_path_factory.mktemp("systemd")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(scratch / "notify"))
    manager.settimeout(60)
    notices: list[str] = []
    port = free_port()
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": str(scratch / "notify"),
        "WATCHDOG_USEC": "400000",
        "STATE_DIRECTORY": str(scratch),
    }
    process = subprocess.Popen([sys.executable, "serve.py", "run", "--port", str(port)], cwd=project, env=environment)
    while not any("READY=1" in notice for notice in notices):
        notices.append(manager.recv(1000).decode())

    manager.settimeout(None)

    def hear() -> None:
        while process.poll() is None:
            notices.append(manager.recv(1000).decode())

    threading.Thread(target=hear, daemon=True).start()
    yield Service(process, f"http://127.0.0.1:{port}", scratch, notices)
    if process.poll() is None:
        process.kill()
    process.wait()


def post(service: Service, value: object) -> list[dict[str, Any]]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    with urllib.request.urlopen(service.address + "/generate", data=body, timeout=30) as answer:
        return [json.loads(line) for line in answer]


def test_it_says_that_it_is_ready_after_its_self_test_and_that_it_lives(service: Service) -> None:
    (stamp,) = service.state.glob("tested-*-gguf-f32")
    assert json.loads(stamp.read_text())["close_tokens"] == 0
    time.sleep(0.5)
    assert "WATCHDOG=1" in service.notices


def test_an_answer_streams_and_is_that_of_session(service: Service, hostile_bundle: Bundle) -> None:
    lines = post(service, {"prompt": "dim the lights \U0001f600"})
    with Session.open(hostile_bundle.artifact_folder("gguf-f32")) as session:
        answer = session.generate([Message("user", "dim the lights \U0001f600")], GenerationOptions(max_new_tokens=24))
    assert "".join(line["text"] for line in lines[:-1]) == answer.text
    assert len(lines) > 2
    assert lines[-1]["done"]
    assert lines[-1]["new_tokens"] == len(answer.token_ids)
    messages = [{"role": "user", "content": "dim the lights \U0001f600"}]
    assert post(service, {"messages": messages})[:-1] == lines[:-1]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        {"prompt": 3},
        {"prompt": "a", "x": 1},
        {"prompt": "a", "messages": []},
        {"messages": [{"role": "user"}]},
        {"prompt": "a", "temperature": "hot"},
        {"prompt": "a", "max_new_tokens": 0},
        {"prompt": "a " * 3000},
    ],
)
def test_a_wrong_request_is_a_line_that_says_why(service: Service, body: object) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(service, body)
    assert refused.value.code == 400
    assert json.load(refused.value)["error"]


def test_a_client_that_goes_away_ends_its_answer(service: Service) -> None:
    host, _, port = service.address.removeprefix("http://").partition(":")
    body = json.dumps({"prompt": "dim", "max_new_tokens": 200}).encode()
    with socket.create_connection((host, int(port))) as one:
        one.sendall(b"POST /generate HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        one.recv(20)
    deadline = time.monotonic() + 20
    while True:
        with urllib.request.urlopen(service.address + "/health", timeout=10) as health:
            waiting = json.load(health)["waiting"]
        if waiting == 0 or time.monotonic() > deadline:
            break
    assert waiting == 0


def test_other_roads_lead_nowhere(service: Service) -> None:
    for path, data in (("/", None), ("/generate", None), ("/other", b"{}")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(service.address + path, data=data, timeout=10)
        assert refused.value.code == 404


def test_sigterm_ends_it(service: Service) -> None:
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(15) == 0
    time.sleep(0.2)
    assert any("STOPPING=1" in notice for notice in service.notices)


def test_a_changed_bundle_is_refused(project: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(project, tmp_path / "app"))
    model = spoilt / "bundle" / "artifacts" / "gguf-f32" / "model.gguf"
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    done = subprocess.run(
        [sys.executable, "serve.py", "selftest"], cwd=spoilt, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "not what was packed" in done.stderr


def test_its_bench_is_a_document_of_ours(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "serve.py", "bench"], cwd=project, capture_output=True, text=True, check=True
    )
    assert BenchDocument.model_validate_json(done.stdout).results[0].decode_tokens_per_second.value


def test_systemd_reads_the_unit(project: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd isn't installed")
    (unit,) = project.glob("*.service")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    # It isn't installed here: that its program is missing is all that may be wrong.
    wrong = [line for line in done.stderr.splitlines() if "is not executable" not in line and unit.stem in line]
    assert wrong == []
