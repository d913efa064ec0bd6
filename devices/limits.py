"""A control group of our own that holds one job to memory and a CPU share, and counts what that cost it.

Sources: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst, scheduler/sched-bwc.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgestill.runtime.control_group import control_group

_PERIOD_MICROSECONDS: Final = 100_000
_numbers = itertools.count()


@dataclass(frozen=True)
class Cost:
    """What a job in the group cost: pages that had to be read from the disk, and kills for want of memory.

    ``dropped_bytes`` are those of pages that were dropped for want of memory and read again while they were still in
    use (refaults); None where the kernel doesn't count them.
    """

    major_faults: int
    kills: int
    peak_bytes: int | None
    dropped_bytes: int | None


@dataclass(frozen=True)
class Group:
    """Folders that a shell enters by writing 0, which is itself, into each one's cgroup.procs."""

    version: Literal["v1", "v2"]
    memory: Path
    folders: tuple[Path, ...]

    def entering(self) -> list[Path]:
        """Return the files into which a process writes 0."""
        return [folder / "cgroup.procs" for folder in self.folders]

    def cost(self) -> Cost:
        """Return the counters as they stand."""
        stat = _counters(self.memory / "memory.stat")
        if self.version == "v1":
            kills = _counters(self.memory / "memory.oom_control").get("oom_kill", 0)
            peak = _number(self.memory / "memory.max_usage_in_bytes")
            return Cost(
                stat.get("total_pgmajfault", stat.get("pgmajfault", 0)), kills, peak, _refaulted(stat, "total_")
            )
        kills = _counters(self.memory / "memory.events").get("oom_kill", 0)
        return Cost(stat.get("pgmajfault", 0), kills, _number(self.memory / "memory.peak"), _refaulted(stat, ""))

    def remove(self) -> None:
        """Delete the group once its processes are gone; whatever is still in it is killed first."""
        for folder in self.folders:
            for _ in range(50):
                for pid in _text(folder / "cgroup.procs").split():
                    with contextlib.suppress(OSError):
                        os.kill(int(pid), 9)
                with contextlib.suppress(FileNotFoundError):
                    try:
                        folder.rmdir()
                    except OSError:
                        time.sleep(0.02)
                        continue
                break


def make_group(memory_bytes: int | None, cpu_share: float | None) -> Group | None:
    """Make a group below this process's own; ``cpu_share`` is in cores. Returns None where that isn't allowed."""
    name = f"edgestill-{os.getpid()}-{next(_numbers)}"
    found = control_group("memory")
    if found is None:
        return None
    sweep(found.folder)
    made: list[Path] = []
    try:
        if found.version == "v1":
            memory = _made(found.folder / name, made)
            _limit_v1(memory, memory_bytes)
            if cpu_share is not None:
                share = control_group("cpu")
                if share is None or share.version != "v1":
                    raise OSError("no cpu controller")
                sweep(share.folder)
                quota = _made(share.folder / name, made)
                (quota / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS), encoding="ascii")
                (quota / "cpu.cfs_quota_us").write_text(str(int(cpu_share * _PERIOD_MICROSECONDS)), encoding="ascii")
            return Group("v1", memory, tuple(made))
        return _group_v2(found.folder, found.mount, name, memory_bytes, cpu_share, made)
    except OSError:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        return None


def sweep(above: Path) -> None:
    """Remove groups whose maker was killed."""
    for folder in above.glob("edgestill-*-*"):
        maker = folder.name.split("-")[1]
        if maker.isdigit() and not Path("/proc", maker).exists():
            Group("v1", folder, (folder,)).remove()


def _group_v2(
    own: Path, mount: Path, name: str, memory_bytes: int | None, cpu_share: float | None, made: list[Path]
) -> Group:
    """Make a group beside our own where our own holds processes: a group with processes can't share out controllers."""
    error: OSError | None = None
    for above in dict.fromkeys((own, own.parent if own != mount else own)):
        try:
            wanted = ["memory", *(["cpu"] if cpu_share is not None else [])]
            enabled = _text(above / "cgroup.subtree_control").split()
            if missing := [f"+{one}" for one in wanted if one not in enabled]:
                (above / "cgroup.subtree_control").write_text(" ".join(missing), encoding="ascii")
            sweep(above)
            folder = _made(above / name, made)
            if memory_bytes is not None:
                (folder / "memory.max").write_text(str(memory_bytes), encoding="ascii")
                with contextlib.suppress(OSError):
                    (folder / "memory.swap.max").write_text("0", encoding="ascii")
            if cpu_share is not None:
                quota = f"{int(cpu_share * _PERIOD_MICROSECONDS)} {_PERIOD_MICROSECONDS}"
                (folder / "cpu.max").write_text(quota, encoding="ascii")
            return Group("v2", folder, (folder,))
        except OSError as failed:
            error = failed
    raise error or OSError("no place for a group")


def _limit_v1(folder: Path, memory_bytes: int | None) -> None:
    if memory_bytes is None:
        return
    (folder / "memory.limit_in_bytes").write_text(str(memory_bytes), encoding="ascii")
    with contextlib.suppress(OSError):  # where swap is counted, none of it either
        (folder / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes), encoding="ascii")
    with contextlib.suppress(OSError):
        (folder / "memory.swappiness").write_text("0", encoding="ascii")


def _made(folder: Path, made: list[Path]) -> Path:
    folder.mkdir()
    made.append(folder)
    return folder


def _refaulted(stat: dict[str, int], prefix: str) -> int | None:
    found = [stat.get(f"{prefix}workingset_refault_{kind}") for kind in ("file", "anon")]
    known = [pages for pages in found if pages is not None]
    return sum(known) * os.sysconf("SC_PAGE_SIZE") if known else None


def _counters(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in pairs if len(words) == 2 and words[1].isdigit()}


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
