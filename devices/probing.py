"""A profile written from a real device: what it says of itself, each figure measured there or left out."""

from __future__ import annotations

from edgestill.devices.contract import Driver, Probe
from edgestill.devices.profile import Profile, ProfileCluster, ProfileFigure
from edgestill.devices.profile_here import profile_here
from edgestill.devices.registry import LOCAL


def profile_of(driver: Driver, probe: Probe) -> Profile:
    """Return a device's profile; of this machine with measured bandwidth and rates too, which takes seconds."""
    if driver.kind == LOCAL:
        return profile_here(driver.name)
    clusters = tuple(
        ProfileCluster(count=one.count, name=one.name or "core", max_mhz=one.max_mhz) for one in probe.clusters
    )
    return Profile(
        name=driver.name,
        title=probe.model or driver.name,
        cpu=probe.cpu or probe.machine,
        isa=probe.machine,
        isa_features=probe.isa_features,
        source=f"what {driver.name} said of itself ({probe.system})",
        clusters=clusters or (ProfileCluster(count=probe.cores, name=probe.cpu or "core"),),
        ram_bytes=_said(probe.ram_bytes, "/proc/meminfo, MemTotal"),
        free_ram_bytes=_said(probe.free_ram_bytes, "/proc/meminfo, MemAvailable"),
        free_disk_bytes=_said(probe.free_disk_bytes, "df of our folder"),
    )


def _said(value: int | None, source: str) -> ProfileFigure | None:
    return None if not value else ProfileFigure(value=value, basis="measured", source=source)
