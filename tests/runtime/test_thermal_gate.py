"""The gate before repetitions, on a made sensor tree and a made clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgestill.runtime.heat_sensors import processor_sensors, read_heat, read_temperatures
from edgestill.runtime.thermal_gate import ThermalGate, Wait, why_open


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


class Room:
    """A device that cools by a degree a second while one sleeps."""

    def __init__(self, sysfs: Path, degrees: float) -> None:
        self.sysfs, self.degrees, self.now = sysfs, degrees, 0.0
        self.set(degrees)

    def set(self, degrees: float) -> None:
        self.degrees = degrees
        zone = "class/thermal/thermal_zone0"
        write(self.sysfs, {f"{zone}/type": "cpu-thermal", f"{zone}/temp": str(int(degrees * 1000))})

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.set(self.degrees - seconds)

    def gate(self, limit: float) -> ThermalGate:
        return ThermalGate(limit, sysfs=self.sysfs, clock=lambda: self.now, sleep=self.sleep)


def test_the_gate_opens_when_the_device_is_as_cool_as_at_the_start(tmp_path: Path) -> None:
    room = Room(tmp_path, 40.0)
    gate = room.gate(60.0)
    assert gate.wait() == Wait(0.0, "cool")
    room.set(53.0)
    assert gate.wait() == Wait(10.0, "cool")


def test_the_gate_opens_after_its_limit_at_the_latest(tmp_path: Path) -> None:
    room = Room(tmp_path, 40.0)
    gate = room.gate(4.2)
    room.set(80.0)
    waited = gate.wait()
    assert waited.ended == "time limit"
    assert waited.seconds == pytest.approx(4.2)


def test_without_a_sensor_the_gate_does_not_wait_and_says_so(tmp_path: Path) -> None:
    def never(seconds: float) -> None:
        raise AssertionError(f"slept {seconds} s")

    assert ThermalGate(60.0, sysfs=tmp_path, clock=lambda: 0.0, sleep=never).wait() == Wait(0.0, "no sensor")


@pytest.mark.parametrize(
    ("start", "now", "waited", "why"),
    [
        ({"a": 40.0}, {"a": 43.0}, 0, "cool"),
        ({"a": 40.0}, {"a": 43.1}, 0, None),
        ({"a": 40.0}, {"a": 43.1}, 30, "time limit"),
        ({"a": 40.0, "b": 50.0}, {"a": 41.0, "b": 60.0}, 0, None),
        ({"a": 40.0, "b": 50.0}, {"a": 41.0}, 0, "cool"),
        ({"a": 40.0}, {"b": 40.0}, 0, "no sensor"),
        ({}, {}, 0, "no sensor"),
    ],
)
def test_every_sensor_that_was_there_at_the_start_decides(
    start: dict[str, float], now: dict[str, float], waited: float, why: str | None
) -> None:
    assert why_open(start, now, waited, 30.0) == why


def test_the_processor_s_sensors_are_read_and_broken_ones_left_out(tmp_path: Path) -> None:
    sysfs = write(
        tmp_path,
        {
            "class/thermal/thermal_zone0/type": "battery",
            "class/thermal/thermal_zone0/temp": "31000",
            "class/thermal/thermal_zone1/type": "cpu-1-0",
            "class/thermal/thermal_zone1/temp": "52300",
            "class/thermal/thermal_zone2/type": "cpu-1-1",
            "class/thermal/thermal_zone2/temp": "-274000",
            "class/hwmon/hwmon0/name": "k10temp",
            "class/hwmon/hwmon0/temp1_input": "61000",
            "class/hwmon/hwmon0/temp1_label": "Tctl",
            "class/hwmon/hwmon1/name": "nvme",
            "class/hwmon/hwmon1/temp1_input": "broken",
            "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000",
            "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
        },
    )
    temperatures = read_temperatures(sysfs)
    assert temperatures["thermal_zone0 battery"] == 31.0
    assert set(processor_sensors(temperatures)) == {"thermal_zone1 cpu-1-0", "hwmon0 k10temp Tctl"}
    assert processor_sensors({"thermal_zone0 acpitz": 40.0}) == {"thermal_zone0 acpitz": 40.0}
    heat = read_heat(sysfs)
    assert max(heat.temperatures.values()) == 61.0


def test_a_system_without_sensors_gives_none_of_them(tmp_path: Path) -> None:
    heat = read_heat(tmp_path)
    assert (heat.clock_mhz, dict(heat.temperatures), heat.throttle_count) == (None, {}, None)
