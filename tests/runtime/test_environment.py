"""The environment: what a machine says of itself is read, and what it doesn't say is null."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.bench_results import Environment
from edgestill.runtime.environment import describe_environment, usable_memory
from edgestill.runtime.isa_features import isa_features, under_hypervisor
from edgestill.runtime.repository import describe_repository, parse_status

X86 = """processor\t: 0
model name\t: Some CPU
flags\t\t: fpu sse sse2 pni ssse3 fma sse4_1 sse4_2 avx f16c avx2 bmi2 smep sme avx512f avx512vbmi avx_vnni amx_tile

processor\t: 1
flags\t\t: fpu hypervisor sse sse2 pni ssse3 fma sse4_1 sse4_2 avx f16c avx2 bmi2 smep sme avx512f avx_vnni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 atomics fphp asimdhp asimddp sve i8mm bf16 sme2\n"
RISCV = "processor\t: 0\nhart\t\t: 0\nisa\t\t: rv64imafdcv_zicsr_zvfh\n"


def test_vector_extensions_have_the_makers_names_and_are_those_of_every_processor() -> None:
    everywhere = ("avx", "avx2", "avx512f", "avx_vnni", "bmi2", "f16c", "fma")
    assert isa_features(X86) == (*everywhere, "sse", "sse2", "sse3", "sse4_1", "sse4_2", "ssse3")
    assert isa_features(ARM) == ("bf16", "dotprod", "fp16_vector", "fphp", "i8mm", "neon", "sme2", "sve")
    assert isa_features(RISCV) == ("rv64imafdcv", "zicsr", "zvfh")
    assert isa_features("processor\t: 0\nflags\t: fpu\n") == ()
    assert isa_features("") is None


def test_a_hypervisor_is_known_from_an_x86_processor_s_flag_only() -> None:
    assert under_hypervisor(X86) is True
    assert under_hypervisor("flags : fpu sse") is False
    assert under_hypervisor(ARM) is None


@given(st.text())
def test_no_text_breaks_the_readers(text: str) -> None:
    features = isa_features(text)
    assert features is None or list(features) == sorted(features)
    under_hypervisor(text)
    repository = parse_status(text)
    assert repository is None or repository.commit


def machine(root: Path, files: dict[str, str]) -> Environment:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return describe_environment(root / "proc" / "cpuinfo", root / "sys", root / "proc", root)


def test_swap_huge_pages_container_and_hypervisor_are_read(tmp_path: Path) -> None:
    environment = machine(
        tmp_path,
        {
            "proc/cpuinfo": X86,
            "proc/meminfo": "MemTotal:  100 kB\nSwapCached:  1 kB\nSwapTotal:  64 kB\nSwapFree:  16 kB",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
            "sys/devices/system/cpu/online": "0-3,6",
            "run/.containerenv": "",
        },
    )
    assert (environment.swap_bytes, environment.swap_used_bytes) == (65536, 49152)
    assert (environment.huge_pages, environment.container, environment.virtualised) == ("madvise", "podman", True)
    assert environment.features is not None
    assert "avx2" in environment.features
    assert environment.limits is not None
    assert environment.limits.online == (0, 1, 2, 3, 6)
    assert environment.limits.pinned is (set(os.sched_getaffinity(0)) < {0, 1, 2, 3, 6})


def test_a_hypervisor_that_a_device_tree_names_counts(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": ARM, "proc/device-tree/hypervisor/compatible": "xen,xen-4.17"}
    assert machine(tmp_path / "arm", files).virtualised is True
    assert machine(tmp_path / "other", {"proc/cpuinfo": ARM}).virtualised is None


def test_what_the_system_does_not_say_is_null(tmp_path: Path) -> None:
    environment = machine(tmp_path, {"sys/devices/system/cpu/online": "broken"})
    silent = ("features", "swap_bytes", "swap_used_bytes", "virtualised", "container", "huge_pages", "governor")
    assert [getattr(environment, name) for name in silent] == [None] * len(silent)
    limits = environment.limits
    assert limits is not None
    assert (limits.online, limits.pinned, limits.cpu_quota, limits.memory_bytes) == (None,) * 4
    assert limits.control_groups is None


def test_a_process_that_may_not_run_everywhere_is_pinned(tmp_path: Path) -> None:
    own = sorted(os.sched_getaffinity(0))
    limits = machine(tmp_path, {"sys/devices/system/cpu/online": ",".join(map(str, [*own, own[-1] + 1]))}).limits
    assert limits is not None
    assert limits.cpus == tuple(own)
    assert limits.pinned is True


def test_limits_of_control_groups_are_in_the_environment(tmp_path: Path) -> None:
    limits = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/box",
            "proc/self/mountinfo": f"25 1 0:1 / {tmp_path}/cg rw - cgroup2 cgroup2 rw",
            "cg/box/memory.max": "1048576",
            "cg/box/memory.stat": "",
            "cg/box/cpu.max": "150000 100000",
            "cg/box/cpu.stat": "",
        },
    ).limits
    assert limits is not None
    assert (limits.cpu_quota, limits.memory_bytes, limits.control_groups) == (1.5, 1048576, "v2")


def test_no_more_memory_is_usable_than_the_machine_has() -> None:
    assert 0 < usable_memory() <= describe_environment().memory_bytes


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_repository_s_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    try:
        git(tmp_path, "init", "-q")
    except FileNotFoundError:
        pytest.skip("no git on this machine")
    assert describe_repository(tmp_path) is None  # before the first commit
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    clean = describe_repository(tmp_path)
    assert clean is not None
    assert (clean.commit, clean.dirty) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "unknown").write_text("not added")
    assert describe_repository(tmp_path) == clean
    (tmp_path / "file").write_text("two")
    (tmp_path / "below").mkdir()
    changed = describe_repository(tmp_path / "below")
    assert changed is not None
    assert (changed.commit, changed.dirty) == (clean.commit, True)


def test_a_program_that_the_repository_names_is_not_started(tmp_path: Path) -> None:
    try:
        git(tmp_path, "init", "-q")
    except FileNotFoundError:
        pytest.skip("no git on this machine")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "config", "core.fsmonitor", f"touch {tmp_path}/started; false")
    assert describe_repository(tmp_path) is not None
    assert not (tmp_path / "started").exists()


def test_outside_of_a_repository_and_without_git_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_repository(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_repository() is None


def test_documents_from_before_load(tmp_path: Path) -> None:
    old = {
        "cpu": "c",
        "cores": 1,
        "memory_bytes": 1,
        "system": "s",
        "python": "3",
        "versions": {},
        "load_average": None,
    }
    environment = Environment.model_validate(old)
    assert environment.features is None
    assert environment.limits is None
