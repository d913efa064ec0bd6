"""In the worker: what is done and read around each repetition, never inside it: gate, heat sensors, energy, others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgestill.runtime.energy import open_meter
from edgestill.runtime.heat_sensors import SYSFS, HeatSample, read_heat
from edgestill.runtime.thermal_gate import ThermalGate, Wait

_LEAST_SECONDS: Final = 0.25
"""A shorter repetition is too short to count others' work by: the kernel counts it in hundredths of a second."""


class RepetitionWatch:
    """Stands around repetitions: :meth:`before` waits at the gate and begins to measure, :meth:`after` says what was.

    ``busy_seconds`` returns the CPU seconds that the whole machine was busy, or None. The gate remembers the
    temperatures of this moment; ``gate_seconds`` bounds each wait, and 0 shuts it never.
    """

    def __init__(self, gate_seconds: float, busy_seconds: Callable[[], float | None], *, sysfs: Path = SYSFS) -> None:
        self._gate = ThermalGate(gate_seconds, sysfs=sysfs) if gate_seconds > 0 else None
        self._meter = open_meter(sysfs)
        self._busy_seconds, self._sysfs = busy_seconds, sysfs
        self._wait: Wait | None = None
        self._heat = read_heat(sysfs)
        self._busy, self._own, self._begun = busy_seconds(), time.process_time(), time.perf_counter()

    def before(self) -> None:
        """Wait until the device is cool, read the sensors, begin to measure energy."""
        self._wait = None if self._gate is None else self._gate.wait()
        self._heat = read_heat(self._sysfs)
        self._busy, self._own, self._begun = self._busy_seconds(), time.process_time(), time.perf_counter()
        self._meter.begin()

    def after(self) -> dict[str, object]:
        """Return what the repetition met, for the protocol: times in seconds, joules, sensors before and after."""
        joules = self._meter.end()
        ended, busy, own = time.perf_counter(), self._busy_seconds(), time.process_time()
        others, lasted = None, ended - self._begun
        if busy is not None and self._busy is not None and lasted >= _LEAST_SECONDS:
            others = max(0.0, (busy - self._busy) - (own - self._own)) / lasted
        return {
            "begun": self._begun,
            "wait": None if self._wait is None else [self._wait.seconds, self._wait.ended],
            "joules": joules,
            "energy_source": self._meter.source,
            "other_cores": others,
            "before": _json(self._heat),
            "after": _json(read_heat(self._sysfs)),
        }


def _json(heat: HeatSample) -> dict[str, object]:
    return {
        "clock_mhz": heat.clock_mhz,
        "temperatures": dict(heat.temperatures),
        "throttle_count": heat.throttle_count,
    }
