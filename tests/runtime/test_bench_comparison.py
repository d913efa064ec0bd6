"""Comparing two models: what counts as a difference, and what may not be compared."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgestill.bench_results import BenchDocument, BenchRecord, Environment, Latency, Limits, Throttling
from edgestill.cli import main
from edgestill.comparison import CompareDocument
from edgestill.errors import InputError
from edgestill.figure import Figure
from edgestill.runtime import bench_comparison
from edgestill.runtime.bench_comparison import CompareOptions, compare_in_turn, find, slower_by
from edgestill.runtime.bench_options import BenchOptions
from edgestill.runtime.result_comparison import compare_results, incomparable

MACHINE = Environment(
    cpu="cpu", cores=2, memory_bytes=1, system="Linux", python="3.11", versions={}, load_average=None,
    governor="performance", clock_mhz=(2000.0, 2100.0), temperatures={"zone": 50.0}, throttled=0, limits=Limits(),
)  # fmt: skip


def record(model: str, seconds: list[float], **changes: Any) -> BenchRecord:
    rates = [64 / value for value in seconds]
    missing = Figure.missing("x", "not measured")
    return BenchRecord(
        model=model, engine="stub", threads=2, prompt_tokens=128, new_tokens=64, repetitions=len(seconds),
        load_seconds=missing, ttft_seconds=missing, prefill_tokens_per_second=missing,
        decode_tokens_per_second=missing, inter_token_seconds=Latency(p50=missing, p90=missing),
        answer_seconds=missing, peak_pss_bytes=missing, peak_rss_bytes=missing, weights_bytes=missing, size_bytes=1,
        raw={
            "answer_seconds": seconds, "decode_tokens_per_second": rates, "pss_bytes": [1e6, 2e6],
            "peak_rss_bytes": [2e6],
        },
    ).model_copy(update={"prompt_sha256": "a" * 64, "model_sha256": "b" * 64, **changes})  # fmt: skip


def noisy(slowdown: float, seed: int) -> Callable[..., list[BenchRecord]]:
    """A machine whose speed drifts by a fifth, processes that differ by 3%, repetitions by 1%."""
    draw = np.random.default_rng(seed)
    calls = 0

    def one(model: str, options: BenchOptions) -> BenchRecord:
        nonlocal calls
        calls += 1
        drift = 1 + 0.2 * math.sin(calls / 7)
        process = drift * draw.normal(1, 0.03) * (1 + slowdown if model == "second" else 1)
        return record(model, [process * draw.normal(1, 0.01) for _ in range(options.repetitions)])

    return each(one)


def each(one: Callable[[str, BenchOptions], BenchRecord]) -> Callable[..., list[BenchRecord]]:
    return lambda models: [one(model, options) for model, options in models]


def compared(slowdown: float, seed: int) -> CompareDocument:
    return compare_in_turn("first", "second", CompareOptions(max_rounds=20, seed=seed), bench=noisy(slowdown, seed))


def test_a_build_seldom_differs_from_itself() -> None:
    documents = [compared(0.0, seed) for seed in range(200)]
    assert (
        sum(document.verdict != "no difference shown" for document in documents) <= 6
    )  # 1%, and three standard errors
    by_chance = sum((find(document.metrics, "answer_seconds").p_value or 0) <= 0.05 for document in documents)
    assert 1 <= by_chance <= 18  # 5% likewise: the p-value is what it says


def test_what_comes_second_is_at_a_disadvantage_and_that_shows_as_no_difference() -> None:
    def bench(model: str, options: BenchOptions) -> BenchRecord:
        order.append(model)
        return record(model, [1.3 if len(order) % 2 == 0 else 1.0] * 3)

    for seed in range(20):
        order: list[str] = []
        document = compare_in_turn("first", "second", CompareOptions(max_rounds=10, seed=seed), bench=each(bench))
        assert document.verdict == "no difference shown"
        assert set(order[::2]) == {"first", "second"}


def test_a_tenth_slower_is_found_and_its_size_said() -> None:
    for seed in range(20):
        document = compared(0.1, seed)
        assert document.verdict == "slower"
        found = find(document.metrics, "answer_seconds")
        assert found.ratio.ci95 is not None
        assert found.ratio.value == pytest.approx(1.1, abs=0.05)
        assert slower_by(found) == pytest.approx(0.1, abs=0.05)
        rate = find(document.metrics, "decode_tokens_per_second")
        assert rate.verdict == "slower"
        assert slower_by(rate) == pytest.approx(0.1, abs=0.05)
        assert find(document.metrics, "peak_rss_bytes").verdict == "no difference shown"
        assert document.in_turn
        assert len(document.raw["first"]["answer_seconds"]) == document.rounds


def test_what_burdens_a_pair_of_neighbours_alike_does_not_count() -> None:
    """Bursts double every answer while they last: 30% of pairs, one of which they leave in the middle."""
    draw = np.random.default_rng(0)

    def bench(models: list[tuple[str, BenchOptions]]) -> list[BenchRecord]:
        times: list[list[float]] = [[], []]
        for _ in range(models[0][1].repetitions):
            burst = 2.0 if draw.random() < 0.3 else 1.0
            after = 2.0 if draw.random() < 0.05 else burst
            for side, load in ((0, burst), (1, after)):
                slower = 1.05 if models[side][0] == "second" else 1.0
                times[side].append(load * slower * draw.normal(1, 0.01))
        return [record(model, of_side) for (model, _), of_side in zip(models, times, strict=True)]

    document = compare_in_turn("first", "second", CompareOptions(max_rounds=12, repetitions=15), bench=bench)
    ratio = find(document.metrics, "answer_seconds").ratio
    assert document.verdict == "slower"
    assert ratio.value == pytest.approx(1.05, abs=0.01)
    assert ratio.ci95 is not None
    assert ratio.ci95[1] - ratio.ci95[0] < 0.02


def test_repetitions_are_chosen_by_their_time() -> None:
    asked: list[int] = []

    def bench(models: list[tuple[str, BenchOptions]]) -> list[BenchRecord]:
        asked.append(models[0][1].repetitions)
        time.sleep(0.06 + 0.002 * asked[-1])  # what goes before the answers, and they
        return [record(model, [0.001] * options.repetitions) for model, options in models]

    compare_in_turn("first", "second", CompareOptions(min_rounds=8, max_rounds=8, seed=0), bench=bench)
    assert asked == [5] + [25] * 7
    asked.clear()
    compare_in_turn("first", "second", CompareOptions(repetitions=3, min_rounds=8, max_rounds=8), bench=bench)
    assert asked == [3] * 8
    asked.clear()
    compare_in_turn("first", "second", CompareOptions(min_rounds=8, max_rounds=8, max_seconds=0.7), bench=bench)
    assert 5 <= asked[-1] < 25  # more wouldn't leave time for eight rounds


def test_rounds_end_when_the_ratio_is_known_well() -> None:
    def bench(model: str, options: BenchOptions) -> BenchRecord:
        return record(model, [1.0, 1.0, 1.0])

    document = compare_in_turn("first", "second", bench=each(bench))
    assert document.rounds == 10
    assert document.verdict == "no difference shown"
    assert document.warnings == ()
    with pytest.raises(InputError, match="compare by answer_seconds"):
        compare_in_turn(
            "first", "second", CompareOptions(metric="load_seconds", min_rounds=8, max_rounds=8), bench=each(bench)
        )


@pytest.mark.parametrize("changes", [{"metric": "speed"}, {"min_rounds": 7}, {"width": 0.0}, {"max_rounds": 9}])
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        CompareOptions(**changes)


@pytest.mark.parametrize(
    ("changes", "machine", "said"),
    [
        ({"prompt_sha256": "c" * 64}, {}, "other prompts"),
        ({"model_sha256": "c" * 64}, {}, "models of other bytes"),
        ({"threads": 1}, {}, "threads 2 and 1"),
        ({"failure": "killed"}, {}, r"a run that ended early \(killed\)"),
        ({"new_tokens": 32}, {}, "new tokens 64 and 32"),
        ({}, {"cpu": "another"}, "processor cpu and another"),
        ({}, {"governor": "powersave"}, "governor performance and powersave"),
        ({}, {"limits": Limits(cpu_quota=0.5)}, "CPU quotas None and 0.5"),
        ({}, {"clock_mhz": (1000.0,)}, "clocks of 2050 and 1000 MHz"),
        ({}, {"temperatures": {"zone": 80.0}}, "temperatures of 50 and 80 degrees"),
    ],
)
def test_results_of_other_conditions_are_refused_unless_forced(
    tmp_path: Path, changes: dict[str, Any], machine: dict[str, Any], said: str
) -> None:
    first = write(tmp_path / "a.json", MACHINE, record("m", [1.0, 1.1, 0.9, 0.95, 1.05]))
    second = write(
        tmp_path / "b.json", MACHINE.model_copy(update=machine), record("m", [2.0, 2.1, 1.9, 1.95, 2.05], **changes)
    )
    with pytest.raises(InputError, match=said):
        compare_results(first, second)
    document = compare_results(first, second, force=True)
    assert document.verdict == "slower"
    assert any(re.search(said, reason) for reason in document.forced)


def test_a_result_that_was_slowed_for_heat_is_not_compared_with_one_that_was_not() -> None:
    rate = Figure.median([50.0] * 6, "tokens/s", "")
    steady = Throttling(
        throttled=False, onset_seconds=None, burst_tokens_per_second=rate, sustained_tokens_per_second=rate,
        p_value=1.0, source="",
    )  # fmt: skip
    slowed = steady.model_copy(update={"throttled": True, "onset_seconds": 9.0})

    def reasons(first: Throttling | None, second: Throttling | None) -> list[str]:
        return incomparable(
            record("m", [1.0], throttling=first), MACHINE, record("m", [1.0], throttling=second), MACHINE
        )

    assert reasons(steady, slowed) == ["only the second was slowed while it ran (throttling)"]
    assert reasons(slowed, steady) == ["only the first was slowed while it ran (throttling)"]
    assert reasons(slowed, slowed) == reasons(steady, steady) == reasons(None, slowed) == []


def test_results_of_equal_conditions_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a.json", MACHINE, record("m", [1.0, 1.1, 0.9, 1.0, 1.05, 0.95]))
    second = write(tmp_path / "b.json", MACHINE, record("m", [1.2, 1.3, 1.1, 1.2, 1.25, 1.15]), record("n", [0.5] * 6))
    assert incomparable(record("m", [1.0]), MACHINE, record("m", [1.0]), MACHINE) == []
    with pytest.raises(InputError, match="one result is wanted, found 2"):
        compare_results(first, second)
    command = ["compare", str(first), f"{second}#m", "--fail-if-slower"]
    assert status([*command, "5%"]) == 1
    assert "is slower by 20.0% in answer_seconds, limit 5.0%" in capsys.readouterr().err
    assert status([*command, "0.5"]) == 0
    assert "answer_seconds: the second is slower, 1.200 (" in capsys.readouterr().out
    assert status([*command, "slow"]) == 2
    assert status(["compare", str(first), "model.gguf"]) == 2
    (tmp_path / "c.json").write_text("{}")
    assert status(["compare", str(first), str(tmp_path / "c.json")]) == 2
    assert "not a bench result" in capsys.readouterr().err


def test_two_models_are_run_in_turn(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp")
    from edgestill.artifact import Checkpoint
    from edgestill.export import export_checkpoint

    model = str(export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path).model_path)
    options = ["--min-rounds", "8", "--max-seconds", "1", "--prompt-tokens", "8", "--new-tokens", "4", "--json"]
    command = ["compare", model, model, "--repetitions", "2", *options]
    assert status(command) == 0
    document = CompareDocument.model_validate_json(capsys.readouterr().out)
    assert document.rounds == 8
    assert document.alternately
    assert {one.metric for one in document.metrics} == set(bench_comparison.METRICS) - {"pss_bytes"}
    assert all(one.ratio.ci95 is not None for one in document.metrics)
    assert not any("keep" in warning or "one after the other" in warning for warning in document.warnings)
    # Of a file that both map, two processes at once count half each: where PSS decides they run one after the other.
    assert status([*command, "--metric", "pss_bytes"]) == 0
    document = CompareDocument.model_validate_json(capsys.readouterr().out)
    assert not document.alternately
    assert {one.metric for one in document.metrics} == set(bench_comparison.METRICS)
    monkeypatch.setattr(bench_comparison, "usable_memory", lambda: 1 << 20)
    assert status(command) == 0
    document = CompareDocument.model_validate_json(capsys.readouterr().out)
    assert not document.alternately
    assert "they ran one after the other" in document.warnings[0]


def write(path: Path, machine: Environment, *records: BenchRecord) -> Path:
    path.write_text(BenchDocument(environment=machine, results=records).to_json(), encoding="utf-8")
    return path


def status(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)
