"""What a Linux device says of itself, asked in one script and read from the kernel's own files.

Sources: proc(5); Documentation/admin-guide/pm/cpufreq.rst, cgroup-v1/memory.rst, cgroup-v2.rst; POSIX ``df -P``.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from edgestill.devices.contract import Cluster, Probe
from edgestill.devices.shell_words import quoted
from edgestill.runtime.isa_features import isa_features

_MARK: Final = "edgestill-part "
_DISK: Final = re.compile(r"\s\d+\s+-?\d+\s+(-?\d+)\s+(?:\d+%|-)\s")

_GROUP_FILES: Final = ("memory.max", "memory.current", "memory.limit_in_bytes", "memory.usage_in_bytes")
_UNLIMITED: Final = 1 << 60

_ARM_PARTS: Final = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510",
    0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD82: "Cortex-X4", 0xC07: "Cortex-A7",
}  # fmt: skip
"""Arm's own cores (implementer 0x41) by part number, from Arm's Technical Reference Manuals (MIDR_EL1.PartNum)."""


def script(root: str) -> str:
    """Return a script that prints all that :func:`parsed` reads; what a device lacks stays empty."""
    maximum = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq"
    return f"""part() {{ printf '\\n{_MARK}%s\\n' "$1"; }}
part system; uname -sr
part machine; uname -m
part online; cat /sys/devices/system/cpu/online 2>/dev/null
part cores; nproc 2>/dev/null
part cpuinfo; cat /proc/cpuinfo
part meminfo; cat /proc/meminfo
part group; for d in /sys/fs/cgroup /sys/fs/cgroup/memory; do
  for f in {" ".join(_GROUP_FILES)}; do [ -r $d/$f ] && echo "$f $(cat $d/$f)"; done
  grep -h inactive_file $d/memory.stat 2>/dev/null
done
part model; tr -d '\\000' </proc/device-tree/model 2>/dev/null
part clocks; for f in {maximum}; do [ -r "$f" ] && cat "$f"; done
part disk; d={quoted(root)}; while [ ! -e "$d" ]; do d=$(dirname "$d"); done; df -Pk "$d"
exit 0"""


def parsed(text: str, device: str, kind: str, *, latency: bool) -> Probe:
    """Return what the script's output says; a device that answers nothing readable has 1 core and nothing else."""
    parts: dict[str, str] = {}
    for piece in ("\n" + text).split("\n" + _MARK)[1:]:
        name, _, body = piece.partition("\n")
        parts[name.strip()] = body.strip()
    cpuinfo = parts.get("cpuinfo", "")
    memory = _memory(parts.get("meminfo", ""))
    ram, free = memory.get("MemTotal"), memory.get("MemAvailable", memory.get("MemFree"))
    limit, left = _group_memory(parts.get("group", ""))
    listed = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))
    cores = parts.get("cores", "")
    return Probe(
        device=device,
        kind=kind,
        system=parts.get("system", "") or "unknown",
        machine=parts.get("machine", "") or "unknown",
        cores=int(cores) if cores.isdigit() and int(cores) else listed or 1,
        ram_bytes=min((size for size in (ram, limit) if size is not None), default=None),
        free_ram_bytes=min((size for size in (free, left) if size is not None), default=None),
        free_disk_bytes=free_disk_bytes(parts.get("disk", "")),
        latency=latency,
        model=parts.get("model") or None,
        cpu=_cpu(cpuinfo),
        clusters=_clusters(cpuinfo, parts.get("clocks", "")),
        isa_features=isa_features(cpuinfo) or (),
    )


def free_disk_bytes(text: str) -> int | None:
    """Return the available bytes that ``df -Pk`` of one folder printed."""
    found = _DISK.search(" ".join(text.splitlines()[1:]) + " ")
    return None if found is None else max(int(found[1]), 0) * 1024


def _memory(text: str) -> dict[str, int]:
    found = re.findall(r"^(\w+):\s*(\d+) kB", text, re.MULTILINE)
    return {name: int(amount) * 1024 for name, amount in found}


def _group_memory(text: str) -> tuple[int | None, int | None]:
    """Return the limit of the container that we see as the whole system, and what it leaves; None without one.

    Pages of files that weren't used lately count as free, as they do in MemAvailable.
    """
    found = {name: int(value) for name, value in re.findall(r"^(\S+) (\d{1,19})$", text, re.MULTILINE)}
    limit = found.get("memory.max", found.get("memory.limit_in_bytes", _UNLIMITED))
    if limit >= _UNLIMITED:
        return None, None
    used = found.get("memory.current", found.get("memory.usage_in_bytes", 0))
    used -= found.get("total_inactive_file", found.get("inactive_file", 0))
    return limit, max(0, limit - max(0, used))


def _cpu(cpuinfo: str) -> str | None:
    for key in ("model name", "Hardware", "uarch", "cpu model"):
        if found := re.search(rf"^{key}\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
            return found[1].strip()
    names = dict.fromkeys(name for name in _arm_cores(cpuinfo) if name is not None)
    return " + ".join(names) or None


def _arm_cores(cpuinfo: str) -> list[str | None]:
    """Return each Arm core's name in the order listed; None for one that isn't known."""
    makers = re.findall(r"^CPU implementer\s*:\s*(0x[0-9a-fA-F]+)", cpuinfo, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(0x[0-9a-fA-F]+)", cpuinfo, re.MULTILINE)
    if len(makers) != len(parts):
        return []
    pairs = zip(makers, parts, strict=True)
    return [_ARM_PARTS.get(int(part, 16)) if int(maker, 16) == 0x41 else None for maker, part in pairs]


def _clusters(cpuinfo: str, clocks: str) -> tuple[Cluster, ...]:
    """Group cores by their name and their highest clock, the fastest first."""
    names = _arm_cores(cpuinfo)
    mhz = [int(line) / 1000 for line in clocks.split() if line.isdigit()]
    if not names and not mhz:
        return ()
    count = max(len(names), len(mhz))
    both = [(names[at] if len(names) == count else None, mhz[at] if len(mhz) == count else None) for at in range(count)]
    groups = Counter(both)
    clusters = [Cluster(number, name, clock) for (name, clock), number in groups.items()]
    return tuple(sorted(clusters, key=lambda one: -(one.max_mhz or 0)))
