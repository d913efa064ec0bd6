"""What the browser says of itself, and what this machine, on which it runs, says."""

from __future__ import annotations

import os
from typing import cast

from edgestill.devices import linux_probe
from edgestill.devices.chromium.files import BrowserFiles
from edgestill.devices.chromium.session import Chromium
from edgestill.devices.contract import DriverError, Probe
from edgestill.devices.drivers.local import Local
from edgestill.devices.shell_device import ShellSettings


def probe(name: str, kind: str, chromium: Chromium, files: BrowserFiles, *, latency: bool, why: str) -> Probe:
    """Return both; ``why`` says why times mean nothing where they don't. Raises DeviceUnreachable."""
    said = cast("dict[str, object]", chromium.evaluate("window.edgestillProbe()"))
    machine = _this_machine(name)
    features = cast("list[str]", said["features"])
    versions = [one for one in cast("list[str]", said["versions"]) if "Chrom" in one]
    memory = said["memoryGibibytes"]
    return Probe(
        device=name,
        kind=kind,
        system=f"{(versions or ['a browser'])[0]} as on {said['platform']}",
        machine=os.uname().machine,
        cores=int(str(said["cores"])),
        ram_bytes=None if machine is None else machine.ram_bytes,
        free_ram_bytes=None if machine is None else machine.free_ram_bytes,
        free_disk_bytes=files.free_bytes(),
        latency=latency,
        model=str(said["model"]) if said["model"] else chromium.launch.emulate,
        cpu=None if machine is None else machine.cpu,
        isa_features=tuple(features),
        facts={
            "user_agent": str(said["userAgent"]),
            "cross_origin_isolated": bool(said["isolated"]),
            "webgpu": str(said["webgpu"]) if said["webgpu"] else False,
            "touch": bool(said["touch"]),
            "viewport": str(said["viewport"]),
            "device_memory_bytes": None if memory is None else int(float(str(memory)) * (1 << 30)),
            "cpu_throttling": chromium.launch.cpu_throttling,
            "throttled_by": chromium.throttled_by,
        },
        notes=(
            *([why] if why else []),
            "memory and processor are this machine's; what a page may have of them the browser doesn't say",
        ),
    )


def _this_machine(name: str) -> Probe | None:
    try:
        with Local(name, ShellSettings(driver="local")) as here:
            return linux_probe.parsed(here.shell(linux_probe.script("/")).text, name, "local", latency=True)
    except DriverError:
        return None
