"""local: this machine, as a device: a folder of its own and the same runner that any board gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from edgestill.devices.contract import DeviceSettings
from edgestill.devices.shell_device import ShellDevice, ShellSettings


class Local(ShellDevice):
    """This machine; its transport is a shell."""

    kind: ClassVar[str] = "local"
    summary: ClassVar[str] = "this machine"
    settings_type: ClassVar[type[DeviceSettings]] = ShellSettings
    hardware: ClassVar[str | None] = "this machine"

    def _transport(self, script: str) -> list[str]:
        return ["sh", "-c", script]

    def _environment(self) -> Mapping[str, str] | None:
        # A job must run here as it does elsewhere, whatever this process was told about threads.
        return {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GGML_"))}
