"""Where a measurement is taken: processor, memory, system, versions, load."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Final

from edgestill.bench_results import Environment
from edgestill.runtime.engines import available_cpus

PACKAGES: Final = ("edgestill", "onnxruntime", "llama-cpp-python", "torch", "numpy", "tokenizers")
"""Packages whose versions bear on a measurement; their metadata is read, they aren't imported."""

_CPU_KEYS: Final = ("model name", "Model", "Hardware", "cpu model")


def describe_environment(cpuinfo: Path = Path("/proc/cpuinfo"), sysfs: Path = Path("/sys")) -> Environment:
    """Describe this machine as this process sees it: ``cores`` are those it may run on."""
    cores = [sysfs / "devices" / "system" / "cpu" / f"cpu{core}" for core in _own_cores()]
    governors = {text for core in cores if (text := _text(core / "cpufreq" / "scaling_governor"))}
    clocks = [_number(core / "cpufreq" / "scaling_cur_freq") for core in cores]
    throttles = [_number(core / "thermal_throttle" / "core_throttle_count") for core in cores]
    known = [count for count in throttles if count is not None]
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return Environment(
        cpu=_cpu_model(cpuinfo),
        cores=available_cpus(),
        memory_bytes=_memory_bytes(),
        system=platform.platform(),
        python=platform.python_version(),
        versions=versions,
        load_average=_load_average(),
        governor=", ".join(sorted(governors)) or None,
        clock_mhz=tuple(clock / 1000 for clock in clocks if clock is not None) or _clocks(cpuinfo),
        temperatures=_temperatures(sysfs / "class" / "thermal"),
        throttled=int(sum(known)) if known else None,
    )


def _own_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _temperatures(zones: Path) -> dict[str, float]:
    """Return degrees Celsius by zone, as the kernel's thermal framework gives them (in thousandths)."""
    found = {}
    for zone in sorted(zones.glob("thermal_zone*")):
        degrees = _number(zone / "temp")
        if degrees is not None:
            found[f"{zone.name} {_text(zone / 'type')}".strip()] = degrees / 1000
    return found


def _clocks(cpuinfo: Path) -> tuple[float, ...]:
    values = re.findall(r"^cpu MHz\s*:\s*([0-9.]+)\s*$", _text(cpuinfo), re.MULTILINE)
    return tuple(float(value) for value in values)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _cpu_model(cpuinfo: Path) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    named = next((values[key] for key in _CPU_KEYS if values.get(key)), "")
    return named or platform.processor() or platform.machine()


def _memory_bytes() -> int:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
