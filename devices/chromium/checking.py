"""``devices check`` of a browser: one step after the other, each with its cure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgestill.devices.chromium.folder import DeviceFolder
from edgestill.devices.chromium.installed import WebModules, find_chromium, need_playwright
from edgestill.devices.contract import Check, DeviceError, Driver, DriverError, Probe

_ROOM: Final = 64 << 20


def walk(device: Driver, folder: DeviceFolder, modules: WebModules, browser: Path | None) -> list[Check]:
    """Return each step; the first that makes the others impossible ends the walk."""
    checks = [_modules(modules)]
    try:
        need_playwright(device.name)
        checks.append(Check("playwright", True, "installed"))
        program = find_chromium(device.name, browser)
        checks.append(Check("browser", True, program))
        folder.make()
        checks.append(Check("folder", True, str(folder.path)))
        found = device.probe()
    except (DriverError, DeviceError) as error:
        message, _, cure = str(error).partition("; ")
        return [*checks, Check("reach", False, message, cure or "see the message")]
    cores = f"{found.cores} core{'' if found.cores == 1 else 's'}"
    checks.append(Check("reach", True, f"{found.system}, {found.machine}, {cores}"))
    room = found.free_disk_bytes
    free = "unknown" if room is None else f"{room / 1e6:,.0f} MB free"
    checks.append(Check("room", None if room is None else room >= _ROOM, free, "free some room on this disk"))
    checks += _features(found)
    return checks


def _modules(modules: WebModules) -> Check:
    missing = modules.missing()
    if not missing:
        return Check("runner", True, f"npm packages in {modules.folder}")
    where = f"{', '.join(missing)} in {modules.folder}"
    return Check("runner", False, where, f"{modules.cure} (or web_modules = another node_modules)")


def _features(found: Probe) -> list[Check]:
    there = " ".join(found.isa_features) or "none"
    simd = "simd128" in found.isa_features
    checks = [Check("WebAssembly", simd, there, "" if simd else "a newer browser: the engines need simd128")]
    wide = "memory64" in found.isa_features
    checks.append(Check("gguf", wide, there, "" if wide else "a newer browser: wllama needs memory64; onnx works"))
    threads = "threads" in found.isa_features
    cure = "" if threads else "one thread only: isolated = false, or a browser without shared memory"
    # Not isolated is a setting, not a fault.
    checks.append(Check("threads", True if threads else None, "yes" if threads else "no", cure))
    return checks
