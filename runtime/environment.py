"""Where a measurement is taken: processor, memory, system, versions, load."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Final

from edgestill.bench_results import Environment
from edgestill.runtime.engines import available_cpus
from edgestill.runtime.heat_sensors import own_cores, read_clocks, read_temperatures, read_throttle_count, text

PACKAGES: Final = ("edgestill", "onnxruntime", "llama-cpp-python", "torch", "numpy", "tokenizers")
"""Packages whose versions bear on a measurement; their metadata is read, they aren't imported."""

_CPU_KEYS: Final = ("model name", "Model", "Hardware", "cpu model")


def describe_environment(cpuinfo: Path = Path("/proc/cpuinfo"), sysfs: Path = Path("/sys")) -> Environment:
    """Describe this machine as this process sees it: ``cores`` are those it may run on."""
    governors = {name for core in own_cores(sysfs) if (name := text(core / "cpufreq" / "scaling_governor"))}
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
        clock_mhz=read_clocks(sysfs, cpuinfo),
        temperatures=read_temperatures(sysfs),
        throttled=read_throttle_count(sysfs),
    )


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
