"""The ssh driver against a real OpenSSH server: keys, host keys, jump hosts, hosts that aren't there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgestill.cli import main
from edgestill.devices.contract import DeviceError, DeviceUnreachable, DriverError
from edgestill.devices.drivers.ssh import Ssh, SshSettings, fingerprint, host_keys, sweep
from edgestill.devices.registry import checked, open_device
from tests.devices.contract_targets import SshServer, new_key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    server = SshServer(tmp_path_factory.mktemp("ssh server"))
    yield server
    server.close()


@pytest.fixture
def known(server: SshServer, tmp_path: Path) -> Path:
    path = tmp_path / "known hosts"
    path.write_text(server.known_as(server.port))
    return path


def opened(server: SshServer, known: Path, **changed: object) -> Ssh:
    table = {
        "driver": "ssh",
        "host": "127.0.0.1",
        "port": server.port,
        "identity": server.identity,
        "known_hosts": known,
        "root": str(known.parent / "root"),
    }
    return Ssh("board", SshSettings.model_validate(table | changed))


def refusal(driver: Ssh) -> str:
    """Return the one line that a probe fails with."""
    with driver, pytest.raises(DeviceUnreachable) as error:
        driver.probe()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("board: ")
    (check,) = driver.check()
    assert check.ok is False
    return str(error.value)


def test_a_key_and_a_known_host_key_open_the_connection(server: SshServer, known: Path) -> None:
    with opened(server, known) as driver:
        assert driver.probe().kind == "ssh"


def test_a_closed_driver_leaves_no_socket_and_opens_again(server: SshServer, known: Path) -> None:
    driver = opened(server, known)
    for _ in range(2):
        driver.probe()
        folder = driver._folder
        assert folder is not None
        assert folder.stat().st_mode & 0o777 == 0o700
        driver.close()
        assert not folder.exists()


def test_sockets_of_a_killed_host_are_swept_by_the_next(server: SshServer, known: Path, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    left, used, foreign = (
        tmp_path / name
        for name in (f"edgestill-ssh-{ended.pid}-x", f"edgestill-ssh-{os.getpid()}-x", "edgestill-ssh-x-y")
    )
    for folder in (left, used, foreign):
        folder.mkdir()
    (left / "s").write_bytes(b"")
    sweep(tmp_path)
    assert [folder.exists() for folder in (left, used, foreign)] == [False, True, True]
    with opened(server, known) as driver:
        driver.probe()
        assert driver._folder is not None
        assert driver._folder.name.startswith(f"edgestill-ssh-{os.getpid()}-")


def test_an_unknown_host_key_is_refused(server: SshServer, tmp_path: Path) -> None:
    assert "--accept-host-key" in refusal(opened(server, tmp_path / "none"))


def test_a_changed_host_key_is_refused(server: SshServer, known: Path, tmp_path: Path) -> None:
    other = new_key(tmp_path / "other").with_suffix(".pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{server.port} {' '.join(other)}\n")
    assert "has changed" in refusal(opened(server, known))


def test_a_key_that_the_host_does_not_accept_is_refused(server: SshServer, known: Path, tmp_path: Path) -> None:
    assert "doesn't accept the key" in refusal(opened(server, known, identity=new_key(tmp_path / "stranger")))


def test_a_key_that_is_not_there_is_refused(server: SshServer, known: Path, tmp_path: Path) -> None:
    assert "key" in refusal(opened(server, known, identity=tmp_path / "none"))


def test_a_closed_port_and_an_unknown_name_are_unreachable(server: SshServer, known: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "refused" in refusal(opened(server, known, port=port))
    assert "can't be reached" in refusal(opened(server, known, host="no-such-host.invalid"))


def test_jump_hosts_are_gone_through_with_the_same_checks(server: SshServer, known: Path, tmp_path: Path) -> None:
    hop = f"127.0.0.1:{server.port}"
    with opened(server, known, jump=[hop, hop]) as driver:
        assert driver.probe().cores >= 1
    empty = tmp_path / "empty"
    empty.write_text("")
    refusal(opened(server, empty, jump=[hop]))


def test_no_ssh_program_is_said(server: SshServer, known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no ssh program" in refusal(opened(server, known))


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b", "", "a\nb"])
def test_a_host_that_is_no_name_is_refused(host: str) -> None:
    with pytest.raises(DeviceError, match="host"):
        checked("board", {"driver": "ssh", "host": host}, "file")
    with pytest.raises(DeviceError, match="jump"):
        checked("board", {"driver": "ssh", "host": "x", "jump": [host]}, "file")


def test_a_fingerprint_is_the_one_that_ssh_keygen_shows(server: SshServer) -> None:
    shown = subprocess.run(["ssh-keygen", "-lf", f"{server.host_key}.pub"], capture_output=True, text=True, check=True)
    (line,) = host_keys("board", SshSettings(driver="ssh", host="127.0.0.1", port=server.port))
    assert shown.stdout.split()[1] == fingerprint(line).split()[1]


def test_an_accepted_host_key_is_kept_and_a_new_one_replaces_it(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGESTILL_DEVICES", str(tmp_path / "settings" / "devices.toml"))
    stale = new_key(tmp_path / "stale").with_suffix(".pub").read_text().split()[:2]
    (tmp_path / "settings").mkdir()
    kept = tmp_path / "settings" / "known_hosts"
    kept.write_text(f"other ssh-ed25519 AAAA\n[127.0.0.1]:{server.port} {' '.join(stale)}\n")
    words = ["devices", "add", "board", "--driver", "ssh", "--host", "127.0.0.1", "--port", str(server.port)]
    words += ["--identity", str(server.identity), "--root", str(tmp_path / "root")]
    with pytest.raises(SystemExit):
        main(words)
    with open_device("board") as driver, pytest.raises(DriverError, match="has changed"):
        driver.probe()
    with pytest.raises(SystemExit) as done:
        main([*words, "--replace", "--accept-host-key"])
    assert done.value.code == 0
    assert "SHA256:" in capsys.readouterr().err
    assert kept.read_text() == f"other ssh-ed25519 AAAA\n{server.known_as(server.port)}"
    with open_device("board") as driver:
        assert driver.probe().cores >= 1
