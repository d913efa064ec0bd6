"""``bench --device``: several devices at once, each result kept at once, whatever the others do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgestill.bundle import Bundle
from edgestill.cli import main
from edgestill.devices.deploy import deploy
from edgestill.devices.drivers.local import Local
from edgestill.devices.registry import checked, make_driver, open_device
from edgestill.devices.store import Store
from edgestill.fleet_results import FleetDocument
from edgestill.runtime.native.build import NativeBuild
from edgestill.schemas import schema_text
from tests.devices.contract_targets import SshServer
from tests.devices.fleet_ground import Devices, make_bundle, stand_in, stored


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tiny_checkpoint, tmp_path_factory.mktemp("fleet-bundle"))


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Devices:
    made = Devices(tmp_path)
    monkeypatch.setenv("EDGESTILL_DEVICES", str(made.file))
    monkeypatch.setenv("EDGESTILL_STORE", str(tmp_path / "store.sqlite"))
    return made


class Bench:
    """Runs ``bench`` and keeps what it printed."""

    def __init__(self, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
        self._bundle, self._capsys = bundle, capsys
        self.out = self.err = ""

    def __call__(self, devices: str, *words: str, model: str = "") -> int:
        named = [word for name in devices.split() for word in ("--device", name)]
        with pytest.raises(SystemExit) as ended:
            main(["bench", f"{self._bundle.folder}{model}", *named, *words])
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)

    @property
    def document(self) -> FleetDocument:
        jsonschema.validate(json.loads(self.out), json.loads(schema_text("fleet")), jsonschema.Draft202012Validator)
        return FleetDocument.model_validate_json(self.out)


@pytest.fixture
def bench(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(bundle, capsys)


def measured(document: FleetDocument) -> set[tuple[str, str]]:
    return {(str(one.device), one.model.rpartition("#")[2]) for one in document.results}


def test_the_runner_itself_is_measured_here_and_held_down_and_both_are_kept(
    bench: Bench, devices: Devices, native_build: NativeBuild, bundle: Bundle, tmp_path: Path
) -> None:
    folder = native_build.header.parent
    devices.add("here", "local", folder)
    devices.add("small", "limited", folder, memory_bytes=256 << 20)
    words = ["--prompt-tokens", "16,32", "--new-tokens", "8", "--threads", "1", "--repetitions", "6"]
    assert bench("here small", "--json", *words) == 0
    found = bench.document
    assert measured(found) == {(d, a) for d in ("here", "small") for a in ("gguf-f32", "gguf-f16")}
    assert len(found.results) == 8
    assert found.bundle_sha256 == bundle.manifest.content_sha256
    for one in found.results:
        here = one.device == "here"
        assert (one.decode_tokens_per_second.value is not None, bool(one.raw.get("answer_seconds"))) == (here, here)
        assert "held down" in one.decode_tokens_per_second.source or here
        assert (one.peak_pss_bytes.value or 0) > 1e6
        assert (one.prompt_tokens in (16, 32), one.new_tokens, one.threads, one.repetitions) == (True, 8, 1, 6)
    here_device, small = found.devices
    assert (here_device.latency, small.latency) == (True, False)
    assert small.environment is not None
    assert [one.artifact for one in small.skipped] == ["onnx-fp32"]
    assert here_device.self_tests["gguf-f16"]["schema"] == "edgestill.selftest/1"
    assert all(one.facts["fits"] is True for one in found.results if one.device == "small")
    with Store(tmp_path / "store.sqlite") as store:
        assert len(store.query(device="here", bundle=bundle.manifest.content_sha256, artifact="gguf-f32")) == 2
        assert len(store.query(device="small")) == 4
    assert bench("here", "--json", "--no-store", *words) == 0
    assert bench.document.devices[0].push is not None
    assert bench.document.devices[0].push.files_sent == 0
    assert len(stored(tmp_path / "store.sqlite")) == 8


def test_three_kinds_of_devices_and_one_that_is_off_are_rows_of_one_document(
    bench: Bench, devices: Devices, tmp_path: Path
) -> None:
    devices.add_three(stand_in(tmp_path / "runner"))
    devices.add("off", "ssh", tmp_path / "runner", host="127.0.0.1", port=1)
    assert bench("here small other off", "--json") == 1
    found = bench.document
    assert measured(found) == {(d, a) for d in ("here", "small", "other") for a in ("gguf-f32", "gguf-f16")}
    assert [one.state for one in found.devices] == ["done", "done", "done", "failed"]
    (failure,) = found.failures
    assert failure.device == "off"
    assert "127.0.0.1:1 can't be reached" in failure.error
    assert failure.error.endswith("not measured: gguf-f32, gguf-f16")
    timeless = [one for one in found.results if one.device == "other"]
    assert all(one.answer_seconds.value is None and "emulated" in one.answer_seconds.source for one in timeless)
    assert bench.err.splitlines()[-1].startswith("error: off: 127.0.0.1:1 can't be reached")
    assert len(stored(tmp_path / "store.sqlite")) == 6


def test_an_artifact_that_fails_midway_leaves_the_others(bench: Bench, devices: Devices, tmp_path: Path) -> None:
    dies = stand_in(tmp_path / "dies", bench='case "$*" in *gguf-f32*) kill -9 $$;; esac')
    devices.add_three(stand_in(tmp_path / "runner"), dies)
    assert bench("here small other", "--json", "--out", str(tmp_path / "out.json")) == 1
    found = bench.document
    assert measured(found) >= {("small", "gguf-f16"), ("here", "gguf-f32"), ("other", "gguf-f32")}
    assert [(one.device, one.model.rpartition("#")[2]) for one in found.failures] == [("small", "gguf-f32")]
    assert "signal 9" in found.failures[0].error
    assert [one.state for one in found.devices] == ["done", "failed", "done"]
    assert FleetDocument.model_validate_json((tmp_path / "out.json").read_text()) == found


def test_an_artifact_that_computes_otherwise_is_not_measured_and_not_left(
    bench: Bench, devices: Devices, tmp_path: Path
) -> None:
    wrong = stand_in(tmp_path / "wrong", selftest='case "$*" in *gguf-f32*) echo "error: token 3" >&2; exit 1;; esac')
    root = devices.add("here", "local", wrong)
    assert bench("here", "--json") == 1
    assert measured(bench.document) == {("here", "gguf-f16")}
    assert "token 3" in bench.document.failures[0].error
    assert [path.name for path in (root / "bundles" / "fleet" / "artifacts").iterdir()] == ["gguf-f16"]
    assert not list(root.glob("staged/*/*"))


def test_nothing_is_left_of_a_bundle_no_artifact_of_which_is_right(
    bench: Bench, devices: Devices, tmp_path: Path
) -> None:
    root = devices.add("here", "local", stand_in(tmp_path / "wrong", selftest="echo 'error: no' >&2; exit 1"))
    assert bench("here", "--json") == 1
    assert len(bench.document.failures) == 2
    assert not list(root.rglob("*.gguf"))


def test_a_runner_that_is_given_comes_before_a_devices_own_unless_there_are_several_devices(
    bench: Bench, devices: Devices, bundle: Bundle, tmp_path: Path
) -> None:
    own, given = stand_in(tmp_path / "own", cpu="own"), stand_in(tmp_path / "given", cpu="given")
    root = devices.add("here", "local", own)
    devices.add("bare", "local", None)

    def used(names: str, *words: str) -> list[str | None]:
        assert bench(names, "--json", *words) == 0, bench.err
        return [None if one.environment is None else one.environment.cpu for one in bench.document.devices]

    assert used("here bare", "--runner", str(given)) == ["own", "given"]
    assert used("here", "--runner", str(given)) == ["given"]
    assert used("here") == ["own"]
    with open_device("here") as driver:
        deploy(bundle, driver, runner=given)
    assert (root / "runner" / "edgestill-run").read_bytes() == given.read_bytes()


def test_what_does_not_fit_is_not_sent(bench: Bench, devices: Devices, tmp_path: Path) -> None:
    root = devices.add("tiny", "limited", stand_in(tmp_path / "runner"), memory_bytes=1 << 20)
    assert bench("tiny", "--json") == 1
    assert bench.document.results == ()
    assert all("doesn't fit" in one.error for one in bench.document.failures)
    assert "--no-fit-check measures it all the same" in bench.document.failures[0].error
    assert not list(root.rglob("*.gguf"))


def test_a_runner_that_speaks_otherwise_is_a_failure_that_says_so(
    bench: Bench, devices: Devices, tmp_path: Path
) -> None:
    devices.add("here", "local", stand_in(tmp_path / "old", bench='echo "{}"; exit 0'))
    assert bench("here", "--json", model="#gguf-f16") == 1
    assert "what it printed is no bench result" in bench.document.failures[0].error


def test_onnx_is_measured_where_the_device_runs_it(
    bench: Bench, devices: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices.add("here", "local", stand_in(tmp_path / "runner"))
    assert bench("here", "--json", model="#onnx-fp32") == 1
    assert "runs gguf only" in bench.document.failures[0].error
    monkeypatch.setattr(Local, "formats", ("gguf", "onnx"))
    assert bench("here", "--json", model="#onnx-fp32") == 0
    assert measured(bench.document) == {("here", "onnx-fp32")}


def test_devices_work_at_the_same_time_unless_they_share_their_hardware(
    bench: Bench, devices: Devices, tmp_path: Path
) -> None:
    """Two benches wait for each other: with one after the other neither would end. Two on one machine never overlap."""
    server_folder = tmp_path / "server"
    server_folder.mkdir()
    server = SshServer(server_folder)
    known = tmp_path / "known"
    known.write_text(server.known_as(server.port))
    meet = "touch {me}; for i in $(seq 300); do [ -e {other} ] && break; sleep 0.1; done; [ -e {other} ] || exit 1"
    marks = {"me": tmp_path / "here-was", "other": tmp_path / "board-was"}
    alone = f"mkdir {tmp_path}/busy || exit 1; sleep 0.2; rmdir {tmp_path}/busy"
    here = stand_in(tmp_path / "a", bench=f"{meet.format(**marks)}; {alone}")
    board = stand_in(tmp_path / "b", bench=meet.format(me=marks["other"], other=marks["me"]))
    devices.add("here", "local", here)
    devices.add("small", "limited", stand_in(tmp_path / "c", bench=alone), memory_bytes=256 << 20)
    connection = {"host": "127.0.0.1", "port": server.port, "identity": str(server.identity), "known_hosts": str(known)}
    devices.add("board", "ssh", board, **connection)
    try:
        assert bench("here small board", "--json") == 0, bench.err
    finally:
        server.close()
    assert len(bench.document.results) == 6


def test_devices_of_this_machine_have_folders_of_their_own() -> None:
    """In one folder their pushes and benches would refuse each other, and another ISA's runner replace this one's."""
    tables: list[dict[str, object]] = [
        {"driver": "local"},
        {"driver": "limited", "cores": 1},
        {"driver": "limited", "cores": 2},
        {"driver": "qemu", "machine": "aarch64"},
    ]
    made = [make_driver(f"d{number}", checked(f"d{number}", table, "test")) for number, table in enumerate(tables)]
    roots = [one.root for one in made if isinstance(one, Local)]
    assert len(set(roots)) == len(tables)
    assert not any(a != b and a.startswith(f"{b}/") for a in roots for b in roots)


@pytest.mark.parametrize(
    ("names", "words", "said"),
    [
        ("here here", [], "--device here is given 2 times"),
        ("here nobody", [], "device 'nobody' is not in"),
        ("here", ["--depth", "0,1024"], "--depth: the bench of a device hasn't it"),
        ("here", ["--sessions", "2"], "--sessions: the bench of a device hasn't it"),
        ("here", ["--engine", "torch"], "--engine: the bench of a device hasn't it"),
        ("here", ["--format", "pyperf"], "has no place for a device"),
        ("here", ["--resume"], "--resume goes on from what --out FILE.json holds"),
        ("here", ["--kv-precision", "int3"], "int3"),
        ("", ["--resume"], "--resume is for devices"),
        ("", ["--no-store"], "--no-store is for devices"),
    ],
)
def test_what_no_device_can_do_is_refused_by_name_before_any_work(
    bench: Bench, devices: Devices, tmp_path: Path, names: str, words: list[str], said: str
) -> None:
    root = devices.add("here", "local", stand_in(tmp_path / "runner"))
    assert bench(names, *words) == 2
    assert said in bench.err
    assert (bench.out, root.exists(), (tmp_path / "store.sqlite").exists()) == ("", False, False)


def test_an_option_that_one_device_lacks_is_refused_with_its_name(
    bench: Bench, devices: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices.add("here", "local", stand_in(tmp_path / "runner"))
    monkeypatch.setattr(Local, "bench_options", frozenset({"prompt_tokens", "new_tokens", "repetitions"}))
    assert bench("here", "--no-mmap") == 2
    assert "--no-mmap: the bench of here (local) hasn't it" in bench.err


def test_options_reach_the_runner(bench: Bench, devices: Devices, tmp_path: Path) -> None:
    log = tmp_path / "log"
    devices.add("here", "local", stand_in(tmp_path / "runner", bench=f'echo "$*" >>{log}'))
    words = ["--prompt-tokens", "16,32", "--threads", "1", "--kv-precision", "q8_0", "--no-mmap", "--depth", "0"]
    assert bench("here", "--json", *words, model="#gguf-f16") == 0
    lines = log.read_text().splitlines()
    assert [line.split("--prompt-tokens ")[1].split()[0] for line in lines] == ["16", "32"]
    for line in lines:
        assert "--artifact gguf-f16" in line
        assert "--threads 1 --repetitions 10 --kv-precision q8_0 --no-mmap" in line


@pytest.mark.parametrize(("name", "beginning"), [("out.csv", "model,engine"), ("out.md", "## here (local): done")])
def test_the_file_may_be_a_table(bench: Bench, devices: Devices, tmp_path: Path, name: str, beginning: str) -> None:
    devices.add("here", "local", stand_in(tmp_path / "runner"))
    devices.add("off", "ssh", tmp_path / "runner", host="127.0.0.1", port=1)
    assert bench("here off", "--out", str(tmp_path / name)) == 1
    text = (tmp_path / name).read_text()
    assert text.startswith(beginning)
    assert "can't be reached" in text
    assert "failed: off: 127.0.0.1:1 can't be reached" in bench.out


def test_a_store_that_cannot_be_written_is_told_and_loses_no_result(
    bench: Bench, devices: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgestill.errors import StageError

    def full(*_: Any, **__: Any) -> int:
        raise StageError("disk full")

    devices.add("here", "local", stand_in(tmp_path / "runner"))
    monkeypatch.setattr(Store, "add", full)
    assert bench("here", "--json") == 1
    assert len(bench.document.results) == 2
    assert "not in the store: disk full" in bench.err


def test_a_store_that_is_none_stops_it_before_any_work(bench: Bench, devices: Devices, tmp_path: Path) -> None:
    root = devices.add("here", "local", stand_in(tmp_path / "runner"))
    other = tmp_path / "other.sqlite"
    other.write_bytes(b"not a database, but long enough to look at" * 100)
    assert bench("here", "--store", str(other)) == 2
    assert "not a store of results" in bench.err
    assert not root.exists()
