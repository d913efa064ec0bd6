"""A gate before each repetition: it opens when the device is as cool as it was at the start, or after a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgestill.runtime.heat_sensors import SYSFS, processor_sensors, read_temperatures

Reason = Literal["cool", "time limit", "no sensor"]
"""Why a wait ended: as cool as at the start, too long, or there is nothing to go by (then it didn't wait)."""

MARGIN: Final = 3.0
"""Degrees Celsius above the start that count as cool: sensors have steps of one, and a package at work never gets back
to where it was when idle."""

_POLL: Final = 0.5  # seconds


@dataclass(frozen=True)
class Wait:
    """How long a gate was shut (seconds) and why it opened."""

    seconds: float
    ended: Reason


def why_open(
    start: Mapping[str, float], now: Mapping[str, float], waited: float, limit: float, margin: float = MARGIN
) -> Reason | None:
    """Return why the gate opens after ``waited`` seconds, None while it stays shut.

    ``start`` and ``now`` are degrees Celsius by sensor; every sensor that both know must be within ``margin`` of its
    start or below.
    """
    shared = start.keys() & now.keys()
    if not shared:
        return "no sensor"
    if all(now[name] <= start[name] + margin for name in shared):
        return "cool"
    return "time limit" if waited >= limit else None


class ThermalGate:
    """Remembers the processor's temperatures at construction; :meth:`wait` lets through when they are back.

    ``limit_seconds`` bounds each wait; 0 never waits. ``clock`` and ``sleep`` are for tests.
    """

    def __init__(
        self,
        limit_seconds: float,
        *,
        margin: float = MARGIN,
        sysfs: Path = SYSFS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit, self._margin, self._sysfs = limit_seconds, margin, sysfs
        self._clock, self._sleep = clock, sleep
        self._start = self._read()

    def wait(self) -> Wait:
        """Wait until the device is cool, or the limit is over."""
        begun = self._clock()
        while True:
            waited = self._clock() - begun
            ended = why_open(self._start, self._read(), waited, self._limit, self._margin)
            if ended is not None:
                return Wait(waited, ended)
            self._sleep(min(_POLL, max(0.0, self._limit - waited)))

    def _read(self) -> dict[str, float]:
        return processor_sensors(read_temperatures(self._sysfs))
