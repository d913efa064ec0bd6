"""Targets of the contract's suite: each says how to make a driver of one kind here, cut its connection, fill its disk.

A new driver adds a function to ``TARGETS``. All targets keep their files in a folder of this machine (``root``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from edgestill.devices.contract import Driver
from edgestill.devices.drivers.local import Local
from edgestill.devices.registry import checked, make_driver
from edgestill.devices.shell_device import ShellDevice
from edgestill.runtime.native.build import NativeBuild

SMALL_DISK_BYTES: Final = 8 << 20


class Target(ABC):
    """One kind of device. ``root`` is its folder as this machine sees it."""

    left_out: Mapping[str, str] = {}
    """Cases that can't be made here, by name, each with the reason."""
    bundle = "hostile_bundle"
    """The fixture of the bundle that its jobs run."""

    def __init__(self, folder: Path, native: NativeBuild) -> None:
        self.folder = folder
        self.root = folder / 'device\'s "folder" $HOME é'
        self.native = native
        self.drivers: list[Driver] = []

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the device's table."""

    @property
    def runner(self) -> dict[str, Path]:
        """The runner's files."""
        return {path.name: path for path in self.native.files if path.suffix != ".h"}

    @property
    def runner_program(self) -> Path:
        return self.runner["edgestill-run"]

    def driver(self, root: Path | None = None) -> Driver:
        """Make another driver of this device, or one with its folder elsewhere."""
        table = self.settings() | ({} if root is None else {"root": str(root)})
        driver = make_driver("box", checked("box", table, "test"))
        self.drivers.append(driver)
        return driver

    def cut(self) -> None:
        """Break the connections that are in use now."""
        for driver in self.drivers:
            assert isinstance(driver, ShellDevice)
            for talk in list(driver._talks):
                talk.kill_group()

    def let_go(self) -> None:
        """Let go of what the target itself holds of the device, so that another process can have it."""
        return

    def wire_bytes(self) -> int | None:
        """Return how many bytes have gone to the device so far; None where nothing counts them."""
        return None

    @contextlib.contextmanager
    def small_disk(self) -> Iterator[Path]:
        """Yield a folder of the device on a disk of SMALL_DISK_BYTES."""
        disk = self.folder / "small disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a small disk")
        try:
            yield disk
        finally:
            for driver in self.drivers:
                driver.close()
            subprocess.run(["umount", "-l", str(disk)], check=True)

    def files(self, folder: str) -> dict[str, bytes]:
        """Return what lies in a folder of the device, by path; a link as where it points."""
        base = self.root / folder
        return {
            path.relative_to(base).as_posix(): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            for path in base.rglob("*")
            if path.is_symlink() or path.is_file()
        }

    def processes(self) -> list[str]:
        """Return the command lines of what runs in the device's folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if Path(os.readlink(entry / "cwd")) == self.root and "State:\tZ" not in (entry / "status").read_text():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        return found

    def close(self) -> None:
        """End everything."""
        for driver in self.drivers:
            driver.close()


class LocalTarget(Target):
    def settings(self) -> dict[str, Any]:
        return {"driver": "local", "root": str(self.root)}


class BusyBoxTarget(LocalTarget):
    """A board whose programs are BusyBox's, its shell too."""

    _NO_LOCK = "Debian's busybox has no flock, so nothing holds the device"
    left_out: Mapping[str, str] = {
        "a_second_push_at_once_is_refused": _NO_LOCK,
        "a_second_bench_at_once_is_refused": _NO_LOCK,
    }

    def __init__(self, folder: Path, native: NativeBuild) -> None:
        super().__init__(folder, native)
        self._busybox = shutil.which("busybox")
        if self._busybox is None:
            pytest.skip("needs busybox")
        (folder / "bin").mkdir()
        subprocess.run([self._busybox, "--install", "-s", str(folder / "bin")], check=True)

    def driver(self, root: Path | None = None) -> Driver:
        driver = super().driver(root)
        assert isinstance(driver, Local)
        shell = [str(self.folder / "bin" / "sh"), "-c"]
        driver._transport = lambda script: [*shell, script]  # type: ignore[method-assign]
        driver._environment = lambda: {"PATH": str(self.folder / "bin"), "HOME": "/"}  # type: ignore[method-assign]
        return driver


