"""The contract's target for Android: a phone of ours behind the real adb program and a server of its own."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgestill.runtime.native.build import NativeBuild
from tests.devices.adb_device import AdbDevice
from tests.devices.adb_phone import Phone
from tests.devices.adb_server import AdbServer, missing_programs
from tests.devices.contract_targets import Target


class AdbTarget(Target):
    """A phone of ours whose root is a folder of this machine."""

    left_out: Mapping[str, str] = {
        "a_disk_that_fills_in_the_middle_keeps_what_arrived": "adb takes megabytes before it sends the first; "
        "test_a_disk_that_fills_once_bytes_arrive_keeps_them is the same for it",
    }

    def __init__(self, folder: Path, native: NativeBuild) -> None:
        super().__init__(folder, native)
        if missing := missing_programs():
            pytest.skip(f"needs {', '.join(missing)}")
        (folder / "adb home").mkdir()
        self.server = AdbServer(folder / "adb home").__enter__()
        self.device = AdbDevice(Phone(folder / "phone", folder / "system")).__enter__()
        # In front of adb, so that every process finds this server and no other.
        self.adb = folder / "adb"
        mine = ("HOME", "TMPDIR", "ANDROID_SDK_HOME", "ANDROID_ADB_SERVER_PORT", "ADB_MDNS_AUTO_CONNECT")
        words = [f"{name}={shlex.quote(self.server.environment[name])}" for name in mine]
        self.adb.write_text(f'#!/bin/sh\n{" ".join(words)} exec {shutil.which("adb")} "$@"\n')
        self.adb.chmod(0o755)

    def settings(self) -> dict[str, Any]:
        return {"driver": "adb", "serial": self.device.serial, "adb": str(self.adb), "root": str(self.root)}

    def cut(self) -> None:
        # adb takes megabytes before it sends the first: what is cut has begun at the phone too.
        deadline = time.monotonic() + 10
        while not self.has_begun(self.root) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.device.disconnect()
        # What had arrived is still being written: a case looks at it when it is.
        deadline = time.monotonic() + 5
        while not self.device.phone.is_quiet() and time.monotonic() < deadline:
            time.sleep(0.01)

    def has_begun(self, root: Path) -> bool:
        """Whether bytes of a push have arrived below ``root``, or a job runs."""
        partials = root.glob("**/.partial/*")
        return any(path.stat().st_size for path in partials) or any(
            "edgestill-run" in line for line in self.processes()
        )

    def wire_bytes(self) -> int | None:
        return self.device.received_bytes

    def close(self) -> None:
        super().close()
        self.device.__exit__()
        self.server.__exit__()
