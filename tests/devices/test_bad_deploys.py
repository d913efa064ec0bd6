"""``edgestill deploy`` of what can't be: one line, exit status 1 or 2, and nothing left on the device."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgestill.bundle import Bundle, open_bundle
from edgestill.cli import main
from edgestill.devices.contract import Probe
from edgestill.devices.deploy import deploy
from edgestill.devices.fit_bundle import fit_before_push
from edgestill.devices.registry import checked, make_driver
from edgestill.errors import GateError
from edgestill.runtime.native.build import NativeBuild
from edgestill.signing import sign_bundle
from tests.devices.adb_device import AdbDevice
from tests.devices.adb_phone import Phone
from tests.devices.adb_server import AdbServer
from tests.devices.contract_ground import Ground
from tests.devices.contract_job_cases import with_other_answers
from tests.devices.contract_targets import LocalTarget, SshServer, new_key
from tests.edgestill.test_signing import write_keys

MEGABYTE = 1_000_000
Refusal = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The device's folder; what it says of devices.toml holds for one named ``box``."""
    return tmp_path / "root"


@pytest.fixture
def refusal(
    hostile_bundle: Bundle,
    native_build: NativeBuild,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Refusal:
    """A call that adds a device, deploys to it, sees that it fails as it should, and returns the line."""
    monkeypatch.setenv("EDGESTILL_DEVICES", str(tmp_path / "devices.toml"))

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main(list(words))
        printed = capsys.readouterr()
        return int(str(done.value.code or 0)), printed.out, printed.err

    def refused(*table: str, status: int, bundle: Path | None = None, words: tuple[str, ...] = ()) -> str:
        runner = str(native_build.header.parent)
        added = ("--runner", runner, "--root", str(root), "--replace")
        assert run("devices", "add", "box", *table, *added)[0] == 0
        found, out, err = run("deploy", str(bundle or hostile_bundle.folder), "--device", "box", *words)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (found, out, len(lines)) == (status, "", 1), err
        assert "Traceback" not in err
        assert err.splitlines()[-1] == lines[0]
        return lines[0]

    return refused


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    server = SshServer(tmp_path_factory.mktemp("ssh server"))
    yield server
    server.close()


def over_ssh(server: SshServer, known: Path, identity: Path | None = None) -> list[str]:
    place = ["--driver", "ssh", "--host", "127.0.0.1", "--port", str(server.port), "--set", f"known_hosts={known}"]
    return [*place, "--identity", str(identity or server.identity)]


def test_a_key_that_the_board_does_not_know(server: SshServer, refusal: Refusal, root: Path, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(server.known_as(server.port))
    said = refusal(*over_ssh(server, known, new_key(tmp_path / "stranger")), status=1)
    assert "doesn't accept the key" in said
    assert not root.exists()


def test_a_host_key_that_changed(server: SshServer, refusal: Refusal, root: Path, tmp_path: Path) -> None:
    other = new_key(tmp_path / "other").with_suffix(".pub").read_text().split()[:2]
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{server.port} {' '.join(other)}\n")
    assert "the host key of 127.0.0.1" in refusal(*over_ssh(server, known), status=1)
    assert not root.exists()


def test_a_board_that_is_off(refusal: Refusal, root: Path) -> None:
    said = refusal("--driver", "ssh", "--host", "127.0.0.1", "--port", "1", status=1)
    assert "can't be reached" in said
    assert not root.exists()


def test_no_adb_program(refusal: Refusal, root: Path, tmp_path: Path) -> None:
    said = refusal("--driver", "adb", "--set", f"adb={tmp_path / 'no adb'}", status=1)
    assert "isn't a program" in said
    assert not root.exists()


def test_no_adb_on_the_path(refusal: Refusal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no adb program here" in refusal("--driver", "adb", status=1)


@pytest.mark.parametrize("fault", ["silent", "unauthorized", "gone"])
def test_a_phone_that_does_not_answer(
    fault: str, refusal: Refusal, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adb home").mkdir()
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    with (
        AdbServer(tmp_path / "adb home") as adb,
        AdbDevice(Phone(tmp_path / "phone", tmp_path / "system")) as device,
    ):
        for name, value in adb.environment.items():
            monkeypatch.setenv(name, value)
        setattr(device.faults, fault, True)
        said = refusal("--driver", "adb", "--serial", device.serial, status=1)
    assert said.startswith("error: box: the phone ")
    assert not root.exists()


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_without_room(refusal: Refusal, root: Path) -> None:
    with small_disk(root, 1 << 20):
        said = refusal("--driver", "local", status=1)
        assert "are free there" in said
        assert not [path for path in root.rglob("*") if path.is_file() and path.name[0] != "."]


def test_a_bundle_whose_bytes_are_not_its_manifests(
    refusal: Refusal, root: Path, hostile_bundle: Bundle, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(hostile_bundle.folder, tmp_path / "damaged"))
    model = next(damaged.glob("artifacts/gguf-f32/*.gguf"))
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    assert model.name in refusal("--driver", "local", status=2, bundle=damaged)
    assert not root.exists()


def test_a_bundle_that_is_not_signed_by_the_key_that_is_asked_for(
    refusal: Refusal, root: Path, hostile_bundle: Bundle, tmp_path: Path
) -> None:
    write_keys(tmp_path, "ours")
    write_keys(tmp_path, "theirs")
    signed = open_bundle(Path(shutil.copytree(hostile_bundle.folder, tmp_path / "signed")))
    asked = ("--public-key", str(tmp_path / "ours.pub"))
    assert "not signed" in refusal("--driver", "local", status=2, bundle=signed.folder, words=asked)
    sign_bundle(signed, tmp_path / "theirs.pem")
    assert "model.sig" in refusal("--driver", "local", status=2, bundle=signed.folder, words=asked)
    assert not root.exists()


def test_a_bundle_that_computes_otherwise_there(
    refusal: Refusal, root: Path, hostile_bundle: Bundle, native_build: NativeBuild, tmp_path: Path
) -> None:
    target = LocalTarget(tmp_path / "target", native_build)
    with target.driver() as driver:
        wrong = with_other_answers(Ground(target, driver, tmp_path, hostile_bundle))
    said = refusal("--driver", "local", status=1, bundle=wrong.folder)
    assert "golden prompt 1" in said
    assert "nothing of the bundle is left there" in said
    assert not root.exists()


def test_a_bundle_for_more_memory_than_is_free(refusal: Refusal, root: Path) -> None:
    said = refusal("--driver", "limited", "--set", "memory_bytes=4000000", status=1)
    assert said.startswith("error: box: gguf-f32 doesn't fit: ")
    assert "--no-fit-check" in said
    assert not root.exists()


def test_a_context_that_would_fit_is_named_and_then_deployed(
    refusal: Refusal, root: Path, hostile_bundle: Bundle, native_build: NativeBuild
) -> None:
    from edgestill.devices.fit import Setting, need_of
    from edgestill.devices.model_facts import read_facts
    from edgestill.runtime.model_source import locate_model

    table = {"driver": "limited", "root": str(root), "memory_bytes": 64 * MEGABYTE}
    with make_driver("box", checked("box", table, "test")) as driver:
        probe = driver.probe()
        facts = read_facts(locate_model(f"{hostile_bundle.folder}#gguf-f32"))
        need = need_of(facts, Setting(1, host="native"), probe.machine, probe.isa_features)
        limited = dataclasses.replace(probe, free_ram_bytes=int((need.needed.value or 0) + 50_000))
        with pytest.raises(GateError, match=r"a context of \d+ would fit \(--context\)") as error:
            fit_before_push(hostile_bundle, ["gguf-f32"], driver, limited)
        most = int(str(error.value).partition("a context of ")[2].split()[0])
        assert 0 < most < 256
        fit_before_push(hostile_bundle, ["gguf-f32"], driver, limited, most)
        program = native_build.header.parent
        assert deploy(hostile_bundle, driver, runner=program, context=256).self_tests["gguf-f32"].document
    refusal("--driver", "limited", "--set", "memory_bytes=4000000", status=1, words=("--no-fit-check",))


def test_a_device_that_says_nothing_of_its_memory_is_judged_by_its_profile(hostile_bundle: Bundle) -> None:
    silent = Probe("box", "local", "Linux", "x86_64", 1, None, None, None, latency=True)
    driver = make_driver("box", checked("box", {"driver": "local"}, "test"))
    (note,) = fit_before_push(hostile_bundle, ["gguf-f32"], driver, silent)
    assert "wasn't checked: it doesn't say how much memory is free" in note
    driver = make_driver("box", checked("box", {"driver": "local", "profile": "raspberry-pi-5"}, "test"))
    assert fit_before_push(hostile_bundle, ["gguf-f32"], driver, silent) == []


def test_another_artifact_that_would_fit_is_one_that_the_device_runs(hostile_bundle: Bundle) -> None:
    small = Probe("box", "local", "Linux", "x86_64", 1, None, 30 * MEGABYTE, None, latency=True)
    driver = make_driver("box", checked("box", {"driver": "local"}, "test"))
    with pytest.raises(GateError, match=r"box: onnx-fp32 .*; gguf-f32 of the bundle would fit"):
        fit_before_push(hostile_bundle, ["onnx-fp32"], driver, small)
    tiny = dataclasses.replace(small, free_ram_bytes=5 * MEGABYTE)
    with pytest.raises(GateError, match="nor does another artifact"):
        fit_before_push(hostile_bundle, ["gguf-f32"], driver, tiny)
