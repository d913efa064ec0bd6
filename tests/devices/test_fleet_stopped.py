"""A fleet that is stopped: what had finished is kept, nothing runs on, and --resume measures only the rest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgestill.bench_results import BenchFailure, BenchRecord, Environment
from edgestill.bundle import Bundle
from edgestill.devices.contract import Job, JobCancelled, RunResult
from edgestill.devices.drivers.local import Local
from edgestill.devices.fleet import FleetWork, Status, bench_fleet
from edgestill.devices.shell_device import ShellSettings
from edgestill.fleet_results import FleetDocument, FleetOptions
from tests.devices.fleet_ground import Devices, make_bundle, stand_in, stored

HANGS = 'echo "$*" >>{log}; case "$*" in *gguf-f16*) sleep 600 & wait;; esac'


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tiny_checkpoint, tmp_path_factory.mktemp("fleet-bundle"))


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Devices:
    made = Devices(tmp_path)
    monkeypatch.setenv("EDGESTILL_DEVICES", str(made.file))
    monkeypatch.setenv("EDGESTILL_STORE", str(tmp_path / "store.sqlite"))
    return made


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(bundle: Bundle) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "edgestill.cli", "bench", str(bundle.folder), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not what():
        if process is not None and process.poll() is not None:
            pytest.fail(f"it ended by itself: {process.communicate()}")
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.05)


def lines(path: Path, what: str) -> int:
    """Return how many calls of the runner were of a kind."""
    return sum(what in line for line in path.read_text().splitlines()) if path.is_file() else 0


def running_in(folder: Path) -> list[str]:
    """Return the command lines of processes whose working directory is a device's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            there = entry.name.isdigit() and Path(os.readlink(entry / "cwd")) == folder
            if there and "State:\tZ" not in (entry / "status").read_text():
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_ctrl_c_keeps_what_had_finished_and_leaves_nothing_running(
    start: Start, devices: Devices, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    hangs = stand_in(tmp_path / "hangs", bench=HANGS.format(log=log))
    root = devices.add("here", "local", hangs)
    devices.add("other", "qemu", stand_in(tmp_path / "runner"), machine="x86_64", program="sh")
    out = tmp_path / "out.json"
    process = start("--device", "here", "--device", "other", "--json", "--out", str(out))
    wait_for(lambda: lines(log, "gguf-f16") == 1 and bool(stored_now(tmp_path)), process)
    assert running_in(root)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    found = FleetDocument.model_validate_json(printed)
    assert ("here", "cancelled") in [(one.name, one.state) for one in found.devices]
    kept = [(one.device, one.model.rpartition("#")[2]) for one in found.results]
    assert ("here", "gguf-f32") in kept
    assert ("here", "gguf-f16") not in kept
    assert FleetDocument.model_validate_json(out.read_text()) == found
    assert sorted(stored(tmp_path / "store.sqlite")) == sorted(kept)
    assert "nothing runs on the devices" in said
    wait_for(lambda: not running_in(root))


class LetsGoSlowly(Local):
    """A device whose job takes a while to end after it was cancelled."""

    def __init__(self, name: str, settings: ShellSettings, flag: Path) -> None:
        super().__init__(name, settings)
        self._flag = flag

    def run(self, job: Job, *, cancelled: threading.Event | None = None, **_: Any) -> RunResult:
        assert cancelled is not None
        self._flag.with_name("runs").touch()
        cancelled.wait(60)
        time.sleep(1)
        self._flag.touch()
        raise JobCancelled("it let go")


class Heard:
    """A listener that keeps the last status of each device."""

    def __init__(self) -> None:
        self.last: dict[str, str] = {}
        self.stopped = 0

    def status(self, device: str, status: Status) -> None:
        self.last[device] = status.stage

    def measured(self, document: FleetDocument, record: BenchRecord, environment: Environment) -> None:
        pass

    def failed(self, document: FleetDocument, failure: BenchFailure) -> None:
        pass

    def stopping(self) -> None:
        self.stopped += 1


def test_after_ctrl_c_it_waits_until_every_device_has_let_go(bundle: Bundle, tmp_path: Path) -> None:
    flag, heard = tmp_path / "let-go", Heard()
    runner = stand_in(tmp_path / "runner")
    device = LetsGoSlowly("here", ShellSettings(driver="local", root=str(tmp_path / "root"), runner=runner), flag)
    options = FleetOptions(artifacts=("gguf-f32",), prompt_tokens=(8,), new_tokens=(8,), threads=None, repetitions=3)
    work = FleetWork(bundle, str(bundle.folder), ("gguf-f32",), ({"prompt_tokens": 8, "new_tokens": 8},), "now")
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        wait_for(flag.with_name("runs").exists)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        presser = threading.Thread(target=press)
        presser.start()
        document = bench_fleet(work, options, [device], heard)
        presser.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert flag.exists()
    assert (heard.stopped, heard.last) == (1, {"here": "cancelled"})
    assert [one.state for one in document.devices] == ["cancelled"]


def test_a_kill_loses_no_finished_artifact_and_resume_measures_only_the_rest(
    start: Start, devices: Devices, tmp_path: Path
) -> None:
    log, out = tmp_path / "log", tmp_path / "out.json"
    program = stand_in(tmp_path / "runner", bench=HANGS.format(log=log))
    root = devices.add("here", "local", program)
    process = start("--device", "here", "--out", str(out))
    wait_for(lambda: lines(log, "gguf-f16") == 1, process)
    process.kill()
    process.communicate()
    assert stored(tmp_path / "store.sqlite") == [("here", "gguf-f32")]
    whole = FleetDocument.model_validate_json(out.read_text())
    assert [one.model.rpartition("#")[2] for one in whole.results] == ["gguf-f32"]
    assert whole.devices[0].state == "cancelled"
    wait_for(lambda: not running_in(root))  # a job dies with its host

    stand_in(tmp_path / "runner", bench=f'echo "$*" >>{log}')
    again = start("--device", "here", "--out", str(out), "--resume", "--json")
    printed, said = again.communicate(timeout=60)
    assert again.returncode == 0, said
    found = FleetDocument.model_validate_json(printed)
    assert [one.model.rpartition("#")[2] for one in found.results] == ["gguf-f32", "gguf-f16"]
    assert found.results[0] == whole.results[0]
    assert found.devices[0].state == "done"
    assert lines(log, "gguf-f32") == 1
    assert stored(tmp_path / "store.sqlite") == [("here", "gguf-f32"), ("here", "gguf-f16")]

    shutil.rmtree(root)
    nothing = start("--device", "here", "--out", str(out), "--resume", "--json")
    printed, said = nothing.communicate(timeout=60)
    assert nothing.returncode == 0, said
    assert FleetDocument.model_validate_json(printed) == found
    assert not root.exists()  # a device of which nothing is left to measure isn't reached

    other = start("--device", "here", "--out", str(out), "--resume", "--new-tokens", "32")
    _, said = other.communicate(timeout=60)
    assert other.returncode == 2
    assert "measured with other new tokens" in said


def test_resume_counts_processes(start: Start, devices: Devices, tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out.json"
    third = f'echo "$*" >>{log}; [ $(wc -l <{log}) -lt 3 ] || {{ sleep 600 & wait; }}'
    devices.add("here", "local", stand_in(tmp_path / "runner", bench=third))
    words = ("--device", "here", "--processes", "2", "--out", str(out))
    process = start(*words)
    wait_for(lambda: lines(log, "bench") == 3, process)
    process.kill()
    process.communicate()
    stand_in(tmp_path / "runner", bench=f'echo "$*" >>{log}')
    again = start(*words, "--resume", "--json")
    printed, said = again.communicate(timeout=60)
    assert again.returncode == 0, said
    found = FleetDocument.model_validate_json(printed)
    assert [one.model.rpartition("#")[2] for one in found.results] == ["gguf-f32"] * 2 + ["gguf-f16"] * 2
    assert {one.run for one in found.results} == {found.created}
    assert lines(log, "bench") == 5


def test_two_fleets_write_into_one_store_at_once(start: Start, devices: Devices, tmp_path: Path) -> None:
    program = stand_in(tmp_path / "runner")
    names = ["a", "b", "c", "d"]
    for name in names:
        devices.add(name, "qemu", program, machine="x86_64", program="sh")
    both = [start("--device", first, "--device", second, "--json") for first, second in ("ab", "cd")]
    for process in both:
        printed, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert json.loads(printed)["schema"] == "edgestill.fleet/1"
    assert sorted(stored(tmp_path / "store.sqlite")) == [(n, a) for n in names for a in ("gguf-f16", "gguf-f32")]


def stored_now(folder: Path) -> list[tuple[str, str]]:
    path = folder / "store.sqlite"
    try:
        return stored(path) if path.is_file() else []
    except sqlite3.Error:  # it is being made
        return []
