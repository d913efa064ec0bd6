"""An adb server of the tests' own, on a port of its own, with keys of its own: nobody else's is disturbed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.devices.adb_device import AdbDevice


def missing_programs() -> list[str]:
    """The programs that tests of adb need and this machine doesn't have."""
    return [name for name in ("adb", "busybox", "flock") if shutil.which(name) is None]


class AdbServer:
    """``with AdbServer(home) as server: server.connect(device)``; killed at the end."""

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.environment = {
            **os.environ,
            "HOME": os.fspath(home),
            "TMPDIR": os.fspath(home),  # where it writes its log
            "ANDROID_SDK_HOME": os.fspath(home),
            "ANDROID_ADB_SERVER_PORT": str(self.port),
            "ADB_MDNS_AUTO_CONNECT": "0",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AdbServer:
        command = ["adb", "-P", str(self.port), "nodaemon", "server"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, env=self.environment, stdin=quiet, stdout=quiet, stderr=quiet)
        # Not by asking adb: it would start a second server, which nobody ends.
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            assert self._process.poll() is None, "adb's server ended"
            assert time.monotonic() < deadline, "adb's server doesn't listen"
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def adb(self, *words: str, data: bytes = b"", timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        """Run the real adb against this server."""
        command = ["adb", *words]
        return subprocess.run(command, env=self.environment, input=data, capture_output=True, timeout=timeout)

    def connect(self, device: AdbDevice) -> None:
        """Make ``device`` known, and wait until it answers."""
        self.adb("connect", device.serial)
        self.adb("-s", device.serial, "wait-for-device")
