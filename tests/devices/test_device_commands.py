"""``edgestill devices`` and ``edgestill deploy``: what they print, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgestill.bundle import Bundle
from edgestill.cli import main
from edgestill.devices.profile import load_profile
from edgestill.runtime.native.build import NativeBuild


class Shell:
    """Runs commands and keeps what they printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main(list(words))
        printed = self._capsys.readouterr()
        return int(str(done.value.code or 0)), printed.out, printed.err


@pytest.fixture
def edgestill(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("EDGESTILL_DEVICES", str(tmp_path / "devices.toml"))
    return Shell(capsys)


def test_a_device_from_its_addition_to_its_removal(
    edgestill: Shell, native_build: NativeBuild, hostile_bundle: Bundle, tmp_path: Path
) -> None:
    root = tmp_path / "the device's $root"
    runner = str(native_build.header.parent)
    status, _, _ = edgestill("devices", "add", "me", "--driver", "local", "--runner", runner, "--root", str(root))
    assert status == 0
    status, out, _ = edgestill("devices", "list", "--json")
    listed = json.loads(out)
    assert [one["name"] for one in listed["devices"]] == ["local", "me"]
    assert {"local", "limited", "ssh", "qemu"} <= set(listed["drivers"])
    status, out, _ = edgestill("devices", "check", "me")
    assert (status, "not yet  runner" in out) == (0, True)

    status, out, err = edgestill("deploy", str(hostile_bundle.folder), "--device", "me", "--json")
    assert (status, "error" in err) == (0, False)
    document = json.loads(out)
    assert document["push"]["sent_bytes"] > 0
    assert document["artifacts"][0]["selftest"]["schema"] == "edgestill.selftest/1"
    status, out, _ = edgestill("deploy", str(hostile_bundle.folder), "--device", "me")
    assert "0 files sent" in out
    assert "self-test passed" in out

    status, out, _ = edgestill("devices", "check", "me", "--json")
    assert json.loads(out)["ok"] is True
    status, out, _ = edgestill("devices", "remove", "me")
    assert status == 0
    assert not root.exists()
    assert edgestill("devices", "check", "me")[0] == 2


def test_a_probe_writes_a_profile(edgestill: Shell, tmp_path: Path) -> None:
    table = ["--driver", "qemu", "--set", "machine=x86_64", "--set", "program=sh", "--root", str(tmp_path / "root")]
    assert edgestill("devices", "add", "other", *table)[0] == 0
    status, out, err = edgestill("devices", "probe", "other")
    assert status == 0
    assert "latency means something: no" in out
    assert "emulated" in err
    status, out, _ = edgestill("devices", "probe", "other", "--out", str(tmp_path / "other.toml"), "--json")
    assert json.loads(out)["latency"] is False
    profile = load_profile(tmp_path / "other.toml")
    assert (profile.name, profile.isa) == ("other", "x86_64")
    assert profile.ram_bytes is not None


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["devices", "check", "nope"], 2, "device 'nope' is not in"),
        (["devices", "remove", "nope"], 2, "device 'nope' is not in"),
        (["devices", "add", "x", "--driver", "telnet"], 2, "'telnet' is not one of"),
        (["devices", "add", "x", "--driver", "ssh"], 2, "host: Field required"),
        (["devices", "add", "x", "--driver", "local", "--set", "passwd=1"], 2, "no password is kept"),
        (["devices", "add", "x", "--driver", "local", "--set", "root"], 2, "KEY=VALUE"),
        (["devices", "add", "x", "--driver", "local", "--accept-host-key"], 2, "is for ssh"),
        (["devices", "add", "../x", "--driver", "local"], 2, "letters, digits"),
        (["deploy", "none", "--device", "local"], 2, "no manifest.json"),
    ],
)
def test_bad_input_is_one_line(edgestill: Shell, words: list[str], status: int, said: str, tmp_path: Path) -> None:
    found, out, err = edgestill(*words)
    assert (found, out) == (status, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "devices.toml").exists()


def test_a_device_that_is_off_is_one_line_and_can_be_removed(edgestill: Shell, hostile_bundle: Bundle) -> None:
    table = ["--driver", "ssh", "--host", "127.0.0.1", "--port", "1"]
    assert edgestill("devices", "add", "off", *table)[0] == 0
    for words in (["deploy", str(hostile_bundle.folder), "--device", "off"], ["devices", "remove", "off"]):
        status, _, err = edgestill(*words)
        assert (status, err.splitlines()[-1].startswith("error: off: 127.0.0.1:1 can't be reached")) == (1, True)
    status, out, _ = edgestill("devices", "check", "off")
    assert (status, out.startswith("missing  reach")) == (1, True)
    assert edgestill("devices", "remove", "off", "--keep-files")[0] == 0
