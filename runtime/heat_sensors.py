"""What the system says about heat at a moment: temperatures, clocks, how often cores were slowed for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SYSFS: Final = Path("/sys")
CPUINFO: Final = Path("/proc/cpuinfo")

_PROCESSOR: Final = re.compile(r"cpu|soc|pkg|package|core|k10temp|tctl|tdie|cluster|apss", re.IGNORECASE)
"""How drivers name the sensors of a processor; the others are of batteries, skins, radios, disks."""

_PLAUSIBLE: Final = (-40.0, 150.0)
"""Degrees Celsius outside which a sensor is broken or switched off: no processor runs there."""


@dataclass(frozen=True)
class HeatSample:
    """One reading: mean ``clock_mhz`` of the cores this process may use, degrees Celsius by processor sensor, and how
    often those cores were slowed for heat since the system started. None or empty where the system doesn't say."""

    clock_mhz: float | None
    temperatures: Mapping[str, float]
    throttle_count: int | None


def read_heat(sysfs: Path = SYSFS) -> HeatSample:
    """Read the sensors (Linux: cpufreq, the thermal zones and hwmon, thermal_throttle); takes milliseconds.

    /proc/cpuinfo isn't asked for the clock: a virtual machine has a constant there, which would look like a clock
    that holds.
    """
    clocks = _cpufreq_clocks(sysfs)
    return HeatSample(
        clock_mhz=sum(clocks) / len(clocks) if clocks else None,
        temperatures=processor_sensors(read_temperatures(sysfs)),
        throttle_count=read_throttle_count(sysfs),
    )


def read_clocks(sysfs: Path = SYSFS, cpuinfo: Path = CPUINFO) -> tuple[float, ...]:
    """Return the clocks in MHz of the cores this process may use; of all cores where only /proc/cpuinfo says them."""
    listed = re.findall(r"^cpu MHz\s*:\s*([0-9.]+)\s*$", text(cpuinfo), re.MULTILINE)
    return _cpufreq_clocks(sysfs) or tuple(float(mhz) for mhz in listed)


def _cpufreq_clocks(sysfs: Path) -> tuple[float, ...]:
    clocks = [number(core / "cpufreq" / "scaling_cur_freq") for core in own_cores(sysfs)]
    return tuple(clock / 1000 for clock in clocks if clock is not None)


def read_throttle_count(sysfs: Path = SYSFS) -> int | None:
    """Return how often this process's cores were slowed for heat since the system started; None where not counted."""
    counts = [number(core / "thermal_throttle" / "core_throttle_count") for core in own_cores(sysfs)]
    known = [count for count in counts if count is not None]
    return int(sum(known)) if known else None


def read_temperatures(sysfs: Path = SYSFS) -> dict[str, float]:
    """Return degrees Celsius by sensor, of the thermal zones and of hwmon (both in thousandths), broken ones left out.

    A sensor that both show is there twice, under its two names.
    """
    found = {}
    for zone in sorted((sysfs / "class" / "thermal").glob("thermal_zone*")):
        found[f"{zone.name} {text(zone / 'type')}".strip()] = number(zone / "temp")
    for chip in sorted((sysfs / "class" / "hwmon").glob("hwmon*")):
        for path in sorted(chip.glob("temp*_input")):
            label = text(chip / path.name.replace("_input", "_label")) or path.name.removesuffix("_input")
            found[f"{chip.name} {text(chip / 'name')} {label}"] = number(path)
    low, high = _PLAUSIBLE
    return {name: value / 1000 for name, value in found.items() if value is not None and low <= value / 1000 <= high}


def processor_sensors(temperatures: Mapping[str, float]) -> dict[str, float]:
    """Return the sensors whose names say that they are a processor's; all of them where none says so."""
    named = {name: value for name, value in temperatures.items() if _PROCESSOR.search(name)}
    return named or dict(temperatures)


def own_cores(sysfs: Path = SYSFS) -> list[Path]:
    """Return the folders of the cores that this process may use."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return [sysfs / "devices" / "system" / "cpu" / f"cpu{core}" for core in own]


def text(path: Path) -> str:
    """Return a system file's text, stripped; empty where it can't be read (a sensor that is asleep fails too)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(path: Path) -> float | None:
    """Return the number in a system file; None where there is none."""
    try:
        return float(text(path))
    except ValueError:
        return None
