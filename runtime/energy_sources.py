"""Where a Linux device says what it draws: RAPL and hwmon's energy counters, hwmon's power, the battery's gauge."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgestill.runtime.heat_sensors import number, text

_MICRO: Final = 1e-6

CHARGING: Final = "the battery isn't discharging: its gauge doesn't say what is used"

_RAILS: Final = re.compile(r"^(ina|ltc|pmbus|max|tps|isl|adm|power_meter|scmi|xgene|sq52|hpwdt)", re.IGNORECASE)
"""Drivers of hwmon that measure supply rails; the others with a power file are of graphics cards, drives or fans."""

_WHOLE: Final = re.compile(r"vdd_in|pom_5v_in|5v_in|total|sys|vin", re.IGNORECASE)
"""Labels of the rail that feeds the others of its chip: with it they would count twice."""


@dataclass(frozen=True)
class Counter:
    """An energy counter: its file counts in ``scale`` joules (below 0: downwards), and begins anew at ``wraps_at``."""

    name: str
    path: Path
    wraps_at: float | None = None
    scale: float = _MICRO

    def read(self) -> float | None:
        """Return joules since some moment; None where it can't be read."""
        value = number(self.path)
        return None if value is None else value * self.scale


@dataclass(frozen=True)
class PowerSource:
    """Rails that are measured: each is one file of microwatts, or two whose product is in ``scale`` watts."""

    name: str
    rails: Sequence[tuple[float, tuple[Path, ...]]]

    def read(self) -> float | None:
        """Return the watts of all rails together; None where one can't be read."""
        total = 0.0
        for scale, paths in self.rails:
            for path in paths:
                value = number(path)
                if value is None:
                    return None
                # A battery's current is negative while it discharges with some drivers, positive with others.
                scale *= abs(value)
            total += scale
        return total


def rapl_counters(sysfs: Path) -> tuple[list[Counter], str]:
    """Return RAPL's counters of every package, and of memory where it counts apart; else why there are none.

    A package's zones (cores, graphics) are part of it, its memory (``dram``) isn't; ``psys`` holds all of them and is
    left out. The same packages through MMIO are taken only where the other interface is missing.
    """
    folder = sysfs / "class" / "powercap"
    for kind in ("intel-rapl", "intel-rapl-mmio"):
        zones = sorted(path for path in folder.glob(f"{kind}:*") if (path / "energy_uj").exists())
        found = [zone for zone in zones if text(zone / "name").startswith("package") and zone.name.count(":") == 1]
        found += [zone for zone in zones if text(zone / "name") == "dram"]
        if not found:
            continue
        closed = [zone for zone in found if not os.access(zone / "energy_uj", os.R_OK) or _silent(zone / "energy_uj")]
        if closed:
            return [], f"RAPL's {closed[0].name}/energy_uj can't be read (kernels let only root read it)"
        return [
            Counter(f"RAPL {text(zone / 'name')}", zone / "energy_uj", _scaled(zone / "max_energy_range_uj"))
            for zone in found
        ], ""
    return [], ""


def hwmon_counters(sysfs: Path) -> tuple[list[Counter], str]:
    """Return the energy counters of AMD's sockets (amd_energy; its cores are part of them) and of other chips."""
    found = []
    for chip in _chips(sysfs):
        name = text(chip / "name")
        for path in sorted(chip.glob("energy*_input")):
            label = text(chip / path.name.replace("_input", "_label"))
            if name == "amd_energy" and not label.lower().startswith("esocket"):
                continue
            if (name == "amd_energy" or _RAILS.match(name)) and not _silent(path):
                found.append(Counter(f"hwmon {name} {label or path.name}", path))
    return found, ""


