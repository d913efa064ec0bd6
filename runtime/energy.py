"""Joules that a section of work took, from the best source this device has: counters, power sensors, a battery gauge.

Whatever is read is the package's, the rails' or the whole device's, with what else runs on it and with what it draws
when idle; the source says which. Nothing is estimated from time or from a processor's name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from edgestill.figure import Figure
from edgestill.runtime.energy_sources import (
    CHARGING,
    Counter,
    PowerSource,
    battery_counters,
    battery_gauge,
    hwmon_counters,
    hwmon_power,
    on_battery,
    rapl_counters,
)
from edgestill.runtime.heat_sensors import SYSFS
from edgestill.runtime.intervals import bootstrap_interval

HERTZ: Final = 5.0
"""How often power is sampled: often enough for a repetition of a second, too seldom to slow it down."""


class EnergyMeter(Protocol):
    """Measures one section at a time; ``source`` says from what and how well, or why nothing can be measured."""

    source: str

    def begin(self) -> None:
        """Begin a section."""

    def end(self) -> float | None:
        """End the section and return its joules; None where the source failed."""


def open_meter(sysfs: Path = SYSFS, *, clock: Callable[[], float] = time.monotonic) -> EnergyMeter:
    """Return the best meter of this device: energy counters (RAPL, hwmon), sampled power (hwmon), a battery gauge.

    Counters first, as they miss nothing between two readings; then the sensors of supply rails, then the gauge of a
    battery that is discharging, which is the whole device's. A source that can't be read is passed over, and said.
    """
    passed: list[str] = []
    for find in (rapl_counters, hwmon_counters):
        counters, why = find(sysfs)
        if counters:
            return CounterMeter(counters, "counter")
        passed += [why] if why else []
    power, why = hwmon_power(sysfs)
    if power is not None:
        return PowerMeter(power, "sampled power", clock=clock)
    passed += [why] if why else []
    gauge, why = battery_gauge(sysfs)
    if gauge is not None:
        return PowerMeter(gauge, "battery gauge, whole device, sampled", valid=lambda: on_battery(sysfs), clock=clock)
    counters, _ = battery_counters(sysfs)
    if counters:
        return CounterMeter(counters, "battery gauge, whole device, coarse steps", valid=lambda: on_battery(sysfs))
    passed += [why] if why else []
    return NoMeter("; ".join(passed) or "no RAPL, no power sensor and no battery here")


def counted(before: float, after: float, wraps_at: float | None) -> float | None:
    """Return what a counter counted, once around its end at most; None where it ran backwards and has no end."""
    if after >= before:
        return after - before
    return after - before + wraps_at if wraps_at else None


def integral(seconds: Sequence[float], watts: Sequence[float]) -> float:
    """Return joules of sampled power by trapezoids; ``seconds`` ascend."""
    pairs = zip(zip(seconds, watts, strict=True), zip(seconds[1:], watts[1:], strict=True), strict=False)
    return sum((end - begin) * (low + high) / 2 for (begin, low), (end, high) in pairs)


def energy_per_token(joules: Sequence[float | None], tokens: Sequence[float], source: str) -> Figure:
    """Return joules over new tokens of sections; null where a section has none, with ``source`` saying why."""
    known = [value for value in joules if value is not None]
    if not known or len(known) != len(tokens) or not sum(tokens):
        return Figure.missing("joules/token", source)
    if not sum(known):
        return Figure.missing("joules/token", f"{source}: it stood still over {len(known)} repetitions")

    def ratio(places: Sequence[int]) -> float:
        return sum(known[place] for place in places) / sum(tokens[place] for place in places)

    return Figure(
        value=ratio(range(len(known))),
        unit="joules/token",
        n=len(known),
        ci95=bootstrap_interval(len(known), lambda rows: ratio([int(row) for row in rows])),
        basis="measured" if source.startswith("counter") else "derived",
        source=f"{source}; whole answers over their new tokens, prefill and what is drawn when idle included",
    )


class CounterMeter:
    """Sums energy counters that count apart from each other."""

    def __init__(self, counters: Sequence[Counter], quality: str, *, valid: Callable[[], bool] = lambda: True) -> None:
        self.source = f"{quality}: {' + '.join(counter.name for counter in counters)}"
        self._counters, self._valid = counters, valid
        self._before: list[float | None] = []
        self._was_valid = False

    def begin(self) -> None:
        self._was_valid = self._valid()
        self._before = [counter.read() for counter in self._counters]

    def end(self) -> float | None:
        after = [counter.read() for counter in self._counters]
        if not (self._was_valid and self._valid()):
            self.source = CHARGING
            return None
        total = 0.0
        for counter, first, last in zip(self._counters, self._before, after, strict=True):
            part = None if first is None or last is None else counted(first, last, counter.wraps_at)
            if part is None:
                self.source = f"{counter.name} could not be read"
                return None
            total += part
        return total


class PowerMeter:
    """Samples power with a thread while a section runs, and at both of its ends."""

    def __init__(
        self,
        power: PowerSource,
        quality: str,
        *,
        valid: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = f"{quality} at {HERTZ:g} Hz: {power.name}"
        self._power, self._valid, self._clock = power, valid, clock
        self._samples: list[tuple[float, float]] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._was_valid = False

    def begin(self) -> None:
        self._was_valid = self._valid()
        self._samples, self._done = [], threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._watch, args=(self._done,), daemon=True)
        self._thread.start()

    def end(self) -> float | None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._sample()
        if not (self._was_valid and self._valid()):
            self.source = CHARGING
            return None
        if len(self._samples) < 2:
            self.source = f"{self._power.name} could not be read"
            return None
        return integral(*zip(*self._samples, strict=True))

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(1 / HERTZ):
            self._sample()

    def _sample(self) -> None:
        watts = self._power.read()
        if watts is not None:
            self._samples.append((self._clock(), watts))


@dataclass
class NoMeter:
    """Measures nothing, and says why."""

    source: str

    def begin(self) -> None:
        """Nothing to read."""

    def end(self) -> float | None:
        return None
