"""Linux control groups, version 1 and 2: what a process may use, and whom the kernel killed for memory.

Sources: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst, and proc(5) for mountinfo.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

_UNLIMITED: Final = 1 << 60
"""Version 1 writes "no limit" as the largest number of whole pages."""

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")

Version = Literal["v1", "v2"]


@dataclass(frozen=True)
class ControlGroup:
    """The folder of a process's group for one controller, and the mount that it lies below."""

    version: Version
    folder: Path
    mount: Path

    def up(self) -> list[Path]:
        """Return the folder and those above it as far as this process sees: a limit of each holds."""
        above = [self.folder, *self.folder.parents]
        return above[: above.index(self.mount) + 1]


def control_group(controller: str, process: str = "self", proc: Path = Path("/proc")) -> ControlGroup | None:
    """Return the group of a process (its id, or ``self``) for ``memory`` or ``cpu``; None where there is none."""
    hierarchies = [line.split(":", 2) for line in _text(proc / process / "cgroup").splitlines()]
    paths = {names: path for _, names, path in (parts for parts in hierarchies if len(parts) == 3)}
    mounts = _mounts(proc / "self" / "mountinfo")
    found: list[tuple[Version, str, tuple[str, Path]]] = []
    for names, path in paths.items():
        if controller in names.split(","):
            found += [("v1", path, (root, mount)) for kind, root, mount, options in mounts
                      if kind == "cgroup" and controller in options]  # fmt: skip
    if "" in paths:
        found += [("v2", paths[""], (root, mount)) for kind, root, mount, _ in mounts if kind == "cgroup2"]
    for version, path, (root, mount) in found:
        # In a container without a namespace of its own, what is mounted begins at the container's group.
        inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else ""
        folder = mount / inside.strip("/") if ".." not in inside.split("/") else mount
        if (version == "v1" and folder.is_dir()) or (folder / f"{controller}.stat").is_file():
            return ControlGroup(version, folder, mount)
    return None


def memory_limit(group: ControlGroup | None) -> int | None:
    """Return the least memory limit in bytes of a group and those above it; None when there is none."""
    if group is None:
        return None
    name = "memory.limit_in_bytes" if group.version == "v1" else "memory.max"
    limits = [int(text) for folder in group.up() if (text := _text(folder / name)).isdigit()]
    return min((limit for limit in limits if limit < _UNLIMITED), default=None)


def cpu_quota(group: ControlGroup | None) -> float | None:
    """Return the least CPU quota of a group and those above it, in cores; None when there is none."""
    quotas = []
    for folder in group.up() if group is not None else []:
        if group is not None and group.version == "v1":
            words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
        else:
            words = _text(folder / "cpu.max").split()
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_kills(group: ControlGroup | None) -> int | None:
    """Return how many processes of a group the kernel has killed for want of memory; None where it doesn't count."""
    if group is None:
        return None
    name = "memory.oom_control" if group.version == "v1" else "memory.events"
    return _counter(_text(group.folder / name), "oom_kill")


def system_kills(proc: Path = Path("/proc")) -> int | None:
    """Return how many processes the kernel has killed for want of memory since it started, limits' kills included."""
    return _counter(_text(proc / "vmstat"), "oom_kill")


def _counter(text: str, name: str) -> int | None:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return None


def _mounts(path: Path) -> list[tuple[str, str, Path, frozenset[str]]]:
    """Return (type, root, mount point, options of the file system) of every mount."""
    found = []
    for line in _text(path).splitlines():
        before, separator, after = line.partition(" - ")
        fields, system = before.split(), after.split()
        if separator and len(fields) >= 5 and len(system) >= 3:
            root, mount = (_ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), field) for field in fields[3:5])
            found.append((system[0], root, Path(mount), frozenset(system[2].split(","))))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