class LimitedTarget(Target):
    def settings(self) -> dict[str, Any]:
        return {"driver": "limited", "root": str(self.root), "memory_bytes": 512 << 20, "cpu_share": 1.0, "cores": 1}


class QemuTarget(Target):
    """qemu-user runs a program of a few lines that answers as the runner does: cross compiling takes minutes."""

    _STAND_IN = "its program is a stand-in that computes nothing"
    left_out: Mapping[str, str] = {
        "a_bundle_that_computes_otherwise_leaves_nothing": _STAND_IN,
        "a_failed_update_leaves_the_version_before": _STAND_IN,
        "an_update_in_place_needs_no_second_version": _STAND_IN,
        "values_reach_the_program_unchanged": _STAND_IN,
    }

    def __init__(self, folder: Path, native: NativeBuild) -> None:
        super().__init__(folder, native)
        self._machine = os.uname().machine
        compiler = shutil.which("cc")
        if compiler is None or shutil.which(f"qemu-{self._machine}-static") is None:
            pytest.skip(f"needs cc and qemu-{self._machine}-static")
        self._program = folder / "stand-in" / "edgestill-run"
        self._program.parent.mkdir()
        source = Path(__file__).with_name("stand_in_runner.c")
        subprocess.run([compiler, "-static", "-O1", "-o", str(self._program), str(source)], check=True)

    @property
    def runner(self) -> dict[str, Path]:
        return {"edgestill-run": self._program}

    def settings(self) -> dict[str, Any]:
        return {"driver": "qemu", "root": str(self.root), "machine": self._machine}


@dataclass
class Wire:
    """A TCP connection by way of us: counted both ways, and cut when we like."""

    to_port: int
    sent: int = 0
    received: int = 0
    _open: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def close(self) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.to_port))
                self._open += [near, far]
                threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source: socket.socket, to: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                to.sendall(data)
                if counted:
                    self.sent += len(data)
                else:
                    self.received += len(data)
        for one in (source, to):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class SshServer:
    """OpenSSH's server on loopback, with a host key and a user's key of its own."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
            pytest.skip("needs OpenSSH's server and client")
        self.folder = folder
        self.identity = new_key(folder / "user key")
        self.host_key = new_key(folder / "host_key")
        (folder / "authorized_keys").write_text(self.identity.with_suffix(".pub").read_text())
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        keys = folder / "authorized_keys"
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f'HostKey "{self.host_key}"',
            f'AuthorizedKeysFile "{keys}"',
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "MaxStartups 100",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where the server gives up its rights
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=self.log)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"OpenSSH's server doesn't start here: {(folder / 'log').read_text()[-300:]}")
            time.sleep(0.05)

    def known_as(self, port: int) -> str:
        """Return the known_hosts line of this server behind a port."""
        return f"[127.0.0.1]:{port} {' '.join(self.host_key.with_suffix('.pub').read_text().split()[:2])}\n"

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        self.log.close()


def new_key(path: Path) -> Path:
    """Write an SSH key pair without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


class SshTarget(Target):
    def __init__(self, folder: Path, native: NativeBuild) -> None:
        super().__init__(folder, native)
        (folder / "server").mkdir()
        self.server = SshServer(folder / "server")
        self.wire = Wire(self.server.port)
        self.known_hosts = folder / "known hosts %h"
        self.known_hosts.write_text(self.server.known_as(self.wire.port))

    def settings(self) -> dict[str, Any]:
        return {
            "driver": "ssh",
            "host": "127.0.0.1",
            "port": self.wire.port,
            "identity": str(self.server.identity),
            "known_hosts": str(self.known_hosts),
            "root": str(self.root),
        }

    def cut(self) -> None:
        self.wire.cut()

    def wire_bytes(self) -> int | None:
        return self.wire.sent

    def close(self) -> None:
        super().close()
        self.wire.close()
        self.server.close()


TARGETS: Final[dict[str, Callable[[Path, NativeBuild], Target]]] = {
    "local": LocalTarget,
    "busybox": BusyBoxTarget,
    "limited": LimitedTarget,
    "ssh": SshTarget,
    "qemu": QemuTarget,
}
