"""Out of memory is said when the kernel's counters say it, denied when they deny it, and else called a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgestill.runtime.out_of_memory import KillCount


def machine(root: Path, version: str, kills: int, limit: str, system: int) -> Path:
    """Write a /proc in which process 7 is in a group of this many kills."""
    mount = f"31 1 0:1 / {root}/cg rw - " + ("cgroup cgroup rw,memory" if version == "v1" else "cgroup2 cgroup2 rw")
    files = {
        "proc/7/cgroup": "4:memory:/box\n" if version == "v1" else "0::/box\n",
        "proc/self/mountinfo": mount,
        "proc/vmstat": f"oom_kill {system}\n",
        "cg/box/memory.stat": "",
        "cg/box/memory.limit_in_bytes": limit,
        "cg/box/memory.max": limit,
        "cg/box/memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n",
        "cg/box/memory.events": f"oom {kills}\noom_kill {kills}\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / "proc"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_kill_that_the_group_counts_names_the_limit(tmp_path: Path, version: str) -> None:
    began = KillCount.when_began(7, machine(tmp_path, version, 2, "256000000", 5))
    machine(tmp_path, version, 3, "256000000", 6)
    assert began.reason() == "out of memory: the kernel killed it, the limit of its control group is 256 MB"


def test_a_kill_of_the_whole_system_s_memory_names_no_limit(tmp_path: Path) -> None:
    began = KillCount.when_began(7, machine(tmp_path, "v2", 0, "max", 0))
    machine(tmp_path, "v2", 1, "max", 1)
    assert began.reason() == "out of memory: the kernel killed it"


def test_a_group_that_counts_no_kill_denies_it_though_others_died(tmp_path: Path) -> None:
    began = KillCount.when_began(7, machine(tmp_path, "v1", 2, "256000000", 5))
    machine(tmp_path, "v1", 2, "256000000", 6)
    assert began.reason().startswith("not for want of memory")


def test_without_a_group_the_system_s_count_is_not_proof(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("oom_kill 5\n")
    began = KillCount.when_began(7, tmp_path)
    assert began.reason() == "not for want of memory: the kernel counts no such kill"
    (tmp_path / "vmstat").write_text("oom_kill 6\n")
    assert began.reason() == "probably out of memory: the kernel killed a process for it meanwhile"


def test_without_any_counter_it_is_a_guess(tmp_path: Path) -> None:
    assert KillCount.when_began(7, tmp_path).reason() == "often: out of memory"
