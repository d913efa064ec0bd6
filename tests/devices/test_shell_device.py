"""What shell devices share: quoting, probes of real boards' files, and the machine that a program is for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.devices.contract import Cluster, Job
from edgestill.devices.drivers.limited import Limited, LimitedSettings
from edgestill.devices.executable import machine_of
from edgestill.devices.linux_probe import free_disk_bytes, parsed
from edgestill.devices.shell_job import arguments
from edgestill.devices.shell_words import quoted
from edgestill.devices.timeless import without_times
from edgestill.runtime.native.build import NativeBuild

SHELLS = [shell for shell in (["dash"], ["bash"], ["busybox", "sh"], ["mksh"]) if shutil.which(shell[0])] or [["sh"]]


def printed(shell: list[str], words: list[str]) -> list[str]:
    line = "for w do printf '%s\\0' \"$w\"; done"
    done = subprocess.run([*shell, "-c", f"set -- {quoted(*words)}; {line}"], capture_output=True, check=True)
    return done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_words_reach_a_shell_unchanged(shell: list[str]) -> None:
    words = [
        "a b",
        "it's",
        'say "x"',
        "$HOME ${x} $(id) `id`",
        "line\nbreak",
        "\\",
        "é 東 \U0001f600",
        "",
        "*",
        "~",
        "-n",
    ]
    assert printed(shell, words) == words


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=4))
def test_any_words_reach_a_shell_unchanged(words: list[str]) -> None:
    assert printed(SHELLS[0], words) == words


def test_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quoted("a\0b")


def test_a_job_becomes_the_runners_arguments() -> None:
    job = Job(
        "bench", "b c", "gguf-q4_0", {"prompt_tokens": 8, "no_mmap": True, "ignore_eos": False, "temperature": 0.5}
    )
    shown = ["bench", "./b c", "--artifact", "gguf-q4_0", "--prompt-tokens", "8", "--no-mmap", "--temperature", "0.5"]
    assert arguments(job) == shown


PI5 = """
edgestill-part system
Linux 6.6.31+rpt-rpi-2712

edgestill-part machine
aarch64

edgestill-part cores
4

edgestill-part cpuinfo
processor\t: 0
Features\t: fp asimd evtstrm crc32 asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
Features\t: fp asimd evtstrm crc32 asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

edgestill-part meminfo
MemTotal:        8257216 kB
MemAvailable:    7600000 kB

edgestill-part model
Raspberry Pi 5 Model B Rev 1.0
edgestill-part clocks
2400000
2400000

edgestill-part disk
Filesystem     1024-blocks    Used Available Capacity Mounted on
/dev/mmcblk0p2    59613356 3000000  54100000       6% /
"""


def test_a_boards_own_files_are_read() -> None:
    found = parsed(PI5, "pi5", "ssh", latency=True)
    assert (found.machine, found.cores, found.model) == ("aarch64", 4, "Raspberry Pi 5 Model B Rev 1.0")
    assert found.cpu == "Cortex-A76"
    assert found.clusters == (Cluster(2, "Cortex-A76", 2400.0),)
    assert found.ram_bytes == 8257216 * 1024
    assert found.free_disk_bytes == 54100000 * 1024
    assert "dotprod" in found.isa_features


V2 = "memory.max 536870912\nmemory.current 209715200\ninactive_file 104857600\nslab_inactive_file 5"
V1 = "memory.limit_in_bytes 536870912\nmemory.usage_in_bytes 209715200\ntotal_inactive_file 104857600\ninactive_file 7"


@pytest.mark.parametrize("group", [V2, V1])
def test_a_container_has_what_its_control_group_leaves(group: str) -> None:
    found = parsed(f"{PI5}\nedgestill-part group\n{group}\n", "box", "ssh", latency=True)
    assert (found.ram_bytes, found.free_ram_bytes) == (512 << 20, 412 << 20)


@pytest.mark.parametrize("group", ["memory.max max\nmemory.current 5", "memory.limit_in_bytes 9223372036854771712", ""])
def test_a_group_without_a_limit_changes_nothing(group: str) -> None:
    found = parsed(f"{PI5}\nedgestill-part group\n{group}\n", "box", "ssh", latency=True)
    assert (found.ram_bytes, found.free_ram_bytes) == (8257216 * 1024, 7600000 * 1024)


@given(st.text())
def test_any_output_is_read_without_an_error(text: str) -> None:
    assert parsed(text, "x", "ssh", latency=True).cores >= 1
    assert parsed(PI5.replace("kB", text), "x", "ssh", latency=True).cores >= 1
    free_disk_bytes(text)


def test_a_program_says_what_it_is_for(native_build: NativeBuild, tmp_path: Path) -> None:
    assert native_build.program is not None
    machine = machine_of(native_build.program)
    assert machine is not None
    assert machine.fits(__import__("os").uname().machine)
    assert machine.needs_libraries
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert machine_of(tmp_path / "script") is None
    data = native_build.program.read_bytes()
    for cut in (0, 3, 63, 64, 70):
        (tmp_path / "cut").write_bytes(data[:cut])
        machine_of(tmp_path / "cut")


def test_times_are_left_out_with_the_reason() -> None:
    from edgestill.devices.contract import RunResult

    second = {"value": 1.0, "unit": "seconds", "n": 3, "ci95": [0.9, 1.1], "basis": "measured", "source": "clock"}
    size = {"value": 5.0, "unit": "bytes", "n": 1, "ci95": None, "basis": "measured", "source": "kernel"}
    record = {"load_seconds": second, "peak_rss_bytes": size, "raw": {"ttft_seconds": [1.0], "rss_bytes": [5.0]}}
    document = {"schema": "edgestill.bench/1", "results": [record]}
    cleaned = without_times(RunResult(("x",), document, "", 3.0), "emulated").document
    assert cleaned is not None
    (found,) = cleaned["results"]  # type: ignore[misc]
    missing = {"value": None, "unit": "seconds", "n": 0, "ci95": None, "basis": "measured", "source": "emulated"}
    assert found["load_seconds"] == missing
    assert found["peak_rss_bytes"] == size
    assert found["raw"] == {"rss_bytes": [5.0]}
    assert found["warnings"] == ["times are left out: emulated"]


def test_a_limited_device_takes_a_profiles_memory_and_cores() -> None:
    from edgestill.devices.profile import find_profile, shipped_profiles

    name = next(iter(shipped_profiles()))
    held = Limited("x", LimitedSettings(driver="limited", profile=name, cpu_share=0.5)).held_to
    assert held.cores == find_profile(name).cores
    assert held.memory_bytes
    assert held.cpu_share == 0.5
