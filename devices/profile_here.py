"""The profile of the machine that this runs on, measured: what other devices' profiles are derived or looked up for."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from edgestill.devices.profile import SCHEMA, Profile, ProfileCluster, ProfileFigure, ProfileProduct
from edgestill.figure import Figure
from edgestill.runtime.arithmetic import float32_rate
from edgestill.runtime.bandwidth import last_level_cache, read_bandwidth
from edgestill.runtime.engines import available_cpus
from edgestill.runtime.environment import describe_environment, usable_memory
from edgestill.runtime.products import Product, measure_products

_MOST_CACHED = 64 << 20
"""How much is read at most to measure a cache: as large a one is shared by more than this process."""
SPREAD = 0.1
"""Relative error of a rate that is the best of a few passes: neighbours on a shared machine take their part."""


def profile_here(
    name: str = "local", *, meminfo: Path = Path("/proc/meminfo"), note: Callable[[str], None] | None = None
) -> Profile:
    """Measure this machine's read bandwidth, float32 rate and llama.cpp's products, by one core and by all it may use.

    It takes some twenty seconds. What can't be measured is left out; ``note`` is told why llama.cpp's products are.
    """
    environment = describe_environment()
    cores = available_cpus()
    cache = last_level_cache()
    free = _available(meminfo)
    counts = sorted({1, cores})
    bandwidth = [read_bandwidth(threads, usable_memory(), cache) for threads in counts]
    held = min((cache or 0) // 2, _MOST_CACHED)
    cached = [read_bandwidth(threads, usable_memory(), cache, held) for threads in counts if held]
    rates = [float32_rate(threads) for threads in counts]
    products, why = measure_products(counts, usable_memory())
    if why is not None and note is not None:
        note(f"{name}: llama.cpp's products aren't measured, GGUF files' rates are less sure: {why}")
    clock = max(environment.clock_mhz, default=None)
    figures: dict[str, ProfileFigure | None] = {
        "ram_bytes": _said(environment.memory_bytes, "the system's own word"),
        "free_ram_bytes": _said(free, "MemAvailable of /proc/meminfo"),
        "last_cache_bytes": _said(cache, "sysfs"),
        "read_bandwidth_one_core_bytes_per_second": _measured(bandwidth[:1]),
        "read_bandwidth_bytes_per_second": _measured(bandwidth),
        "cached_bytes": _said(held, "half of the last cache, at most 64 MiB"),
        "cached_read_bandwidth_one_core_bytes_per_second": _measured(cached[:1]),
        "cached_read_bandwidth_bytes_per_second": _measured(cached),
        "float32_ops_one_core_per_second": _measured(rates[:1]),
        "float32_ops_per_second": _measured(rates),
    }
    return Profile.model_validate(
        {
            "schema": SCHEMA,
            "name": name,
            "title": f"This machine: {environment.cpu}",
            "cpu": environment.cpu,
            "isa": platform.machine() or "unknown",
            "isa_features": environment.features or (),
            "source": "what the system says of itself",
            "clusters": (ProfileCluster(count=cores, name=environment.cpu, max_mhz=clock or None),),
            "products": tuple(map(_product, products)),
            **{key: figure for key, figure in figures.items() if figure is not None},
        }
    )


def _measured(figures: Sequence[Figure]) -> ProfileFigure | None:
    """Return the largest: of all cores it is at least that of one."""
    known = [figure for figure in figures if figure.value]
    if not known:
        return None
    best = max(known, key=lambda figure: figure.value or 0.0)
    return ProfileFigure(value=best.value or 0.0, basis="measured", source=best.source, error=SPREAD)


def _product(product: Product) -> ProfileProduct:
    return ProfileProduct(
        value=product.bytes_per_second,
        basis="measured",
        source="llama.cpp's products, median of at least three passes",
        error=SPREAD,
        weights=product.weights,
        threads=product.threads,
        read_bytes=product.read_bytes,
    )


def _said(value: int | None, source: str) -> ProfileFigure | None:
    return None if not value else ProfileFigure(value=value, basis="measured", source=source, error=0)


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
