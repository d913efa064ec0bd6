"""Throttling: what is one, what only looks like one, and what the record then says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgestill.errors import InputError
from edgestill.runtime.heat_record import heat_record, trace_of
from edgestill.runtime.throttling import Trace, find_throttling

Floats = NDArray[np.float64]
N = 60


def steps(first: float, last: float, at: int = 20, n: int = N) -> Floats:
    return np.where(np.arange(n) < at, first, last)


def noisy(values: Floats, seed: int = 0, spread: float = 0.01) -> list[float]:
    return list(values * np.random.default_rng(seed).normal(1, spread, len(values)))


def trace(token_seconds: list[float], **sensors: Any) -> Trace:
    seconds = list(np.cumsum(token_seconds) * 20)  # twenty tokens a sample
    return Trace(seconds=seconds, token_seconds=token_seconds, **{name: list(v) for name, v in sensors.items()})


SLOWED = noisy(steps(0.02, 0.03))


def test_a_fall_with_the_clock_at_a_high_temperature_is_throttling_with_both_rates() -> None:
    found = find_throttling(trace(SLOWED, clock_mhz=steps(2800, 1800), temperatures=np.linspace(40, 80, N)))
    assert found.throttled is True
    assert found.onset_seconds == pytest.approx(20 * 20 * 0.02, rel=0.1)
    assert found.burst_tokens_per_second.value == pytest.approx(50, rel=0.02)
    assert found.sustained_tokens_per_second.value == pytest.approx(33.3, rel=0.02)
    assert found.burst_tokens_per_second.n == 20
    assert found.sustained_tokens_per_second.ci95 is not None
    assert found.p_value is not None
    assert found.p_value < 0.01
    assert "the clock fell by 36% at 5" in found.source


def test_the_kernel_s_counter_is_evidence_enough() -> None:
    found = find_throttling(trace(SLOWED, throttle_counts=np.maximum(0, np.arange(N) - 18) + 7))
    assert found.throttled is True
    assert "the kernel counted 41 slowings" in found.source


def test_without_a_sensor_the_cause_is_not_said_to_be_heat() -> None:
    found = find_throttling(trace(SLOWED))
    assert found.throttled is True
    assert "isn't known to be heat" in found.source


@pytest.mark.parametrize(
    ("sensors", "why"),
    [
        ({"clock_mhz": np.array(noisy(steps(2800, 2800), 1, 0.001)), "temperatures": steps(70, 70)}, "the clock held"),
        ({"temperatures": steps(41, 42)}, "no warmer than before"),
        ({"other_cores": steps(0.1, 0.9)}, "other processes kept 0.8 cores more busy"),
        ({"throttle_counts": steps(5, 5)}, "the kernel counted no slowing"),
    ],
)
def test_a_fall_that_sensors_explain_otherwise_is_not_throttling(sensors: dict[str, Any], why: str) -> None:
    found = find_throttling(trace(SLOWED, **sensors))
    assert found.throttled is False
    assert why in found.source
    assert found.burst_tokens_per_second == found.sustained_tokens_per_second


def test_other_work_in_bursts_is_left_out() -> None:
    slow = steps(0.02, 0.02)
    slow[30:42] *= 2
    busy = steps(0.0, 0.0)
    busy[30:42] = 1.0
    found = find_throttling(trace(noisy(slow), other_cores=busy))
    assert found.throttled is False
    assert found.sustained_tokens_per_second.n == N - 12


@pytest.mark.parametrize(
    ("what", "slow"),
    [
        ("steady", steps(0.02, 0.02)),
        ("a warm-up", 0.02 * (1 + 0.5 * np.exp(-np.arange(N) / 5))),
        ("a governor's ramp up", steps(0.04, 0.02, 6)),
        ("faster later", steps(0.03, 0.02)),
        ("a neighbour in the middle", np.where((np.arange(N) > 25) & (np.arange(N) < 33), 0.04, 0.02)),
        ("a fall of 2%", steps(0.02, 0.0204)),
    ],
)
def test_what_only_looks_like_throttling_is_not(what: str, slow: Floats) -> None:
    assert find_throttling(trace(noisy(slow))).throttled is False, what


def test_single_slow_tokens_are_not_throttling() -> None:
    slow = np.full(800, 0.02)
    slow[np.random.default_rng(2).integers(400, 800, 20)] *= 8
    assert find_throttling(trace(noisy(slow, 3, 0.03))).throttled is False


def test_a_growing_cache_is_not_throttling_and_a_step_beside_it_is() -> None:
    positions = np.arange(1000.0)
    growing = 0.02 * (1 + 0.8 * positions / 1000)
    assert find_throttling(trace(noisy(growing), positions=positions)).throttled is False
    stepped = find_throttling(trace(noisy(growing * steps(1, 1.3, 500, 1000)), positions=positions))
    assert stepped.throttled is True
    answers = np.tile(np.arange(100.0), 10)
    sawtooth = 0.02 * (1 + 0.3 * answers / 100)
    assert find_throttling(trace(noisy(sawtooth), positions=answers)).throttled is False


def test_a_clock_that_goes_to_and_fro_around_a_trip_point_is_throttling() -> None:
    slow = steps(0.02, 0.02)
    slow[24:] = np.where(np.arange(N - 24) % 4 < 2, 0.03, 0.02)
    clock = np.where(slow > 0.025, 1700.0, 2800.0)
    found = find_throttling(trace(noisy(slow), clock_mhz=clock, temperatures=np.minimum(75, 40 + 2 * np.arange(N))))
    assert found.throttled is True


def test_too_few_samples_and_too_short_runs_say_that_they_cannot_tell() -> None:
    few = find_throttling(trace(noisy(steps(0.02, 0.03, 2, 5))))
    assert few.throttled is None
    assert few.sustained_tokens_per_second.value is None
    short = find_throttling(Trace(seconds=list(np.cumsum(SLOWED)), token_seconds=SLOWED))
    assert short.throttled is None
    assert "too short to tell heat from noise" in short.source


@pytest.mark.parametrize(
    ("token_seconds", "sensors"),
    [([0.1, 0.0], {}), ([0.1, float("nan")], {}), ([0.1, float("inf")], {}), ([0.1, 0.1], {"clock_mhz": [1.0]})],
)
def test_a_trace_whose_columns_make_no_sense_is_refused(token_seconds: list[float], sensors: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="trace: "):
        Trace(seconds=[0.0, 1.0], token_seconds=token_seconds, **sensors)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(1e-6, 10), min_size=0, max_size=60),
    st.lists(st.one_of(st.just(float("nan")), st.floats(0, 5000)), min_size=60, max_size=60),
)
def test_any_trace_gets_an_answer_with_a_reason(token_seconds: list[float], readings: list[float]) -> None:
    n = len(token_seconds)
    seconds = list(np.cumsum(token_seconds))
    for sensors in ({}, {"clock_mhz": readings[:n]}, {"temperatures": readings[:n], "other_cores": readings[:n]}):
        found = find_throttling(Trace(seconds=seconds, token_seconds=token_seconds, **sensors))
        assert found.source
        if found.throttled:
            burst, sustained = found.burst_tokens_per_second.value, found.sustained_tokens_per_second.value
            assert burst is not None
            assert sustained is not None
            assert sustained < burst


def times(gaps: list[float]) -> dict[str, Any]:
    return {"ttft_seconds": 0.5, "prompt_tokens": 8, "new_tokens": len(gaps) + 1, "inter_token_seconds": gaps}


def met(begun: float, clock: float | None, degrees: float, joules: float | None) -> dict[str, Any]:
    heat = {"clock_mhz": clock, "temperatures": {"cpu": degrees, "stuck": 90.0}, "throttle_count": None}
    cool = {"clock_mhz": 800.0, "temperatures": {"cpu": 35.0, "stuck": 90.0}, "throttle_count": None}
    return {
        "begun": begun, "wait": [1.5, "cool"], "joules": joules, "energy_source": "counter: RAPL package-0",
        "other_cores": 0.1, "before": cool, "after": heat,
    }  # fmt: skip


def test_a_record_is_put_together_from_what_repetitions_met() -> None:
    gaps = [0.02 if number < 4 else 0.03 for number in range(12)]
    said = [met(100 + 10 * number, 2800 if number < 4 else 1700, 40 + 5 * number, 6.0) for number in range(12)]
    record = heat_record([times([gap] * 20) for gap in gaps], said)
    assert record.throttling is not None
    assert record.throttling.throttled is True
    assert record.gate is not None
    assert record.gate.ended == {"cool": 12}
    assert record.gate.waited_seconds.value == 18.0
    assert record.energy_per_token is not None
    assert record.energy_per_token.value == pytest.approx(6 / 21)
    assert record.raw["temperature_celsius"] == [40 + 5 * number for number in range(12)]
    assert record.raw["begun_seconds"][1] == 10
    assert "throttle_count" not in record.raw
    assert record.warnings[0].startswith("slowed after ")


def test_a_trace_begins_with_what_was_read_before_the_first_repetition() -> None:
    found = trace_of([times([0.1, 0.2]), times([0.1, 0.2])], [met(100, 2800, 70, None), met(101, 2700, 72, None)])
    assert found.seconds == pytest.approx([0.6, 0.8, 1.6, 1.8])
    assert found.positions == [8, 9, 8, 9]
    assert found.temperatures == [35, 70, 72, 72]
    assert found.clock_mhz == [2800, 2800, 2700, 2700]
    assert found.throttle_counts is None


def test_a_worker_that_says_nothing_of_heat_leaves_the_fields_empty() -> None:
    record = heat_record([times([0.1])], [None])
    assert record.throttling is record.gate is record.energy_per_token is None
    assert record.raw == {}
