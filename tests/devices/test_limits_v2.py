"""Control groups of version 2, in a made-up tree: their controllers are version 1's on many machines, as on CI's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgestill.devices import limits
from edgestill.runtime.control_group import ControlGroup


def tree(tmp_path: Path, enabled: str = "memory cpu") -> tuple[Path, Path]:
    """Return a mount and this process's group in it."""
    mount = tmp_path / "cgroup"
    own = mount / "user.slice" / "session.scope"
    own.mkdir(parents=True)
    for folder in (mount, own.parent, own):
        (folder / "cgroup.subtree_control").write_text(enabled)
        (folder / "cgroup.procs").write_text("")
    return mount, own


@pytest.fixture
def in_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    mount, own = tree(tmp_path)
    monkeypatch.setattr(limits, "control_group", lambda controller: ControlGroup("v2", own, mount))
    return mount, own


def test_limits_are_written_as_version_2_reads_them(in_tree: tuple[Path, Path]) -> None:
    _, own = in_tree
    group = limits.make_group(64 << 20, 0.5)
    assert group is not None
    assert (group.version, group.memory.parent) == ("v2", own)
    assert (group.memory / "memory.max").read_text() == str(64 << 20)
    assert (group.memory / "memory.swap.max").read_text() == "0"
    assert (group.memory / "cpu.max").read_text() == "50000 100000"
    assert group.entering() == [group.memory / "cgroup.procs"]


def test_without_a_limit_nothing_is_written(in_tree: tuple[Path, Path]) -> None:
    group = limits.make_group(None, None)
    assert group is not None
    assert [path.name for path in group.memory.iterdir()] == []
    group.remove()
    assert not group.memory.exists()


def test_controllers_are_asked_for_where_they_are_off(in_tree: tuple[Path, Path]) -> None:
    _, own = in_tree
    (own / "cgroup.subtree_control").write_text("pids")
    assert limits.make_group(64 << 20, 1.5) is not None
    assert (own / "cgroup.subtree_control").read_text() == "+memory +cpu"


def test_a_group_that_holds_processes_has_the_new_one_beside_it(in_tree: tuple[Path, Path]) -> None:
    _, own = in_tree
    (own / "cgroup.subtree_control").unlink()
    (own / "cgroup.subtree_control").mkdir()  # what is written there is refused, as the kernel refuses it
    group = limits.make_group(64 << 20, None)
    assert group is not None
    assert group.memory.parent == own.parent


def test_where_nothing_may_be_written_there_is_no_group(in_tree: tuple[Path, Path]) -> None:
    _, own = in_tree
    for folder in (own, own.parent):
        (folder / "cgroup.subtree_control").unlink()
        (folder / "cgroup.subtree_control").mkdir()
    assert limits.make_group(64 << 20, None) is None
    assert not [path for path in own.parent.rglob("edgestill-*")]


def test_what_a_job_cost_is_read_from_version_2s_files(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text(
        "anon 1000\nfile 4096\nworkingset_refault_anon 3\nworkingset_refault_file 7\npgmajfault 12\n"
    )
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n")
    (tmp_path / "memory.peak").write_text("123456\n")
    cost = limits.Group("v2", tmp_path, (tmp_path,)).cost()
    assert (cost.major_faults, cost.kills, cost.peak_bytes) == (12, 1, 123456)
    assert cost.dropped_bytes == 10 * os.sysconf("SC_PAGE_SIZE")


def test_an_older_kernel_says_neither_peak_nor_refaults(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text("anon 1000\npgmajfault 12\n")
    cost = limits.Group("v2", tmp_path, (tmp_path,)).cost()
    assert (cost.major_faults, cost.kills, cost.peak_bytes, cost.dropped_bytes) == (12, 0, None, None)
