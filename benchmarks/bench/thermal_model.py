"""Labelled runs of devices that heat up: a thermal network, a governor, and a decoder whose tokens follow the clock.

Two masses in a row, the die on a case (or board, or heatsink) on the air: C1 dT1/dt = P - (T1 - T2) / R1 and
C2 dT2/dt = (T1 - T2) / R1 - (T2 - Ta) / R2, with P = idle + dynamic * (clock / highest)^2.6, as the voltage follows
the clock. The governor lowers the clock above a trip point and raises it below the trip point less its hysteresis, by
a step (as Linux's step_wise does) or all at once; a laptop also has a turbo budget: a mean of its power over tau
seconds must stay below what it may draw for ever. A token takes base * (m + (1 - m) * highest / clock) seconds, m being
the share that waits for memory.

The label is the simulator's: whether the governor slowed the device. Runs in between (slowed by less than 8%, or not
within the middle of the run) have no clear label, and are drawn again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from edgestill.runtime.throttling import Trace

STEP = 0.1  # seconds of simulated time
LEAST_SLOWED = 0.08
FEWEST_REPETITIONS = 10  # as bench runs them; with fewer, tokens are looked at
POSITIVE = ("throttled", "throttled, with outliers", "throttled, with a neighbour", "throttled, growing cache")
NEGATIVE = (
    "steady", "noisy", "outliers", "neighbour in bursts", "neighbour to the end", "warm-up", "ramp up",
    "growing cache", "capped from the start", "hot, but cooled",
)  # fmt: skip
SENSORS = (("clock", "temperature", "count"), ("clock", "temperature"), ("temperature",), ("clock",), ())


@dataclass(frozen=True)
class Device:
    """Clocks in MHz, watts, joules a degree, degrees a watt, seconds."""

    name: str
    highest: float
    lowest: float
    steps: int
    idle: float
    dynamic: float
    die: tuple[float, float]
    case: tuple[float, float]
    trip: float
    hysteresis: float
    poll: float
    at_once: bool = False
    counts: bool = False
    budget: tuple[float, float] | None = None  # watts for ever, tau


DEVICES = (
    Device("phone", 2800, 1200, 8, 0.6, 5.4, (3, 4.0), (35, 8.0), 75, 3, 0.5),
    Device("phone to and fro", 2800, 1700, 1, 0.6, 5.4, (2, 4.5), (30, 8.0), 72, 6, 0.5, at_once=True),
    Device("board without a heatsink", 1800, 600, 6, 1.0, 5.5, (5, 2.0), (32, 9.0), 80, 2, 1.0),
    Device("laptop", 4400, 1800, 26, 4.0, 40.0, (10, 1.1), (130, 0.9), 97, 3, 0.5, counts=True, budget=(24, 28)),
    Device("server, fan stopped", 3400, 2000, 1, 40.0, 160.0, (80, 0.12), (500, 0.38), 95, 2, 0.5, True, True),
)


@dataclass(frozen=True)
class Labelled:
    """A trace, whether it is throttled, its kind, the device, and the second from which it was slowed."""

    trace: Trace
    throttled: bool
    kind: str
    device: str
    onset: float | None = None


def draw(kind: str, generator: np.random.Generator, number: int) -> Labelled:
    """Return one run of a kind; ``number`` counts runs of that kind, over which devices and sensors are spread."""
    device = _varied(DEVICES[number % len(DEVICES)], generator)
    sensors = SENSORS[int(generator.integers(len(SENSORS)))]
    while True:
        found = _run(kind, device, sensors, generator)
        if found is not None:
            return found
        device = _varied(DEVICES[number % len(DEVICES)], generator)


def _varied(device: Device, generator: np.random.Generator) -> Device:
    spread = lambda value: float(value * generator.uniform(0.8, 1.25))  # noqa: E731
    return replace(
        device,
        dynamic=spread(device.dynamic),
        die=(spread(device.die[0]), spread(device.die[1])),
        case=(spread(device.case[0]), spread(device.case[1])),
        trip=device.trip + float(generator.uniform(-4, 3)),
    )


def _run(kind: str, device: Device, sensors: tuple[str, ...], generator: np.random.Generator) -> Labelled | None:
    throttled = kind in POSITIVE
    seconds = float(generator.uniform(90, 420))
    air = float(generator.uniform(18, 33))
    cap = device.highest
    if not throttled:
        # A better cooler: at full power it stays some degrees below the trip point.
        room = (device.trip - generator.uniform(4, 15) - air) / (device.idle + device.dynamic)
        scale = max(0.05, room / (device.die[1] + device.case[1]))
        device = replace(
            device,
            die=(device.die[0], device.die[1] * scale),
            case=(device.case[0], device.case[1] * scale),
            budget=None,
        )
    if kind == "capped from the start":
        cap = device.highest * float(generator.uniform(0.5, 0.8))
    clocks, degrees, counts, slowed = simulate(device, seconds, air, cap, generator)
    memory = float(generator.uniform(0.1, 0.55))
    factor = memory + (1 - memory) * device.highest / clocks
    onset = None
    if throttled:
        if not slowed.any():
            return None
        onset = float(np.argmax(slowed)) * STEP
        first = factor[int(onset / STEP) - 1] if onset >= STEP else math.inf
        if not 0.06 < onset / seconds < 0.75 or 1 - first / factor[int(onset / STEP) :].mean() < LEAST_SLOWED:
            return None
    elif slowed.any():
        return None
    trace = _sampled(kind, seconds, factor, clocks, degrees, counts, sensors, generator)
    return Labelled(trace, throttled, kind, device.name, onset)


def simulate(
    device: Device, seconds: float, air: float, cap: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return clock in MHz, die temperature, slowings counted, whether the governor held it down, by step of time."""
    total = int(seconds / STEP)
    clocks, degrees, counts, slowed = (np.zeros(total) for _ in range(4))
    case = air + float(generator.uniform(1, 8))
    die = case + device.idle * device.die[1]
    limit, spent, count = cap, 0.0, 0
    step = (device.highest - device.lowest) / device.steps
    every = max(1, round(device.poll / STEP))
    for at in range(total):
        allowed = limit
        if device.budget is not None and spent > device.budget[0]:
            share = max(0.0, device.budget[0] - device.idle) / device.dynamic
            allowed = min(allowed, device.highest * share ** (1 / 2.6))
        power = device.idle + device.dynamic * (allowed / device.highest) ** 2.6
        inner = (die - case) / device.die[1]
        die += STEP * (power - inner) / device.die[0]
        case += STEP * (inner - (case - air) / device.case[1]) / device.case[0]
        if device.budget is not None:
            spent += STEP / device.budget[1] * (power - spent)
        if at % every == 0:
            if die > device.trip:
                count += limit == cap
                limit = max(device.lowest, device.lowest if device.at_once else limit - step)
            elif die < device.trip - device.hysteresis:
                limit = min(cap, cap if device.at_once else limit + step)
        clocks[at], degrees[at], counts[at], slowed[at] = allowed, die, count, allowed < cap
    return clocks, degrees, counts if device.counts else np.full(total, np.nan), slowed > 0


