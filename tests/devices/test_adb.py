"""The adb driver: what is Android's own, with the real adb program and a small device that speaks its protocol."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgestill.devices import android
from edgestill.devices.contract import Cluster, DeviceGone, DeviceUnreachable, DriverError, Job, JobFailed
from edgestill.devices.drivers.adb import Adb, AdbSettings
from tests.devices.adb_device import AdbDevice
from tests.devices.adb_phone import Phone
from tests.devices.adb_server import AdbServer, missing_programs

pytestmark = pytest.mark.skipif(bool(missing_programs()), reason=f"needs {', '.join(missing_programs())}")

RUNNER = """#!/bin/sh
echo $$ > ../pid
grep Cpus_allowed: /proc/self/status
{body}
echo '{{"schema": "edgestill.bench/1"}}'
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    with AdbServer(tmp_path_factory.mktemp("adb-home")) as server:
        yield server


@pytest.fixture
def device(tmp_path: Path, server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbDevice]:
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with AdbDevice(Phone(tmp_path / "data", tmp_path / "system")) as device:
        yield device
        server.adb("disconnect")


def opened(device: AdbDevice, **settings: object) -> Adb:
    return Adb("phone", AdbSettings.model_validate({"driver": "adb", "serial": device.serial} | settings))


def with_runner(driver: Adb, tmp_path: Path, body: str = "") -> Adb:
    """Push a runner of a few lines, and something that it takes for a bundle."""
    program = tmp_path / "edgestill-run"
    program.write_text(RUNNER.format(body=body))
    program.chmod(0o755)
    driver.push({"edgestill-run": program}, "runner")
    driver.push({"manifest.json": program}, "bundle")
    return driver


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 15
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_probe_says_what_the_phone_is(device: AdbDevice) -> None:
    device.phone.charging, device.phone.thermal = True, 1
    device.phone.write()
    with opened(device) as driver:
        found = driver.probe()
    assert (found.system, found.machine, found.model) == ("Android 13 (API 33)", "x86_64", "Still Edge Phone 7")
    assert found.clusters == (Cluster(1, None, 2841.6), Cluster(1, None, 1800.0))
    assert found.ram_bytes is not None
    assert found.free_ram_bytes is not None
    assert 0 < found.free_ram_bytes < found.ram_bytes
    assert found.free_disk_bytes is not None
    assert abs(found.free_disk_bytes - shutil.disk_usage(device.phone.folder).free) < 1 << 30
    assert found.facts["abi"] == "x86_64"
    assert found.facts["runner_target"] == "x86_64-linux-musl"
    assert found.facts["battery_percent"] == 83
    assert found.facts["battery_celsius"] == 27.1
    assert found.facts["charging"] is True
    assert found.facts["thermal_status"] == "light"


def test_an_older_android_without_thermal_status_or_clocks_is_probed_too(device: AdbDevice) -> None:
    device.phone.thermal, device.phone.max_khz = None, ()
    device.phone.properties |= {"ro.build.version.release": "7.1", "ro.build.version.sdk": "25", "ro.soc.model": ""}
    device.phone.write()
    with opened(device) as driver:
        found = driver.probe()
    assert found.system == "Android 7.1 (API 25)"
    assert found.facts["thermal_status"] is None
    assert found.facts["big_cores"] == 0


def test_every_step_of_the_check_is_well(device: AdbDevice, tmp_path: Path) -> None:
    with with_runner(opened(device), tmp_path) as driver:
        assert [step for step in driver.check() if not step.ok] == []
        device.phone.thermal, device.phone.level = 4, 7
        device.phone.write()
        wrong = {step.name: (step.found, step.cure) for step in driver.check() if step.ok is False}
        assert wrong == {
            "heat": ("critical", "let it cool down"),
            "battery": ("7%", "charge it: it saves power now"),
        }


def test_a_check_of_a_phone_that_is_not_there_says_how_to_connect_it(device: AdbDevice) -> None:
    (step,) = opened(device, serial="R58M12345").check()
    assert (step.name, step.ok) == ("reach", False)
    assert "USB debugging" in step.cure


