"""Was the device slowed for heat while it was measured? Told from the rates, and the sensors read beside them.

What heat does: a fast first part (the burst), then a lasting fall, at once, in steps, or to and fro around a trip
point (the sustained part). What looks alike and isn't: an outlier, a neighbour's load, a governor's ramp up, a KV cache
that grows, a processor that was capped from the start. The rates say whether there is a lasting fall (a change-point
test), the sensors whether it is heat's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.bench_results import Throttling
from edgestill.errors import InputError
from edgestill.figure import Figure
from edgestill.runtime.change_point import find_fall
from edgestill.runtime.intervals import bootstrap_interval
from edgestill.runtime.rank_tests import mann_whitney_p

Floats = NDArray[np.float64]

LEAST_FALL: Final = 0.05
"""A fall of the rate below this fraction isn't reported: processes of one build differ by as much."""

LEAST_SAMPLES: Final = 8
"""With fewer, no order of them is rarer than one in a hundred at every place of the change."""

LEAST_SECONDS: Final = 8.0
"""A shorter run is too short for heat without a sensor that says so: a package takes seconds to heat through."""

P_ALONE: Final = 0.01
P_WITH_SENSORS: Final = 0.05
"""How rare a fall must be in a steady run: rarer where the rate alone speaks."""

HOT: Final = 60.0
WARMED: Final = 5.0
"""Degrees Celsius that a processor's sensor shows at the fall, or that it rose before, for the fall to be heat's:
kernels' device trees put the first trip points of processors between 60 and 85; those that watch a phone's skin lie
lower, and are reached by warming."""

LEVEL: Final = 2.0
"""Degrees Celsius that a temperature held at a trip point goes to and fro."""

HELD_READINGS: Final = 10
"""With fewer readings of the clock after a fall, they may all miss the low moments of one that goes to and fro."""

CLOCK_SHARE: Final = 1 / 3
"""The least part of the rate's fall that the clock's must be: a rate falls at most as much as the clocks behind it, of
which those of memory and caches may be others."""

BUSY_RISE: Final = 0.2
"""Cores that other processes keep busy more than when they were quiet, from which on a slow sample, or a fall, is
theirs."""

_BLOCKS: Final = 80
_FEWEST_BLOCKS: Final = 10
"""A trace is cut into at most 80 blocks, and into a quarter as many where that is at least 10: fine ones date the fall,
coarse ones hold whole swings around a trip point."""

_LEAST_SHARE: Final = 0.15
"""A fall in the last part of a run that is shorter than this share may be a neighbour's and isn't called lasting."""

_RAMP: Final = 0.25
"""At most this share of a run is left out at its start as ramp up."""

_MEDIAN_OF: Final = 5
_MANY: Final = 200
"""From this many samples on, they are single tokens, and a running median of 5 takes single outliers out."""


@dataclass(frozen=True)
class Trace:
    """Samples in order: when each ended (``seconds``), and its ``token_seconds``, seconds a token.

    A sample is a repetition, a token, or a few of them. ``positions`` is how many tokens were in the KV cache (it
    starts anew with each answer); with it the growth of the time with the cache is taken out. Beside every sample,
    where known: ``clock_mhz``, ``temperatures`` (degrees Celsius), ``throttle_counts`` (the kernel's, ascending),
    ``other_cores`` (cores kept busy by other processes); nan where one reading failed.
    """

    seconds: Sequence[float]
    token_seconds: Sequence[float]
    positions: Sequence[float] | None = None
    clock_mhz: Sequence[float] | None = None
    temperatures: Sequence[float] | None = None
    throttle_counts: Sequence[float] | None = None
    other_cores: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for column in fields(self):
            values = getattr(self, column.name)
            if values is not None and len(values) != len(self.seconds):
                raise InputError(f"trace: {len(values)} {column.name} for {len(self.seconds)} samples; give one each")
        if any(not 0 < value < float("inf") for value in self.token_seconds):
            raise InputError("trace: token_seconds must be finite and above 0; leave out samples that aren't")


@dataclass(frozen=True)
class _Fall:
    """A lasting fall: the first sample after it, its chance in a steady run, seconds a token before and after."""

    at: int
    p: float
    before: float
    after: float
    test: str = "change-point test of the rate"

    @property
    def share(self) -> float:
        """The fraction of the rate that is lost."""
        return 1 - self.before / self.after


