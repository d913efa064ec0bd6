"""Was a process killed for want of memory? The kernel's own counters say; a guess is called one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgestill.runtime.control_group import ControlGroup, control_group, memory_kills, memory_limit, system_kills

_PROC = Path("/proc")


@dataclass(frozen=True)
class KillCount:
    """How many processes the kernel had killed for memory when a process began: in its control group, and in all."""

    group: ControlGroup | None
    in_group: int | None
    in_system: int | None
    proc: Path = _PROC

    @classmethod
    def when_began(cls, process: int, proc: Path = _PROC) -> KillCount:
        """Count before a process can die; its control group is asked for while it has one."""
        group = control_group("memory", str(process), proc)
        return cls(group, memory_kills(group), system_kills(proc), proc)

    def reason(self) -> str:
        """Return why the process got SIGKILL, as far as the counters tell now, as a phrase."""
        in_group, in_system = memory_kills(self.group), system_kills(self.proc)
        if self.in_group is not None and in_group is not None:
            if in_group > self.in_group:
                return f"out of memory: the kernel killed it{self._limit()}"
            return "not for want of memory: the kernel counts no such kill in its control group"
        if self.in_system is not None and in_system is not None:
            if in_system > self.in_system:
                return "probably out of memory: the kernel killed a process for it meanwhile"
            return "not for want of memory: the kernel counts no such kill"
        return "often: out of memory"

    def _limit(self) -> str:
        limit = memory_limit(self.group)
        return "" if limit is None else f", the limit of its control group is {limit / 1e6:,.0f} MB"
