"""What an Android phone says of itself: version, battery, heat, cores. Pure text in, values out.

Sources: ``dumpsys battery`` (BatteryManager), ``dumpsys thermalservice`` (PowerManager.getCurrentThermalStatus, from
Android 10 on), Documentation/admin-guide/pm/cpufreq.rst, https://developer.android.com/ndk/guides/abis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

THERMAL: Final = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""PowerManager's THERMAL_STATUS_NONE (0) to THERMAL_STATUS_SHUTDOWN (6)."""

TARGETS: Final[Mapping[str, str]] = {
    "arm64-v8a": "aarch64-linux-musl",
    "armeabi-v7a": "armv7-linux-musleabihf",
    "x86_64": "x86_64-linux-musl",
    "riscv64": "riscv64-linux-musl",
}
"""The static runner for an ABI, as ``edgestill runner build --target`` names it."""

MACHINES: Final[Mapping[str, str]] = {
    "arm64-v8a": "aarch64",
    "armeabi-v7a": "armv7l",
    "x86_64": "x86_64",
    "riscv64": "riscv64",
}
"""``uname -m``'s name for an ABI: the kernel's own may be wider than what the phone's programs are."""

_ELF_MACHINES: Final[Mapping[str, frozenset[int]]] = {
    "arm64-v8a": frozenset({183, 40}),
    "armeabi-v7a": frozenset({40}),
    "x86_64": frozenset({62, 3}),
    "riscv64": frozenset({243}),
}
"""e_machine of programs that an ABI runs (elf(5)): EM_AARCH64, EM_ARM, EM_X86_64, EM_386, EM_RISCV."""

STATE_SCRIPT: Final = "dumpsys battery 2>/dev/null; dumpsys thermalservice 2>/dev/null; exit 0"

_PROPERTIES: Final = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.product.cpu.abi",
    "ro.build.version.release",
    "ro.build.version.sdk",
    "ro.soc.model",
)

PHONE_SCRIPT: Final = f"""for name in {" ".join(_PROPERTIES)}; do
  printf 'property %s %s\\n' "$name" "$(getprop "$name")"
done
for core in /sys/devices/system/cpu/cpu[0-9]*; do
  clock=$core/cpufreq/cpuinfo_max_freq
  [ -r "$clock" ] && printf 'core %s %s\\n' "${{core##*/cpu}}" "$(cat "$clock")"
done
taskset -p "$$" >/dev/null 2>&1 && echo taskset
exit 0"""


@dataclass(frozen=True)
class Phone:
    """What doesn't change while we look; ``core_khz`` is each core's highest clock by its number."""

    properties: Mapping[str, str]
    core_khz: Mapping[int, int]
    has_taskset: bool

    def __getitem__(self, name: str) -> str | None:
        return self.properties.get(name) or None

    @property
    def model(self) -> str | None:
        """Maker and model as one reads them: the maker isn't said twice."""
        maker, model = self["ro.product.manufacturer"], self["ro.product.model"]
        if maker is None or model is None or model.lower().startswith(maker.lower()):
            return model or maker
        return f"{maker} {model}"

    @property
    def abi(self) -> str | None:
        return self["ro.product.cpu.abi"]

    def big_cores(self) -> list[int]:
        """Return the numbers of all cores but the slowest kind; none where there is one kind."""
        slowest = min(self.core_khz.values(), default=0)
        return sorted(number for number, khz in self.core_khz.items() if khz > slowest)


@dataclass(frozen=True)
class State:
    """Battery and heat now; None where the phone doesn't say."""

    battery_percent: int | None
    battery_celsius: float | None
    charging: bool | None
    thermal_status: str | None

    def facts(self, suffix: str = "") -> dict[str, str | int | float | bool | None]:
        """Return it by name, each with ``suffix``."""
        return {
            f"battery_percent{suffix}": self.battery_percent,
            f"battery_celsius{suffix}": self.battery_celsius,
            f"charging{suffix}": self.charging,
            f"thermal_status{suffix}": self.thermal_status,
        }

    @property
    def throttled(self) -> bool:
        """From "moderate" on, Android asks programs to do less and lowers clocks."""
        return self.thermal_status is not None and THERMAL.index(self.thermal_status) >= 2


def parsed_phone(text: str) -> Phone:
    """Return what PHONE_SCRIPT printed."""
    properties: dict[str, str] = {}
    cores: dict[int, int] = {}
    lines = text.splitlines()
    for line in lines:
        kind, _, rest = line.partition(" ")
        name, _, value = rest.partition(" ")
        if kind == "property":
            properties[name] = value.strip()
        elif kind == "core" and name.isdigit() and value.strip().isdigit():
            cores[int(name)] = int(value)
    return Phone(properties, cores, "taskset" in lines)


def parsed_state(text: str) -> State:
    """Return what STATE_SCRIPT printed."""
    level, scale = _number(text, "level"), _number(text, "scale") or 100
    tenths, status = _number(text, "temperature"), _number(text, "status")
    powered = re.findall(r"^\s*\w+ powered:\s*(true|false)\s*$", text, re.MULTILINE)
    heat = re.search(r"^\s*Thermal Status:\s*(\d+)", text, re.MULTILINE)
    return State(
        battery_percent=None if level is None else round(100 * level / scale),
        battery_celsius=None if tenths is None else tenths / 10,
        charging=None if status is None and not powered else status in (2, 5) or "true" in powered,
        thermal_status=THERMAL[int(heat[1])] if heat and int(heat[1]) < len(THERMAL) else None,
    )


def may_run(abi: str, header: bytes) -> bool:
    """Return whether a program whose file begins with 20 bytes ``header`` can be for ``abi``; scripts always."""
    if abi not in _ELF_MACHINES or len(header) < 20 or not header.startswith(b"\x7fELF"):
        return True
    return int.from_bytes(header[18:20], "little") in _ELF_MACHINES[abi]


def affinity_mask(cores: Sequence[int]) -> str:
    """Return taskset's mask: hexadecimal, a bit for each core, without ``0x``."""
    return f"{sum(1 << number for number in set(cores)):x}"


def _number(text: str, name: str) -> int | None:
    found = re.search(rf"^\s*{name}:\s*(-?\d+)\s*$", text, re.MULTILINE)
    return None if found is None else int(found[1])