@dataclass(frozen=True)
class _Evidence:
    """What sensors say about a fall: heat's, another's, or nothing (None), and why."""

    heat: bool | None
    why: str


def find_throttling(trace: Trace) -> Throttling:
    """Decide whether the device was slowed for heat, from when, and give the rates before and after.

    A fall counts when it is lasting, of 5% or more, and rarer in a steady run than 1%, or 5% where sensors show heat
    (:func:`edgestill.runtime.change_point.find_fall`, over 80 blocks and over 20, the lesser p times two:
    Bonferroni). Without sensors its cause isn't known to be heat, which ``source`` says.
    """
    trace = _without_neighbours(trace)
    n = len(trace.token_seconds)
    if n < LEAST_SAMPLES:
        return _undecided(f"{n} samples can't tell; at least {LEAST_SAMPLES} are needed")
    slowness = _without_outliers(_without_cache_growth(trace))
    start = _ramp_end(slowness)
    fall = _lasting_fall(slowness, start)
    if fall is None or fall.p > P_ALONE:
        fall = _fall_of_the_clock(trace, slowness, start) or fall
    if fall is None or fall.p > P_WITH_SENSORS:
        return _steady(slowness, start, None if fall is None else fall.p, "no lasting fall of the rate")
    evidence = _evidence(trace, start, fall)
    if evidence.heat is False:
        return _steady(slowness, start, fall.p, f"the rate fell by {fall.share:.0%}, not for heat: {evidence.why}")
    if evidence.heat is None:
        lasted = trace.seconds[-1] - trace.seconds[0]
        if lasted < LEAST_SECONDS:
            return _undecided(f"{lasted:.1f} s are too short to tell heat from noise without a sensor")
        if fall.p > P_ALONE:
            return _steady(slowness, start, fall.p, "no lasting fall of the rate that is sure without a sensor")
    return Throttling(
        throttled=True,
        onset_seconds=float(trace.seconds[fall.at]) - float(trace.seconds[0]),
        burst_tokens_per_second=_rate(slowness[start : fall.at], "before the fall"),
        sustained_tokens_per_second=_rate(slowness[fall.at :], "from the fall on"),
        p_value=fall.p,
        source=f"the rate fell by {fall.share:.0%} ({fall.test}); {evidence.why}",
    )


def _without_neighbours(trace: Trace) -> Trace:
    """Leave out the samples during which other processes were busier than their quietest tenth, if half remain."""
    if trace.other_cores is None or not len(trace.other_cores):
        return trace
    busy = np.asarray(trace.other_cores, np.float64)
    kept = ~(busy > np.nanquantile(busy, 0.1) + BUSY_RISE) if not np.isnan(busy).all() else np.ones(len(busy), bool)
    if kept.all() or kept.mean() < 0.5:
        return trace

    def quiet(column: Sequence[float] | None) -> list[float] | None:
        return None if column is None else [value for value, keep in zip(column, kept, strict=True) if keep]

    return Trace(
        seconds=quiet(trace.seconds) or [],
        token_seconds=quiet(trace.token_seconds) or [],
        positions=quiet(trace.positions),
        clock_mhz=quiet(trace.clock_mhz),
        temperatures=quiet(trace.temperatures),
        throttle_counts=quiet(trace.throttle_counts),
        other_cores=quiet(trace.other_cores),
    )


