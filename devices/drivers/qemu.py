"""qemu: another ISA on this machine, by qemu's user mode: what it computes there, never how fast.

Source: https://www.qemu.org/docs/master/user/main.html
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from edgestill.devices.contract import DeviceSettings, DeviceUnreachable, Job, Probe, RunResult
from edgestill.devices.drivers.local import Local
from edgestill.devices.shell_device import ShellSettings
from edgestill.devices.timeless import without_times

_WHY = "the processor is emulated by qemu: its times say nothing about a device"


class QemuSettings(ShellSettings):
    """The keys of a qemu device's table."""

    machine: str
    """The ISA as ``uname -m`` names it: aarch64, arm, riscv64, x86_64 ..."""
    cpu: str | None = None
    """qemu's name of a processor (``cortex-a53``); None is qemu's own choice."""
    program: str | None = None
    """The emulator; None looks for ``qemu-MACHINE-static`` and ``qemu-MACHINE``."""


class Qemu(Local):
    """This machine's files and kernel, another machine's instructions."""

    kind: ClassVar[str] = "qemu"
    summary: ClassVar[str] = "another ISA on this machine by qemu-user: correctness only"
    settings_type: ClassVar[type[DeviceSettings]] = QemuSettings
    latency = False

    def __init__(self, name: str, settings: QemuSettings) -> None:
        self.default_root = f"~/.edgestill-{name}"  # another ISA's runner than this machine's own
        super().__init__(name, settings)
        self._machine_name = settings.machine
        self._cpu = settings.cpu
        self._program = settings.program

    def program_words(self) -> Sequence[str]:
        isa = {"armv7l": "arm", "armv7": "arm", "arm64": "aarch64"}.get(self._machine_name, self._machine_name)
        names = [self._program] if self._program else [f"qemu-{isa}-static", f"qemu-{isa}"]
        found = next((path for name in names if (path := shutil.which(name)) is not None), None)
        if found is None:
            raise DeviceUnreachable(f"{self.name}: no {' or '.join(names)} here; install qemu-user-static")
        return [found, *(("-cpu", self._cpu) if self._cpu else ())]

    def _connect(self) -> None:
        self.program_words()

    def _machine(self, found: Probe) -> Probe:
        return replace(
            found,
            machine=self._machine_name,
            cpu=f"emulated {self._cpu or self._machine_name}",
            clusters=(),
            isa_features=(),
            notes=(_WHY,),
        )

    def _after(self, job: Job, result: RunResult) -> RunResult:
        return without_times(result, _WHY)