def test_the_only_phone_needs_no_serial_and_of_two_one_must_be_named(
    device: AdbDevice, server: AdbServer, tmp_path: Path
) -> None:
    server.connect(device)
    with opened(device, serial=None) as driver:
        assert driver.probe().facts["serial"] == device.serial
    with AdbDevice(Phone(tmp_path / "data2", tmp_path / "system2")) as second:
        server.connect(second)
        with pytest.raises(DeviceUnreachable, match="several are connected") as told:
            opened(device, serial=None).probe()
        assert device.serial in str(told.value)
        assert second.serial in str(told.value)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("no phone", "the phone isn't connected; plug it in with USB debugging switched on"),
        ("other serial", "the phone R58M12345 isn't connected; plug it in"),
        ("refused", "127.0.0.1:1 refuses connections; switch its wireless debugging on"),
        ("no such host", "nowhere.invalid:5555 has a name that nobody knows"),
        ("unauthorized", "is locked to this computer; unlock the phone and tap Allow"),
        ("silent", "doesn't answer; see that it is on and in this network"),
        ("old", "its Android is too old"),
        ("no adb", "there is no adb program here; install it"),
        ("wrong adb", "no-such-adb isn't a program"),
        ("adb is a text", "text can't be started|isn't a program"),
    ],
)
def test_a_phone_that_can_not_be_reached_is_one_line_that_says_what_to_do(
    broken: str, says: str, device: AdbDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, object] = {}
    if broken in ("silent", "unauthorized"):
        setattr(device.faults, broken, True)
    elif broken == "old":
        device.features = ("cmd", "stat_v2")
    elif broken == "no adb":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif broken == "adb is a text":
        (tmp_path / "text").write_text("\0")
        (tmp_path / "text").chmod(0o755)
        settings["adb"] = tmp_path / "text"
    else:
        other: dict[str, tuple[str, object]] = {
            "no phone": ("serial", None),
            "other serial": ("serial", "R58M12345"),
            "refused": ("serial", "127.0.0.1:1"),
            "no such host": ("serial", "nowhere.invalid:5555"),
            "wrong adb": ("adb", Path("no-such-adb")),
        }
        settings.update([other[broken]])
    with pytest.raises(DeviceUnreachable, match=says) as told:
        opened(device, **settings).probe()
    assert "\n" not in str(told.value)
    assert str(told.value).startswith("phone: ")


def test_a_phone_that_was_lost_is_connected_again(device: AdbDevice) -> None:
    with opened(device) as driver:
        driver.probe()
        device.disconnect()
        with pytest.raises(DriverError):
            driver.probe()
        assert driver.probe().machine == "x86_64"


def test_a_phone_that_was_unauthorized_works_after_the_tap(device: AdbDevice) -> None:
    device.faults.unauthorized = True
    with opened(device) as driver:
        with pytest.raises(DeviceUnreachable):
            driver.probe()
        device.faults.unauthorized = False
        assert driver.probe().machine == "x86_64"


def test_a_bench_runs_on_the_big_cores_and_says_battery_and_heat(device: AdbDevice, tmp_path: Path) -> None:
    with with_runner(opened(device), tmp_path) as driver:
        result = driver.run(Job("bench", "bundle"))
        assert result.document == {"schema": "edgestill.bench/1"}
        assert {name: result.facts[name] for name in ("battery_percent_before", "thermal_status_after")} == {
            "battery_percent_before": 83,
            "thermal_status_after": "none",
        }
        assert result.notes == ()
        if subprocess.run(["busybox", "taskset", "2", "true"], capture_output=True).returncode:
            assert result.facts["affinity_mask"] is None  # one core here
            return
        assert result.facts["affinity_mask"] == "2"
        assert int(result.lines[0].split()[1].replace(",", ""), 16) == 2
        many = driver.run(Job("bench", "bundle", options={"threads": 2}))
        assert many.facts["affinity_mask"] is None
        assert int(many.lines[0].split()[1].replace(",", ""), 16) == sum(1 << core for core in os.sched_getaffinity(0))
    with opened(device, big_cores=False) as driver:
        assert driver.run(Job("bench", "bundle")).facts["affinity_mask"] is None


def test_a_bench_of_a_hot_phone_says_so(device: AdbDevice, tmp_path: Path) -> None:
    device.phone.thermal = 3
    device.phone.write()
    with with_runner(opened(device), tmp_path) as driver:
        assert "severe before, severe after" in driver.run(Job("bench", "bundle")).notes[0]