def _without_cache_growth(trace: Trace) -> Floats:
    """Return seconds a token as they would be at the mean position: attention reads all of the cache, so time grows
    linearly with it. The slope is the median over pairs of one answer, a fifth of it apart, so that a step between
    them stays: it touches few pairs. In a single answer a fall in many steps touches more; there it is the lower
    quartile, of means over a twentieth."""
    seconds = np.asarray(trace.token_seconds, np.float64)
    if trace.positions is None:
        return seconds
    positions = np.asarray(trace.positions, np.float64)
    answers = np.concatenate([[0], np.cumsum(np.diff(positions) <= 0)])
    lag = max(1, round(len(seconds) / (answers[-1] + 1) / 5))
    same = answers[lag:] == answers[:-lag]
    if same.sum() < LEAST_SAMPLES:
        return seconds
    single = answers[-1] == 0 and len(seconds) >= _MANY
    smooth = _running_mean(seconds, len(seconds) // 20) if single else seconds
    slopes = (smooth[lag:] - smooth[:-lag])[same] / (positions[lag:] - positions[:-lag])[same]
    slope = max(0.0, float(np.quantile(slopes, 0.25 if single else 0.5)))
    flat = seconds - slope * (positions - positions.mean())
    return flat if flat.min() > 0 else seconds


def _running_mean(values: Floats, width: int) -> Floats:
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    means: Floats = np.convolve(padded, np.full(width, 1 / width), mode="valid")
    return means


def _without_outliers(seconds: Floats) -> Floats:
    """Return the running median of 5 where samples are single tokens; few samples stay as they are."""
    if len(seconds) < _MANY:
        return seconds
    padded = np.pad(seconds, _MEDIAN_OF // 2, mode="edge")
    medians: Floats = np.median(np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN_OF), axis=1)
    return medians


def _ramp_end(slowness: Floats) -> int:
    """Return the first sample after a slow start: a governor's ramp up, or a warm-up that wasn't one."""
    edges = _edges(0, len(slowness), _BLOCKS)
    blocks = _means(slowness, edges)
    most = max(1, int(_RAMP * len(blocks)))
    first = 0
    while first < most and blocks[first] > (1 + LEAST_FALL) * np.median(blocks[first + 1 : first + 1 + most]):
        first += 1
    return int(edges[first])


def _lasting_fall(slowness: Floats, start: int) -> _Fall | None:
    """Return the surest lasting fall after ``start``, dated as finely as it can be; None where there is none."""
    n = len(slowness)
    scales = [min(_BLOCKS, n - start)]
    if scales[0] // 4 >= _FEWEST_BLOCKS:
        scales.append(scales[0] // 4)
    found = []
    for scale in scales:
        edges = _edges(start, n, scale)
        blocks = _means(slowness, edges)
        change = find_fall(-blocks, before=2, after=max(2, int(np.ceil(_LEAST_SHARE * scale))))
        if change.at >= scale:
            continue
        before, after = float(blocks[: change.at].mean()), float(blocks[change.at :].mean())
        # Still slow at the end: the last quarter of the slow part, which holds more than half a swing.
        last = float(blocks[-max(2, (scale - change.at) // 4) :].mean())
        if before <= (1 - LEAST_FALL) * after and last >= (before + after) / 2:
            found.append(_Fall(int(edges[change.at]), min(1.0, change.p * len(scales)), before, after))
    if not found:
        return None
    surest = min(found, key=lambda fall: fall.p)
    return next((fall for fall in found if fall.p <= P_ALONE), surest)


def _fall_of_the_clock(trace: Trace, slowness: Floats, start: int) -> _Fall | None:
    """Return the lasting fall of the clock, where there is one and the rate is lower after it than before.

    The clock has less noise than the rate. Where it says when, the rate has only to say whether: Mann and Whitney's
    test for that one place, over the blocks.
    """
    if trace.clock_mhz is None:
        return None
    clocks = np.asarray(trace.clock_mhz, np.float64)
    known = np.flatnonzero(clocks >= 1)  # nan and 0 are readings that failed
    known = known[known >= start]
    if len(known) < LEAST_SAMPLES:
        return None
    found = _lasting_fall(1 / clocks[known], 0)
    if found is None:
        return None
    at = int(known[found.at])
    before, after = slowness[start:at], slowness[at:]
    share = 1 - float(np.median(before)) / float(np.median(after))
    sides = [_means(side, _edges(0, len(side), _BLOCKS // 2)).tolist() for side in (before, after)]
    p = mann_whitney_p(*sides)
    if p is None or p > P_ALONE or share < LEAST_FALL:
        return None
    return _Fall(at, p, float(before.mean()), float(after.mean()), "dated by the clock, Mann and Whitney's test")


def _evidence(trace: Trace, start: int, fall: _Fall) -> _Evidence:
    """Say whether the sensors show that a fall is heat's: the counter first, then clock and temperature together."""
    at = fall.at
    counts = [count for count in trace.throttle_counts or () if not math.isnan(count)]
    if counts and counts[-1] > counts[0]:
        return _Evidence(True, f"the kernel counted {counts[-1] - counts[0]:.0f} slowings for heat")
    clocks = _halves(trace.clock_mhz, start, at)
    degrees = _halves(trace.temperatures, start, at)
    warmth = "without a temperature" if degrees is None else f"at {_reached(*degrees):.0f} degrees Celsius"
    if clocks is not None:
        # Of a clock that goes to and fro, single readings may miss the mean; the low ones show it too.
        lost = 1 - float(clocks[1].mean()) / float(np.quantile(clocks[0], 0.9))
        lost = max(lost, 1 - float(np.quantile(clocks[1], 0.1)) / float(np.quantile(clocks[0], 0.1)))
        if lost >= CLOCK_SHARE * fall.share:
            return _Evidence(True, f"the clock fell by {lost:.0%} {warmth}")
        # A clock that never moves may be what the governor asked for, not what the firmware gives.
        if np.ptp(np.concatenate(clocks)) > 0 and len(np.unique(clocks[1])) >= HELD_READINGS:
            return _Evidence(False, "the clock held")
    if counts:
        return _Evidence(False, "no clock was seen to fall, and the kernel counted no slowing for heat")
    others = _halves(trace.other_cores, start, at)
    if others is not None:
        more = float(np.median(others[1]) - np.median(others[0]))
        if more >= BUSY_RISE:
            return _Evidence(False, f"other processes kept {more:.1f} cores more busy than before")
    if degrees is not None:
        reached = _reached(*degrees)
        warmed = reached - float(degrees[0][0])
        if reached < HOT and warmed < WARMED:
            return _Evidence(False, f"{warmth}, no warmer than before")
        if reached >= HOT and warmed >= WARMED and float(np.median(degrees[1])) <= reached + LEVEL:
            return _Evidence(True, f"the temperature rose to {reached:.0f} degrees Celsius, and no further")
    return _Evidence(None, f"{warmth} and a clock that fell the cause isn't known to be heat")


def _reached(before: Floats, after: Floats) -> float:
    """Return the temperature at the fall: the highest shortly before and after it."""
    return float(max(before[-max(1, len(before) // 4) :].max(), after[: max(1, len(after) // 8)].max()))


def _halves(column: Sequence[float] | None, start: int, at: int) -> tuple[Floats, Floats] | None:
    """Return a sensor's readings before and from a fall on, failed ones left out; None where a side has none.

    Tokens of one answer share a reading: the one that is of both sides says nothing of the first.
    """
    if column is None:
        return None
    values = np.asarray(column, np.float64)
    end = at
    while end > start and values[end - 1] == values[at]:
        end -= 1
    before, after = values[start:end], values[at:]
    before, after = before[~np.isnan(before)], after[~np.isnan(after)]
    return (before, after) if len(before) and len(after) else None


def _edges(start: int, end: int, blocks: int) -> NDArray[np.int64]:
    edges: NDArray[np.int64] = np.linspace(start, end, min(blocks, end - start) + 1).round().astype(np.int64)
    return edges


def _means(values: Floats, edges: NDArray[np.int64]) -> Floats:
    """Return the mean of each block: as seconds a token, the inverse of the rate over the whole block."""
    sums: Floats = np.add.reduceat(values, edges[:-1])
    return sums / np.diff(edges)


def _rate(slowness: Floats, what: str) -> Figure:
    """Return tokens over seconds, with a bootstrap interval over at most 80 blocks."""
    blocks = _means(slowness, _edges(0, len(slowness), _BLOCKS))
    return Figure(
        value=float(1 / slowness.mean()),
        unit="tokens/s",
        n=len(slowness),
        ci95=bootstrap_interval(len(blocks), lambda rows: float(1 / blocks[rows].mean())),
        source=f"tokens over seconds {what}; interval by bootstrap over {len(blocks)} blocks",
    )


def _steady(slowness: Floats, start: int, p: float | None, why: str) -> Throttling:
    whole = _rate(slowness[start:], "of the whole run, after its ramp up" if start else "of the whole run")
    return Throttling(
        throttled=False,
        onset_seconds=None,
        burst_tokens_per_second=whole,
        sustained_tokens_per_second=whole,
        p_value=p,
        source=why,
    )


def _undecided(why: str) -> Throttling:
    missing = Figure.missing("tokens/s", why)
    return Throttling(
        throttled=None,
        onset_seconds=None,
        burst_tokens_per_second=missing,
        sustained_tokens_per_second=missing,
        p_value=None,
        source=why,
    )
