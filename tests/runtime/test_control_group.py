"""Control groups: the folder of a process, its least limits, and the kernel's count of kills."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgestill.runtime.control_group import (
    control_group,
    cpu_quota,
    memory_kills,
    memory_limit,
    system_kills,
)


def system(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """Write a /proc of a process 7 and the folders that its control groups are mounted at."""
    for name, text in {"proc/7/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / "proc"


def test_version_1_has_a_mount_for_each_controller_and_the_least_limit_counts(tmp_path: Path) -> None:
    proc = system(
        tmp_path,
        "4:memory:/box/inner\n3:cpu,cpuacct:/box\n0::/\n",
        f"31 1 0:1 / {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
        f"32 1 0:2 / {tmp_path}/cpu rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct\n"
        f"33 1 0:3 / {tmp_path}/unified rw - cgroup2 cgroup2 rw\n",
        {
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/box/memory.limit_in_bytes": "1000000\n",
            "memory/box/inner/memory.limit_in_bytes": "4000000\n",
            "memory/box/inner/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            "cpu/box/cpu.cfs_quota_us": "50000\n",
            "cpu/box/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    memory, cpu = (control_group(name, "7", proc) for name in ("memory", "cpu"))
    assert memory is not None
    assert (memory.version, memory.folder) == ("v1", tmp_path / "memory" / "box" / "inner")
    assert (memory_limit(memory), cpu_quota(cpu), memory_kills(memory)) == (1000000, 0.5, 2)


def test_version_2_has_one_mount_for_all(tmp_path: Path) -> None:
    proc = system(
        tmp_path,
        "0::/a/b\n",
        f"33 1 0:3 / {tmp_path}/cg rw - cgroup2 cgroup2 rw\n",
        {
            "cg/a/memory.max": "max\n",
            "cg/a/cpu.max": "max 100000\n",
            "cg/a/b/memory.max": "5000\n",
            "cg/a/b/memory.stat": "",
            "cg/a/b/cpu.stat": "",
            "cg/a/b/cpu.max": "200000 100000\n",
            "cg/a/b/memory.events": "low 0\nhigh 3\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n",
        },
    )
    memory = control_group("memory", "7", proc)
    assert (memory_limit(memory), memory_kills(memory)) == (5000, 1)
    assert cpu_quota(control_group("cpu", "7", proc)) == 2.0


def test_a_container_without_a_namespace_sees_its_group_at_the_mount(tmp_path: Path) -> None:
    mount = tmp_path / "mem ory"
    proc = system(
        tmp_path,
        "4:memory:/docker/abc/sub\n",
        f"31 1 0:1 /docker/abc {str(mount).replace(' ', chr(92) + '040')} rw - cgroup cgroup rw,memory\n",
        {"mem ory/memory.limit_in_bytes": "7000\n", "mem ory/sub/memory.limit_in_bytes": "9000\n"},
    )
    group = control_group("memory", "7", proc)
    assert group is not None
    assert group.folder == mount / "sub"
    assert memory_limit(group) == 7000


def test_a_group_outside_of_what_is_mounted_leads_nowhere_else(tmp_path: Path) -> None:
    mounts = f"33 1 0:3 / {tmp_path}/cg rw - cgroup2 cgroup2 rw\n"
    proc = system(tmp_path, "0::/../../etc\n", mounts, {"cg/memory.stat": "", "cg/memory.max": "8000\n"})
    group = control_group("memory", "7", proc)
    assert group is not None
    assert group.folder == tmp_path / "cg"


def test_without_control_groups_nothing_is_known(tmp_path: Path) -> None:
    proc = system(tmp_path, "", "", {"proc/vmstat": "pgfault 9\noom_kill 4\n"})
    assert control_group("memory", "7", proc) is None
    assert (memory_limit(None), cpu_quota(None), memory_kills(None)) == (None, None, None)
    assert system_kills(proc) == 4
    assert system_kills(tmp_path / "absent") is None


@given(st.text(), st.text())
def test_no_text_breaks_the_readers(groups: str, mounts: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        proc = Path(folder)
        (proc / "self").mkdir()
        (proc / "self" / "cgroup").write_text(groups, encoding="utf-8", errors="replace")
        (proc / "self" / "mountinfo").write_text(mounts, encoding="utf-8", errors="replace")
        group = control_group("memory", proc=proc)
        assert group is None or memory_limit(group) is None or group.folder.is_dir()
