"""Where a measurement is taken: processor, memory, system, versions, load."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Final

from edgestill.bench_results import Environment, Limits
from edgestill.runtime.control_group import control_group, cpu_quota, memory_limit
from edgestill.runtime.engines import available_cpus
from edgestill.runtime.heat_sensors import own_cores, read_clocks, read_temperatures, read_throttle_count, text
from edgestill.runtime.isa_features import isa_features, under_hypervisor
from edgestill.runtime.repository import describe_repository

PACKAGES: Final = ("edgestill", "onnxruntime", "llama-cpp-python", "torch", "numpy", "tokenizers")
"""Packages whose versions bear on a measurement; their metadata is read, they aren't imported."""

_CPU_KEYS: Final = ("model name", "Model", "Hardware", "cpu model")


def describe_environment(
    cpuinfo: Path = Path("/proc/cpuinfo"),
    sysfs: Path = Path("/sys"),
    proc: Path = Path("/proc"),
    root: Path = Path("/"),
) -> Environment:
    """Describe this machine as this process sees it: ``cores`` are those it may run on."""
    governors = {name for core in own_cores(sysfs) if (name := text(core / "cpufreq" / "scaling_governor"))}
    swap, swap_free = _swap(proc / "meminfo")
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
        features=isa_features(text(cpuinfo)),
        limits=_limits(sysfs, proc),
        swap_bytes=swap,
        swap_used_bytes=None if swap is None or swap_free is None else swap - swap_free,
        virtualised=_virtualised(text(cpuinfo), sysfs, proc),
        container=_container(root),
        huge_pages=_chosen(text(sysfs / "kernel" / "mm" / "transparent_hugepage" / "enabled")),
        repository=describe_repository(),
    )


def _limits(sysfs: Path, proc: Path) -> Limits:
    memory, cpu = control_group("memory", proc=proc), control_group("cpu", proc=proc)
    online = _numbers(text(sysfs / "devices" / "system" / "cpu" / "online"))
    own = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None
    seen = memory or cpu
    return Limits(
        cpus=own,
        online=online,
        pinned=None if own is None or online is None else set(own) < set(online),
        cpu_quota=cpu_quota(cpu),
        memory_bytes=memory_limit(memory),
        control_groups=None if seen is None else seen.version,
    )


def _numbers(text: str) -> tuple[int, ...] | None:
    """Read the kernel's lists of numbers: ``0-2,5``."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return None
    ends = [[int(number) for number in part.split("-")] for part in text.split(",")]
    return tuple(number for end in ends for number in range(end[0], end[-1] + 1))


def _swap(meminfo: Path) -> tuple[int | None, int | None]:
    found = dict(re.findall(r"^(Swap(?:Total|Free)):\s+(\d+) kB$", text(meminfo), re.MULTILINE))
    total, free = (found.get(name) for name in ("SwapTotal", "SwapFree"))
    return None if total is None else int(total) * 1024, None if free is None else int(free) * 1024


def _chosen(text: str) -> str | None:
    """Return the word in brackets: ``always [madvise] never``."""
    found = re.search(r"\[(\w+)\]", text)
    return None if found is None else found[1]


def _virtualised(cpuinfo: str, sysfs: Path, proc: Path) -> bool | None:
    """Ask Xen and the device tree first: on Arm a processor's flags say nothing of it."""
    named = text(sysfs / "hypervisor" / "type") or text(proc / "device-tree" / "hypervisor" / "compatible")
    return True if named else under_hypervisor(cpuinfo)


def _container(root: Path) -> str | None:
    """Return the kind of container whose mark lies in the file system; None without one, which proves nothing."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run" / ".containerenv").exists():
        return "podman"
    return text(root / "run" / "systemd" / "container") or None


def usable_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or less by its control groups' limit."""
    return min(_memory_bytes(), memory_limit(control_group("memory")) or _memory_bytes())


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