def _sampled(
    kind: str,
    seconds: float,
    factor: np.ndarray,
    clocks: np.ndarray,
    degrees: np.ndarray,
    counts: np.ndarray,
    sensors: tuple[str, ...],
    generator: np.random.Generator,
) -> Trace:
    """Decode through the run token by token, and sample it as bench does: tokens or repetitions, sensors between."""
    base = seconds / float(generator.integers(700, 2500))
    whole = "growing cache" in kind and generator.random() < 0.5  # one long answer
    answer = 10**9 if whole else int(generator.integers(16, 64))
    growth = float(generator.uniform(0.3, 1.0)) * base / (seconds / base) if whole else 0.0
    if "growing cache" in kind and not whole:
        answer = int(generator.integers(64, 128))
        growth = float(generator.uniform(0.1, 0.3)) * base / answer
    noise = float(generator.uniform(0.05, 0.09) if kind == "noisy" else generator.uniform(0.005, 0.035))
    drift, others = 0.0, _neighbours(kind, seconds, generator)
    ramp = float(generator.uniform(0.03, 0.12)) * seconds if kind in ("warm-up", "ramp up") else 0.0
    prompt = int(generator.integers(16, 128))
    rows: list[tuple[float, ...]] = []
    read_at: list[tuple[int, tuple[float, ...]]] = []
    now, position, reading = 0.0, prompt, 0.0
    while now < seconds - STEP:
        at = int(now / STEP)
        drift = 0.95 * drift + float(generator.normal(0, noise / 4))
        taken = (base * factor[at] + growth * (position - prompt)) * math.exp(drift + float(generator.normal(0, noise)))
        if ramp and now < ramp:
            taken *= 1 + (0.6 * (1 - now / ramp) if kind == "warm-up" else 0.5)
        load = next((load for begin, end, load in others if begin <= now < end), 0.0)
        taken *= 1 + load
        if kind.endswith("outliers") and generator.random() < 0.01:
            taken *= float(generator.uniform(2, 10))
        now += taken
        position += 1
        rows.append((now, taken, position, load))
        if position - prompt == answer or (whole and now - reading > 2):
            reading, at = now, min(int(now / STEP), len(clocks) - 1)
            clock = clocks[at] / (1.5 if now < ramp and kind == "ramp up" else 1) + float(generator.normal(0, 4))
            degree = round(degrees[at] + 3 * load + float(generator.normal(0, 0.5)))
            failed = generator.random() < 0.02
            read_at.append((len(rows), (math.nan,) * 3 if failed else (clock, degree, counts[at])))
        if position - prompt == answer:
            position = prompt
    table = _with_readings(np.array(rows), read_at, generator)
    repetitions = _repetitions(table)
    if len(repetitions) >= FEWEST_REPETITIONS and generator.random() < 0.5:
        table = repetitions
        positions = None
    else:
        positions = table[:, 2].tolist()
    column = lambda place, name: table[:, place].tolist() if name in sensors else None  # noqa: E731
    return Trace(
        seconds=table[:, 0].tolist(),
        token_seconds=table[:, 1].tolist(),
        positions=positions,
        clock_mhz=column(4, "clock"),
        temperatures=column(5, "temperature"),
        throttle_counts=column(6, "count") if not np.isnan(table[:, 6]).all() else None,
        # A neighbour that stays can't be told from heat without being seen: /proc/stat shows it wherever Linux runs.
        other_cores=table[:, 3].tolist() if kind == "neighbour to the end" or generator.random() < 0.7 else None,
    )


