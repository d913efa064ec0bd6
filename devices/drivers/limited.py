"""limited: this machine held down to a smaller one's memory, CPU share and cores: does it fit, does it thrash?

It never answers "how fast": a slowed core of this machine is no core of that device. Memory and CPU share are held by
a control group where one may be made, else memory by a limit on the address space (setrlimit(2)), which says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from pydantic import Field

from edgestill.devices.contract import DeviceError, DeviceSettings, Job, JobFailed, Probe, RunResult
from edgestill.devices.drivers.local import Local
from edgestill.devices.limits import Cost, Group, make_group
from edgestill.devices.profile import find_profile
from edgestill.devices.shell_device import ShellSettings
from edgestill.devices.shell_words import quoted
from edgestill.devices.timeless import without_times
from edgestill.runtime.page_cache import evict

_WHY: Final = "this machine held down to less, not the device: its times say nothing about one"
_READAHEAD_BYTES: Final = 128 << 10
"""What one major fault of a mapped file reads at most, as Linux comes."""
_SLACK_BYTES: Final = 8 << 20


class LimitedSettings(ShellSettings):
    """The keys of a limited device's table."""

    memory_bytes: int | None = Field(default=None, ge=1 << 20)
    cpu_share: float | None = Field(default=None, gt=0)
    """In cores: 0.5 is half of one."""
    cores: int | None = Field(default=None, ge=1)
    control_groups: bool = True
    """False holds memory by rlimits, as where no control group may be made."""


def _of_profile(settings: LimitedSettings, name: str) -> LimitedSettings:
    """Return the settings with a profile's memory and cores where they give none themselves."""
    profile = find_profile(name)
    memory = profile.free_ram_bytes or profile.ram_bytes
    found = {"memory_bytes": None if memory is None else int(memory.value), "cores": profile.cores}
    return settings.model_copy(update={key: value for key, value in found.items() if getattr(settings, key) is None})


def _thrashes(cost: Cost, weight_bytes: int) -> bool:
    """Tell whether a job dropped and read again as much as its weights: loading alone may drop some pages of them.

    Where the kernel doesn't count what it dropped: whether it read them three times over.
    """
    if cost.dropped_bytes is not None:
        return cost.dropped_bytes > weight_bytes + _SLACK_BYTES
    return cost.major_faults * _READAHEAD_BYTES > 3 * weight_bytes + _SLACK_BYTES


class Limited(Local):
    """This machine with less."""

    kind: ClassVar[str] = "limited"
    summary: ClassVar[str] = "this machine held to less memory and CPU: does it fit, does it thrash"
    settings_type: ClassVar[type[DeviceSettings]] = LimitedSettings
    latency = False

    def __init__(self, name: str, settings: LimitedSettings) -> None:
        self.default_root = f"~/.edgestill-{name}"  # its pushes and benches don't wait for those of other devices here
        super().__init__(name, settings)
        self.held_to = settings if settings.profile is None else _of_profile(settings, settings.profile)
        settings = self.held_to
        self._group: Group | None = None
        self._weight_bytes = 0
        if settings.memory_bytes is None and settings.cpu_share is None and settings.cores is None:
            raise DeviceError(f"{name}: a limited device needs memory_bytes, cpu_share or cores (or a profile)")

    def program_words(self) -> Sequence[str]:
        if self.held_to.cores is None:
            return ()
        mine = sorted(os.sched_getaffinity(0))[: self.held_to.cores]
        return ["taskset", "-c", ",".join(map(str, mine))]

    def _before_script(self, job: Job) -> str:
        self._let_go()
        limits = self.held_to
        # What another process read into the page cache would cost this one nothing: it is put out of it.
        weights = self._weights(job)
        evict(weights)
        self._weight_bytes = sum(path.stat().st_size for path in weights)
        self._group = make_group(limits.memory_bytes, limits.cpu_share) if limits.control_groups else None
        if self._group is not None:
            return "\n".join(f"echo 0 >{quoted(str(path))} || exit 77" for path in self._group.entering())
        if limits.memory_bytes is None:
            return ""
        return f"ulimit -v {limits.memory_bytes // 1024} || exit 77"

    def close(self) -> None:
        super().close()
        self._let_go()

    def _weights(self, job: Job) -> list[Path]:
        place = Path(self.root) / job.bundle
        if place.is_file():
            return [place]
        folder = place / "artifacts"
        if job.artifact is not None:
            folder /= job.artifact
        return [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []

    def _after(self, job: Job, result: RunResult) -> RunResult:
        limits = self.held_to
        facts = dict(result.facts) | {
            "memory_limit_bytes": limits.memory_bytes,
            "cpu_share": limits.cpu_share,
            "held_by": "control group" if self._group is not None else "rlimits",
        }
        notes = list(result.notes)
        if self._group is None:
            notes.append("held by a limit on the address space, mapped weights included; no control group may be made")
            facts |= {"fits": True, "thrashes": None, "major_faults": None}
            if limits.cpu_share is not None:
                notes.append("the CPU share isn't held")
        else:
            cost = self._group.cost()
            thrashes = _thrashes(cost, self._weight_bytes)
            facts |= {
                "fits": not thrashes and not cost.kills,
                "thrashes": thrashes,
                "major_faults": cost.major_faults,
                "dropped_bytes": cost.dropped_bytes,
                "kills": cost.kills,
                "peak_bytes": cost.peak_bytes,
            }
        self._let_go()
        return without_times(replace(result, facts=facts, notes=tuple(notes)), _WHY)

    def _explain(self, job: Job, error: JobFailed) -> JobFailed:
        group, limit = self._group, self.held_to.memory_bytes
        if group is not None and limit is not None and (cost := group.cost()).kills:
            return JobFailed(
                f"{self.name}: {job.command} doesn't fit: killed for want of memory at the limit of "
                f"{limit / 1e6:,.0f} MB, after {cost.major_faults:,} major faults; a smaller artifact or context might"
            )
        return error

    def _machine(self, found: Probe) -> Probe:
        limits = self.held_to
        memory = limits.memory_bytes
        cores = min(limits.cores or found.cores, found.cores)
        facts = {"cpu_share": limits.cpu_share} if limits.cpu_share is not None else {}
        if memory is not None:
            found = replace(found, ram_bytes=memory, free_ram_bytes=min(memory, found.free_ram_bytes or memory))
        return replace(found, cores=cores, clusters=(), facts=facts, notes=(_WHY,))

    def _let_go(self) -> None:
        if self._group is not None:
            self._group.remove()
            self._group = None