def hwmon_power(sysfs: Path) -> tuple[PowerSource | None, str]:
    """Return the rails that hwmon's chips measure (INA219, 226, 3221 and the like), or why there are none.

    A chip's own ``powerN_input`` (microwatts) where it has them, else ``currN_input`` times ``inN_input``
    (milliamperes, millivolts; for the INA2xx ``in1`` is the bus and ``in0`` its shunt). Of a chip with a rail that
    feeds the others, only that one.
    """
    rails: list[tuple[str, tuple[float, tuple[Path, ...]]]] = []
    others = []
    for chip in _chips(sysfs):
        name = text(chip / "name")
        found = _rails_of(chip)
        if found and not _RAILS.match(name):
            others.append(name or chip.name)
            continue
        whole = [rail for rail in found if _WHOLE.search(rail[0])]
        rails += [(f"{name} {label}", rail) for label, rail in whole or found]
    if rails:
        return PowerSource(" + ".join(name for name, _ in rails), [rail for _, rail in rails]), ""
    return None, f"the power sensors here ({', '.join(others)}) aren't of the processor's supply" if others else ""


def _rails_of(chip: Path) -> list[tuple[str, tuple[float, tuple[Path, ...]]]]:
    """Return a chip's rails with their labels, those that can't be read left out."""
    found: list[tuple[str, tuple[float, tuple[Path, ...]]]] = []
    for path in sorted([*chip.glob("power*_input"), *chip.glob("power*_average")]):
        if not _silent(path):
            channel = path.name.split("_")[0]
            found.append((text(chip / f"{channel}_label") or channel, (_MICRO, (path,))))
    if found:
        return found
    for current in sorted(chip.glob("curr*_input")):
        channel = current.name.removeprefix("curr").removesuffix("_input")
        voltage = chip / f"in{channel}_input"
        if not _silent(current) and not _silent(voltage):
            label = text(chip / f"in{channel}_label") or text(chip / f"curr{channel}_label") or f"channel {channel}"
            found.append((label, (_MICRO, (current, voltage))))
    return found


def battery_gauge(sysfs: Path) -> tuple[PowerSource | None, str]:
    """Return the batteries' power: ``power_now``, or ``current_now`` times ``voltage_now``; else why there is none."""
    batteries = _batteries(sysfs)
    if not batteries:
        return None, ""
    if not on_battery(sysfs):
        return None, CHARGING
    rails: list[tuple[float, tuple[Path, ...]]] = []
    for battery in batteries:
        power, current, voltage = (battery / f"{what}_now" for what in ("power", "current", "voltage"))
        if not _silent(power):
            rails.append((_MICRO, (power,)))
        elif not _silent(current) and not _silent(voltage):
            rails.append((_MICRO * _MICRO, (current, voltage)))
        else:
            return None, f"{battery.name} says neither power_now nor current_now and voltage_now"
    return PowerSource(" + ".join(battery.name for battery in batteries), rails), ""


def battery_counters(sysfs: Path) -> tuple[list[Counter], str]:
    """Return what is left in the batteries: ``energy_now``, or ``charge_now`` at the voltage of now; else why not.

    Their steps are coarse (tens of joules): a short run may see none.
    """
    found = []
    for battery in _batteries(sysfs) if on_battery(sysfs) else []:
        energy, charge, voltage = (battery / f"{what}_now" for what in ("energy", "charge", "voltage"))
        if not _silent(energy):
            found.append(Counter(f"{battery.name} energy_now", energy, scale=-_MICRO * 3600))
        elif not _silent(charge) and (volts := _scaled(voltage)):
            found.append(Counter(f"{battery.name} charge_now", charge, scale=-_MICRO * 3600 * volts))
    return found, ""


def on_battery(sysfs: Path) -> bool:
    """Tell whether every battery is discharging, or holds still beside one that is."""
    states = [text(battery / "status") for battery in _batteries(sysfs)]
    return "Discharging" in states and all(state in ("Discharging", "Not charging", "Unknown") for state in states)


def _batteries(sysfs: Path) -> list[Path]:
    """Return the device's own batteries: a mouse's or a headset's says ``scope`` Device."""
    supplies = sorted((sysfs / "class" / "power_supply").glob("*"))
    return [
        path
        for path in supplies
        if text(path / "type") == "Battery" and text(path / "scope") != "Device" and text(path / "present") != "0"
    ]


def _chips(sysfs: Path) -> list[Path]:
    return sorted((sysfs / "class" / "hwmon").glob("hwmon*"))


def _silent(path: Path) -> bool:
    return number(path) is None


def _scaled(path: Path) -> float | None:
    value = number(path)
    return None if value is None else value * _MICRO
