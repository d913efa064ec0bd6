"""From what a worker met around its repetitions to a record's fields: throttling, gate, energy, raw samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgestill.bench_results import Gate, Throttling
from edgestill.figure import Figure
from edgestill.runtime.energy import energy_per_token
from edgestill.runtime.throttling import Trace, find_throttling

Met = Mapping[str, Any]
"""What :meth:`edgestill.runtime.repetition_watch.RepetitionWatch.after` returned, read back."""


@dataclass(frozen=True)
class HeatRecord:
    """A record's fields; ``raw`` are one value a repetition, by name, those that nothing was read for left out."""

    throttling: Throttling | None = None
    gate: Gate | None = None
    energy_per_token: Figure | None = None
    raw: dict[str, list[float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def heat_record(times: Sequence[Mapping[str, Any]], met: Sequence[Met | None]) -> HeatRecord:
    """Put together what was met around repetitions with their ``times``; empty where a worker said nothing of it."""
    known = [one for one in met if one is not None]
    if not known or len(known) < len(times):
        return HeatRecord()
    columns = {
        "clock_mhz": [_value(one["after"]["clock_mhz"]) for one in known],
        "temperature_celsius": _hottest(known)[1:],
        "throttle_count": [_value(one["after"]["throttle_count"]) for one in known],
        "other_cores": [_value(one["other_cores"]) for one in known],
        "joules": [_value(one["joules"]) for one in known],
        "gate_seconds": [
            _value(None if one["wait"] is None or one["wait"][1] == "no sensor" else one["wait"][0]) for one in known
        ],
    }
    raw = {name: values for name, values in columns.items() if not any(map(math.isnan, values))}
    raw["begun_seconds"] = [one["begun"] - known[0]["begun"] for one in known]
    throttling = find_throttling(trace_of(times, known))
    tokens = [float(time["new_tokens"]) for time in times]
    return HeatRecord(
        throttling=throttling,
        gate=_gate(known),
        energy_per_token=energy_per_token([one["joules"] for one in known], tokens, known[-1]["energy_source"]),
        raw=raw,
        warnings=tuple(_warnings(throttling, known)),
    )


def trace_of(times: Sequence[Mapping[str, Any]], met: Sequence[Met]) -> Trace:
    """Return the trace of every token after the first of each answer, with what was read after that answer.

    With the very first token stand the temperature and the count from before it: where the run began. Not the clock,
    which was an idle processor's.
    """
    seconds: list[float] = []
    token_seconds: list[float] = []
    positions: list[float] = []
    owner: list[int] = []
    for place, (time, one) in enumerate(zip(times, met, strict=True)):
        now = float(one["begun"]) - float(met[0]["begun"]) + float(time["ttft_seconds"])
        for token, gap in enumerate(time["inter_token_seconds"]):
            now += gap
            if gap <= 0:
                continue  # a clock too coarse for this token
            seconds.append(now)
            token_seconds.append(gap)
            positions.append(float(time["prompt_tokens"]) + token)
            owner.append(place)

    hottest = _hottest(met)

    def column(values: Sequence[float], first: float | None = None) -> list[float] | None:
        spread = [values[place] for place in owner]
        if spread and first is not None and not math.isnan(first):
            spread[0] = first
        return None if all(map(math.isnan, values)) else spread

    return Trace(
        seconds=seconds,
        token_seconds=token_seconds,
        positions=positions,
        clock_mhz=column([_value(one["after"]["clock_mhz"]) for one in met]),
        temperatures=column(hottest[1:], hottest[0]),
        throttle_counts=column(
            [_value(one["after"]["throttle_count"]) for one in met], met[0]["before"]["throttle_count"]
        ),
        other_cores=column([_value(one["other_cores"]) for one in met]),
    )


def _hottest(met: Sequence[Met]) -> list[float]:
    """Return the hottest sensor's degrees before the first repetition and after each; of sensors that never move, none
    where others do."""
    readings: list[Mapping[str, float]] = [met[0]["before"]["temperatures"]]
    readings += [one["after"]["temperatures"] for one in met]
    names = {name for reading in readings for name in reading}
    alive = {name for name in names if len({reading.get(name) for reading in readings}) > 1} or names
    return [max((value for name, value in reading.items() if name in alive), default=math.nan) for reading in readings]


def _value(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _gate(met: Sequence[Met]) -> Gate | None:
    waits = [one["wait"] for one in met if one["wait"] is not None]
    if not waits:
        return None
    ended: dict[str, int] = {}
    for _, reason in waits:
        ended[reason] = ended.get(reason, 0) + 1
    if set(ended) == {"no sensor"}:
        waited = Figure.missing("seconds", "no temperature sensor here: no repetition waited")
    else:
        source = "waits before repetitions, until the device was as cool as before the warm-ups, together"
        waited = Figure(value=float(sum(wait[0] for wait in waits)), unit="seconds", n=len(waits), source=source)
    return Gate(waited_seconds=waited, ended=ended)


def _warnings(throttling: Throttling, met: Sequence[Met]) -> list[str]:
    said = []
    if throttling.throttled:
        burst, sustained = throttling.burst_tokens_per_second.value, throttling.sustained_tokens_per_second.value
        said.append(
            f"slowed after {throttling.onset_seconds:.1f} s from {burst:.4g} to {sustained:.4g} tokens/s: "
            f"{throttling.source}"
        )
    late = sum(1 for one in met if one["wait"] is not None and one["wait"][1] == "time limit")
    if late:
        said.append(f"{late} of {len(met)} repetitions began warmer than the first: the gate's time limit was over")
    return said
