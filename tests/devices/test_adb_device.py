"""The small ADB device itself, talked to by the real adb program: what the tests of the driver stand on."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.adb_device import AdbDevice
from tests.devices.adb_phone import Phone
from tests.devices.adb_server import AdbServer, missing_programs

pytestmark = pytest.mark.skipif(bool(missing_programs()), reason=f"needs {', '.join(missing_programs())}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    with AdbServer(tmp_path_factory.mktemp("adb-home")) as server:
        yield server


@pytest.fixture
def device(tmp_path: Path, server: AdbServer) -> Iterator[AdbDevice]:
    with AdbDevice(Phone(tmp_path / "data", tmp_path / "system")) as device:
        server.connect(device)
        yield device
        server.adb("disconnect", device.serial)


def adb(server: AdbServer, device: AdbDevice, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return server.adb("-s", device.serial, *words, data=data)


def test_a_command_gives_its_output_its_errors_and_its_exit_status(server: AdbServer, device: AdbDevice) -> None:
    done = adb(server, device, "shell", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_all_byte_values_pass_to_a_command_and_back(server: AdbServer, device: AdbDevice) -> None:
    data = bytes(range(256)) * 16 + random.Random(1).randbytes(5_000_003)
    assert adb(server, device, "shell", "cat", data=data).stdout == data
    done = adb(server, device, "shell", "cat > '/data/local/tmp/a b'; sha256sum < '/data/local/tmp/a b'", data=data)
    assert (device.phone.folder / "a b").read_bytes() == data, done
    assert adb(server, device, "exec-out", "cat '/data/local/tmp/a b'").stdout == data


def test_files_with_spaces_quotes_and_unicode_are_pushed_and_pulled(
    server: AdbServer, device: AdbDevice, tmp_path: Path
) -> None:
    here = tmp_path / 'it\'s a "file" — 東京 \U0001f600.bin'
    here.write_bytes(os.urandom(700_001))
    assert adb(server, device, "push", str(here), f"/data/local/tmp/in here/{here.name}").returncode == 0
    assert (device.phone.folder / "in here" / here.name).read_bytes() == here.read_bytes()
    back = tmp_path / "back"
    assert adb(server, device, "pull", f"/data/local/tmp/in here/{here.name}", str(back)).returncode == 0
    assert back.read_bytes() == here.read_bytes()
    folder = tmp_path / "folder"
    assert adb(server, device, "pull", "/data/local/tmp/in here", str(folder)).returncode == 0
    assert (folder / here.name).read_bytes() == here.read_bytes()


def test_a_file_that_is_not_there_is_an_error(server: AdbServer, device: AdbDevice, tmp_path: Path) -> None:
    done = adb(server, device, "pull", "/data/local/tmp/none", str(tmp_path / "none"))
    assert done.returncode == 1
    assert not (tmp_path / "none").exists()


def test_a_cut_in_the_middle_leaves_a_part_and_adb_does_not_tell(server: AdbServer, device: AdbDevice) -> None:
    part = device.phone.folder / "part"
    for _ in range(5):
        device.faults.cut_after_bytes = 300_000
        done = adb(server, device, "shell", "cat > part", data=os.urandom(2_000_000))
        assert done.returncode == 0  # so the driver can't trust a 0
        until = time.monotonic() + 5
        while not part.exists() and time.monotonic() < until:  # the host hears of the cut before the shell has begun
            time.sleep(0.02)
        if part.exists():
            break
        server.connect(device)  # on a busy machine the shell is hung up before it makes the file
    assert part.stat().st_size <= 300_000
    server.connect(device)
    assert adb(server, device, "shell", "echo back").stdout == b"back\n"


def test_a_cut_at_a_line_of_output_ends_the_host_and_hangs_up_the_command(server: AdbServer, device: AdbDevice) -> None:
    device.faults.cut_at_output = b"now"
    adb(server, device, "shell", "echo $$ > pid; echo now; while true; do sleep 0.1; done")
    pid = int((device.phone.folder / "pid").read_text())
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_an_unauthorized_and_a_gone_device_are_seen_as_such(server: AdbServer, device: AdbDevice) -> None:
    server.adb("disconnect", device.serial)
    device.faults.unauthorized = True
    server.adb("connect", device.serial)
    assert b"unauthorized" in adb(server, device, "shell", "true").stderr
    server.adb("disconnect", device.serial)
    device.faults.gone = True
    assert b"not found" in adb(server, device, "shell", "true").stderr


def test_the_phone_has_what_android_has_and_not_more(server: AdbServer, device: AdbDevice) -> None:
    assert adb(server, device, "shell", "getprop ro.build.version.sdk").stdout == b"33\n"
    assert b"level: 83" in adb(server, device, "shell", "dumpsys battery").stdout
    assert b"Thermal Status: 0" in adb(server, device, "shell", "dumpsys thermalservice").stdout
    clusters = adb(server, device, "shell", "cat /sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq").stdout
    assert clusters.split() == [b"1800000", b"2841600"]
    assert adb(server, device, "shell", "python3 -c 1; awk 1").returncode == 127
    assert adb(server, device, "shell", "flock lock true").returncode == 1
    assert adb(server, device, "shell", "{ flock -n 9 && echo held; } 9>lock").stdout == b"held\n"
