"""How much memory this process holds, from the kernel's own counters; null where it doesn't count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SMAPS_ROLLUP: Final = Path("/proc/self/smaps_rollup")
_STATUS: Final = Path("/proc/self/status")


@dataclass(frozen=True)
class MemorySample:
    """Bytes held by this process at one moment; a counter that this platform lacks is None.

    ``pss``: proportional set size, shared pages divided among those that share them. ``rss``: resident
    set size. ``peak_rss``: the highest resident set size since the process began.
    """

    pss: int | None
    rss: int | None
    peak_rss: int | None


def read_memory(smaps_rollup: Path = _SMAPS_ROLLUP, status: Path = _STATUS) -> MemorySample:
    """Read this process's memory counters (Linux: smaps_rollup, VmRSS and VmHWM).

    Elsewhere only the peak is known, from ``getrusage``. Reading PSS walks the page tables
    (milliseconds for a large model): don't call it inside a timed section.
    """
    counters = _counters(status)
    peak = counters.get("VmHWM")
    return MemorySample(
        pss=_counters(smaps_rollup).get("Pss"),
        rss=counters.get("VmRSS"),
        peak_rss=peak if peak is not None else _peak_from_rusage(),
    )


def _counters(path: Path) -> dict[str, int]:
    """Parse ``Name:   123 kB`` lines into bytes; nothing when the file isn't there."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        if unit == "kB" and number.isdigit():
            found[name] = int(number) * 1024
    return found


def _peak_from_rusage() -> int | None:
    import sys

    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