def test_a_finished_bench_is_kept_when_the_phone_goes_right_after_it(
    device: AdbDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with with_runner(opened(device), tmp_path) as driver:
        states = iter([driver._state()])

        def state(self: Adb) -> android.State:
            for one in states:
                return one
            raise DeviceGone("phone: gone")

        monkeypatch.setattr(Adb, "_state", state)
        result = driver.run(Job("bench", "bundle"))
    assert result.document is not None
    assert result.facts["battery_percent_after"] is None
    assert "unknown: phone: gone" in result.notes[0]


def test_a_phone_that_goes_in_the_middle_of_a_bench_is_said_and_nothing_runs_on(
    device: AdbDevice, tmp_path: Path
) -> None:
    with with_runner(opened(device), tmp_path, "echo running; sleep 600") as driver:
        device.faults.cut_at_output = b"running"
        with pytest.raises(DeviceGone, match="went away in the middle"):
            driver.run(Job("bench", "bundle"))
        pid = int((device.phone.folder / "pid").read_text())
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        with_runner(driver, tmp_path)
        assert driver.run(Job("bench", "bundle")).document is not None


def test_a_host_that_is_killed_leaves_nothing_running(device: AdbDevice, tmp_path: Path) -> None:
    with with_runner(opened(device), tmp_path, "echo running; sleep 600") as driver:
        started = threading.Event()
        ended: list[Exception] = []

        def bench() -> None:
            try:
                driver.run(Job("bench", "bundle"), on_line=lambda line: started.set() if line == "running" else None)
            except DriverError as error:
                ended.append(error)

        thread = threading.Thread(target=bench)
        thread.start()
        assert started.wait(20)
        pid = int((device.phone.folder / "pid").read_text())
        for talk in list(driver._talks):
            talk.kill_group()  # what a killed host leaves: no adb client any more
        thread.join(30)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert len(ended) == 1


def test_a_runner_for_another_phone_is_named_with_the_right_target(device: AdbDevice, tmp_path: Path) -> None:
    program = tmp_path / "edgestill-run"
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf7\x00" + bytes(44))  # for BPF
    program.chmod(0o755)
    with opened(device) as driver:
        driver.push({"edgestill-run": program}, "runner")
        driver.push({"manifest.json": program}, "bundle")
        with pytest.raises(JobFailed, match=r"isn't for this phone.*--target x86_64-linux-musl"):
            driver.run(Job("selftest", "bundle"))


def test_a_slow_phone_gets_all_of_a_push(device: AdbDevice, tmp_path: Path) -> None:
    device.faults.bytes_per_second = 2e6
    data = tmp_path / "data.bin"
    data.write_bytes(os.urandom(1_500_000))
    with opened(device) as driver:
        assert driver.push({"data.bin": data}, "bundle").sent_bytes == 1_500_000
        assert driver.pull("bundle/data.bin") == data.read_bytes()


def test_battery_and_heat_are_read_from_what_android_prints() -> None:
    text = "  AC powered: false\n  USB powered: false\n  status: 5\n  level: 40\n  scale: 50\n  temperature: 305\n"
    state = android.parsed_state(text + "IsStatusOverride: false\nThermal Status: 2\n")
    assert (state.battery_percent, state.battery_celsius, state.charging) == (80, 30.5, True)
    assert state.thermal_status == "moderate"
    assert state.throttled
    nothing = android.parsed_state("Can't find service: battery\n")
    assert set(nothing.facts().values()) == {None}
    assert not nothing.throttled
    assert android.parsed_state("Thermal Status: 77").thermal_status is None


def test_the_big_cores_are_all_but_the_slowest_kind() -> None:
    def cores(*khz: int) -> list[int]:
        text = "\n".join(f"core {number} {one}" for number, one in enumerate(khz))
        return android.parsed_phone(text).big_cores()

    assert cores(1804800, 1804800, 1804800, 1804800, 2419200, 2419200, 2419200, 2841600) == [4, 5, 6, 7]
    assert cores(2000000, 2000000) == []
    assert cores() == []
    assert android.affinity_mask([4, 5, 6, 7]) == "f0"


def test_a_model_is_named_with_its_maker_once() -> None:
    def model(maker: str, name: str) -> str | None:
        return android.parsed_phone(f"property ro.product.manufacturer {maker}\nproperty ro.product.model {name}").model

    assert model("Google", "Pixel 8") == "Google Pixel 8"
    assert model("Fairphone", "Fairphone 5") == "Fairphone 5"
    assert model("", "Pixel 8") == "Pixel 8"
    assert model("", "") is None


def test_the_targets_of_abis_are_those_of_the_runner() -> None:
    from edgestill.runtime.native import build

    text = Path(build.__file__).read_text(encoding="utf-8") + "".join(
        path.read_text(encoding="utf-8") for path in Path(build.__file__).parent.glob("*.py")
    )
    assert all(re.search(rf'"{target}"', text) for target in android.TARGETS.values())