def _neighbours(kind: str, seconds: float, generator: np.random.Generator) -> list[tuple[float, float, float]]:
    """Return when other work runs, and by which fraction it slows the decoder."""
    if kind == "neighbour to the end":
        return [(float(generator.uniform(0.2, 0.7)) * seconds, math.inf, float(generator.uniform(0.3, 0.9)))]
    if kind not in ("neighbour in bursts", "throttled, with a neighbour"):
        return []
    begins = generator.uniform(0.05, 0.85, int(generator.integers(1, 4))) * seconds
    lengths = generator.uniform(0.02, 0.08, len(begins)) * seconds
    return [
        (float(begin), float(begin + length), float(generator.uniform(0.2, 0.9)))
        for begin, length in zip(begins, lengths, strict=True)
    ]


def _with_readings(
    table: np.ndarray, read_at: list[tuple[int, tuple[float, ...]]], generator: np.random.Generator
) -> np.ndarray:
    """Give every token what was read after it, and the mean load of others over the tokens up to that reading."""
    readings = np.full((len(table), 3), np.nan)
    begin = 0
    for end, seen in [*read_at, (len(table), read_at[-1][1] if read_at else (math.nan,) * 3)]:
        readings[begin:end] = seen
        if end > begin:
            table[begin:end, 3] = table[begin:end, 3].mean() + abs(float(generator.normal(0, 0.04)))
        begin = end
    return np.hstack([table, readings])


def _repetitions(table: np.ndarray) -> np.ndarray:
    """Return one row an answer: when it ended, its mean seconds a token, and what was read after it."""
    ends = np.flatnonzero(np.diff(table[:, 2]) < 0)
    if not len(ends):
        return table[:0]
    begins = np.concatenate([[0], ends[:-1] + 1])
    rows = []
    for begin, end in zip(begins, ends, strict=True):
        row = table[end].copy()
        row[1] = table[begin : end + 1, 1].mean()
        rows.append(row)
    return np.array(rows)
