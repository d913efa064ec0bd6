"""A profile written from a real device: what it says of itself, each figure measured there or left out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from edgestill.devices.contract import Driver, DriverError, Job, Probe
from edgestill.devices.profile import RUNNER_SOURCE, Profile, ProfileCluster, ProfileFigure, ProfileProduct
from edgestill.devices.profile_here import SPREAD, profile_here
from edgestill.devices.registry import LOCAL
from edgestill.runtime.products import ProductWeights

SCHEMA: Final = "edgestill.probe/1"
PROBE_SECONDS: Final = 120.0
_RATES: Final = {
    "read_bytes_per_second": ("read_bandwidth_bytes_per_second", "read_bandwidth_one_core_bytes_per_second"),
    "float32_ops_per_second": ("float32_ops_per_second", "float32_ops_one_core_per_second"),
    "int8_ops_per_second": ("int8_ops_per_second", "int8_ops_one_core_per_second"),
}
"""The runner's name of a rate -> a profile's of all cores and of one."""


@dataclass(frozen=True)
class Probed:
    """A device's profile, and what could not be measured there and why."""

    profile: Profile
    notes: tuple[str, ...] = ()


def profile_of(driver: Driver, probe: Probe) -> Probed:
    """Return a device's profile; its rates are measured there by its runner, which takes seconds.

    They are left out of a device whose times mean nothing, and where no runner is.
    """
    if driver.kind == LOCAL:
        said: list[str] = []
        here = profile_here(driver.name, note=said.append)
        return Probed(here, tuple(said))
    clusters = tuple(
        ProfileCluster(count=one.count, name=one.name or "core", max_mhz=one.max_mhz) for one in probe.clusters
    )
    rates, products, notes = _measured(driver, probe)
    profile = Profile(
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
    return Probed(profile.model_copy(update={**rates, "products": products}), notes)


_Measured = tuple[dict[str, ProfileFigure], tuple[ProfileProduct, ...], tuple[str, ...]]


def _measured(driver: Driver, probe: Probe) -> _Measured:
    """Return the rates and products of a device as its runner measures them, and why there are none."""
    without = f"{driver.name}: read bandwidth and rates aren't measured"
    if not probe.latency:
        return {}, (), (f"{without}: its times mean nothing",)
    if not driver.uses_runner:
        return {}, (), (f"{without}: {driver.kind} has no program for it",)
    try:
        result = driver.run(Job("probe"), timeout_seconds=PROBE_SECONDS)
    except DriverError as error:
        return {}, (), (f"{without}: {str(error).removeprefix(f'{driver.name}: ')}",)
    document = result.document
    if document is None or document.get("schema") != SCHEMA:
        return {}, (), (f"{without}: its runner answers in no {SCHEMA}; edgestill deploy brings one of this version",)
    rates = rates_of(document)
    if not rates:
        return {}, (), (f"{without}: {json.dumps(document)[:200]} holds none",)
    return rates, products_of(document), ()


def rates_of(document: Mapping[str, object]) -> dict[str, ProfileFigure]:
    """Return a profile's rates, by key, from the runner's document; what isn't a positive number is left out.

    That of all cores is at least that of one: on a machine that others use the measured one can be less.
    """
    rows = document.get("threads")
    found: dict[str, ProfileFigure] = {}
    by_threads = sorted((_row(row) for row in rows), key=lambda row: row[0]) if isinstance(rows, list) else []
    for rate, (of_all, of_one) in _RATES.items():
        measured = [(threads, value) for threads, row in by_threads if (value := _positive(row.get(rate))) is not None]
        if measured and measured[0][0] == 1:
            found[of_one] = _figure(*measured[0])
        if measured:
            found[of_all] = _figure(*max(measured, key=lambda one: one[1]))
    return found


def products_of(document: Mapping[str, object]) -> tuple[ProfileProduct, ...]:
    """Return the products in the runner's document; what isn't one is left out."""
    rows = document.get("products")
    found = []
    for row in rows if isinstance(rows, list) else ():
        threads, said = _row(row)
        rate, size = _positive(said.get("bytes_per_second")), _positive(said.get("read_bytes"))
        if rate is None or size is None or said.get("weights") not in get_args(ProductWeights):
            continue
        figure = _figure(threads, rate)
        of = {"weights": said["weights"], "threads": threads, "read_bytes": size}
        found.append(ProfileProduct.model_validate({**figure.model_dump(), **of}))
    return tuple(found)


def _row(row: object) -> tuple[int, Mapping[str, Any]]:
    if not isinstance(row, Mapping):
        return 0, {}
    threads = row.get("threads")
    return (threads, row) if isinstance(threads, int) and threads > 0 else (0, {})


def _positive(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 < value <= sys.float_info.max else None


def _figure(threads: int, value: float) -> ProfileFigure:
    of = f"{threads} thread{'' if threads == 1 else 's'}"
    return ProfileFigure(value=value, basis="measured", source=f"{RUNNER_SOURCE}, {of}", error=SPREAD)


def _said(value: int | None, source: str) -> ProfileFigure | None:
    return None if not value else ProfileFigure(value=value, basis="measured", source=source)
