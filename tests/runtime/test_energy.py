"""Energy: which source is taken, that nothing counts twice, and that no source gives null with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.runtime import energy
from edgestill.runtime.energy import counted, energy_per_token, integral, open_meter
from edgestill.runtime.repetition_watch import RepetitionWatch


def write(root: Path, files: dict[str, str | int]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def zone(name: str, kind: str, microjoules: int, wraps_at: int = 10**9) -> dict[str, str | int]:
    folder = f"class/powercap/{name}"
    return {f"{folder}/name": kind, f"{folder}/energy_uj": microjoules, f"{folder}/max_energy_range_uj": wraps_at}


def rapl(root: Path, package: int, dram: int, other: int) -> Path:
    return write(
        root,
        {
            **zone("intel-rapl:0", "package-0", package),
            **zone("intel-rapl:0:0", "core", other),
            **zone("intel-rapl:0:1", "dram", dram),
            **zone("intel-rapl:1", "psys", other),
            **zone("intel-rapl-mmio:0", "package-0", package),
        },
    )


def test_rapl_sums_packages_and_memory_and_nothing_twice(tmp_path: Path) -> None:
    rapl(tmp_path, 1_000_000, 500_000, 0)
    meter = open_meter(tmp_path)
    meter.begin()
    rapl(tmp_path, 4_000_000, 750_000, 99_000_000)
    assert meter.end() == pytest.approx(3.25)
    assert meter.source == "counter: RAPL package-0 + RAPL dram"


def test_a_counter_that_began_anew_is_carried_on(tmp_path: Path) -> None:
    write(tmp_path, zone("intel-rapl:0", "package-0", 999_000_000))
    meter = open_meter(tmp_path)
    meter.begin()
    write(tmp_path, zone("intel-rapl:0", "package-0", 2_000_000))
    assert meter.end() == pytest.approx(3.0)


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_what_was_counted_is_exact_over_one_turn(before: int, spent: int) -> None:
    assert counted(before, (before + spent) % 10**9, 10**9) == spent


def test_a_counter_without_an_end_that_ran_backwards_gives_nothing() -> None:
    assert counted(5.0, 4.0, None) is None


def test_a_counter_that_vanishes_gives_nothing_and_says_so(tmp_path: Path) -> None:
    rapl(tmp_path, 1, 1, 1)
    meter = open_meter(tmp_path)
    meter.begin()
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").unlink()
    assert meter.end() is None
    assert energy_per_token([None], [4], meter.source).source == "RAPL package-0 could not be read"


def test_a_closed_rapl_is_passed_over_and_named(tmp_path: Path) -> None:
    write(tmp_path, zone("intel-rapl:0", "package-0", 1))
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("")  # as where only root may read
    meter = open_meter(tmp_path)
    meter.begin()
    assert meter.end() is None
    assert "only root" in meter.source


def test_amd_s_sockets_count_and_their_cores_do_not(tmp_path: Path) -> None:
    chip = "class/hwmon/hwmon2"
    files: dict[str, str | int] = {f"{chip}/name": "amd_energy", f"{chip}/energy1_label": "Ecore000"}
    files |= {f"{chip}/energy2_label": "Esocket0", f"{chip}/energy1_input": 5, f"{chip}/energy2_input": 1_000_000}
    meter = open_meter(write(tmp_path, files))
    meter.begin()
    write(tmp_path, {f"{chip}/energy1_input": 9_000_000, f"{chip}/energy2_input": 3_000_000})
    assert meter.end() == pytest.approx(2.0)


INA3221: dict[str, str | int] = {
    "class/hwmon/hwmon1/name": "ina3221",
    "class/hwmon/hwmon1/in1_label": "VDD_IN",
    "class/hwmon/hwmon1/in1_input": 5000,
    "class/hwmon/hwmon1/curr1_input": 2000,
    "class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
    "class/hwmon/hwmon1/in2_input": 5000,
    "class/hwmon/hwmon1/curr2_input": 800,
}


@pytest.mark.parametrize(
    ("files", "watts", "source"),
    [
        (INA3221, 10.0, "ina3221 VDD_IN"),
        ({name: value for name, value in INA3221.items() if "1_" not in name}, 4.0, "ina3221 VDD_CPU_GPU_CV"),
        ({"class/hwmon/hwmon0/name": "ina219", "class/hwmon/hwmon0/power1_input": 2_500_000}, 2.5, "ina219 power1"),
        (
            {
                "class/hwmon/hwmon0/name": "ina226",
                "class/hwmon/hwmon0/in0_input": 10,
                "class/hwmon/hwmon0/in1_input": 12_000,
                "class/hwmon/hwmon0/curr1_input": 500,
            },
            6.0,
            "ina226 channel 1",
        ),
        (
            {
                "class/power_supply/BAT0/type": "Battery",
                "class/power_supply/BAT0/status": "Discharging",
                "class/power_supply/BAT0/current_now": -1_500_000,
                "class/power_supply/BAT0/voltage_now": 4_000_000,
            },
            6.0,
            "battery gauge, whole device, sampled at 5 Hz: BAT0",
        ),
    ],
)
def test_power_is_sampled_and_integrated(
    tmp_path: Path, files: dict[str, str | int], watts: float, source: str
) -> None:
    now = iter(range(100))
    meter = open_meter(write(tmp_path, files), clock=lambda: float(next(now)))
    meter.begin()
    joules = meter.end()
    assert joules == pytest.approx(watts)  # one second between the two samples at the ends
    assert source in meter.source
    assert "5 Hz" in meter.source


def test_a_thread_samples_while_a_section_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(energy, "HERTZ", 200.0)
    meter = open_meter(write(tmp_path, INA3221))
    meter.begin()
    begun = time.monotonic()
    while len(meter._samples) < 4 and time.monotonic() < begun + 10:  # type: ignore[attr-defined]
        time.sleep(0.01)
    assert len(meter._samples) >= 4  # type: ignore[attr-defined]
    joules = meter.end()
    samples = meter._samples  # type: ignore[attr-defined]
    assert joules == pytest.approx(10 * (samples[-1][0] - samples[0][0]))


def test_a_graphics_card_s_power_is_not_the_processor_s(tmp_path: Path) -> None:
    files: dict[str, str | int] = {"class/hwmon/hwmon0/name": "amdgpu", "class/hwmon/hwmon0/power1_average": 30_000_000}
    meter = open_meter(write(tmp_path, files))
    assert meter.end() is None
    assert "amdgpu" in meter.source


def test_a_charging_battery_says_nothing_of_use(tmp_path: Path) -> None:
    battery = "class/power_supply/BAT0"
    files: dict[str, str | int] = {f"{battery}/type": "Battery", f"{battery}/status": "Charging"}
    write(tmp_path, {**files, f"{battery}/power_now": 9_000_000})
    assert "isn't discharging" in open_meter(tmp_path).source
    write(tmp_path, {f"{battery}/status": "Discharging"})
    meter = open_meter(tmp_path)
    meter.begin()
    write(tmp_path, {f"{battery}/status": "Charging"})  # the charger was plugged in meanwhile
    assert meter.end() is None
    assert "isn't discharging" in meter.source


@pytest.mark.parametrize(
    ("before", "after", "joules"),
    [
        ({"energy_now": 50_000_000}, {"energy_now": 49_990_000}, 36.0),
        ({"charge_now": 3_000_000, "voltage_now": 4_000_000}, {"charge_now": 2_999_000}, 14.4),
    ],
)
def test_a_gauge_without_power_is_read_by_what_is_left(
    tmp_path: Path, before: dict[str, int], after: dict[str, int], joules: float
) -> None:
    battery = "class/power_supply/battery"
    write(tmp_path, {f"{battery}/type": "Battery", f"{battery}/status": "Discharging"})
    write(tmp_path, {f"{battery}/{name}": value for name, value in before.items()})
    meter = open_meter(tmp_path)
    meter.begin()
    write(tmp_path, {f"{battery}/{name}": value for name, value in after.items()})
    assert meter.end() == pytest.approx(joules)
    assert meter.source.startswith("battery gauge, whole device")


def test_a_device_that_says_nothing_gets_null_and_why(tmp_path: Path) -> None:
    meter = open_meter(tmp_path)
    meter.begin()
    figure = energy_per_token([meter.end()], [4], meter.source)
    assert figure.value is None
    assert figure.source == "no RAPL, no power sensor and no battery here"


def test_joules_per_token_are_those_of_all_repetitions_over_their_tokens() -> None:
    figure = energy_per_token([1.0, 2.0, 3.0], [10, 10, 20], "counter: RAPL package-0")
    assert figure.value == pytest.approx(6 / 40)
    assert figure.n == 3
    assert figure.basis == "measured"
    assert figure.ci95 is not None
    assert energy_per_token([1.0], [2], "sampled power at 5 Hz: ina219").basis == "derived"


def test_a_counter_that_stood_still_and_one_that_failed_once_give_null() -> None:
    assert energy_per_token([0.0, 0.0], [4, 4], "counter: x").value is None
    assert "stood still" in energy_per_token([0.0, 0.0], [4, 4], "counter: x").source
    assert energy_per_token([1.0, None], [4, 4], "x could not be read").value is None


def test_trapezoids_are_exact_for_power_that_rises_in_a_line() -> None:
    assert integral([0.0, 1.0, 3.0], [2.0, 4.0, 8.0]) == pytest.approx(15.0)
    assert integral([1.0], [5.0]) == 0


def test_a_watch_tells_what_a_repetition_met(tmp_path: Path) -> None:
    rapl(tmp_path, 0, 0, 0)
    write(tmp_path, {"class/thermal/thermal_zone0/type": "cpu", "class/thermal/thermal_zone0/temp": 40_000})
    watch = RepetitionWatch(1.0, lambda: None, sysfs=tmp_path)
    watch.before()
    rapl(tmp_path, 2_000_000, 0, 0)
    write(tmp_path, {"class/thermal/thermal_zone0/temp": 55_000})
    met = watch.after()
    assert met["joules"] == pytest.approx(2.0)
    assert met["wait"] == [pytest.approx(0.0, abs=1.0), "cool"]
    assert met["other_cores"] is None
    assert met["before"] == {"clock_mhz": None, "temperatures": {"thermal_zone0 cpu": 40.0}, "throttle_count": None}
    assert met["after"] == {"clock_mhz": None, "temperatures": {"thermal_zone0 cpu": 55.0}, "throttle_count": None}
