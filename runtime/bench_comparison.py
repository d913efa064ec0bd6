"""Is the second model slower than the first? Both run in turn in fresh processes, or two results from files.

A process has its own luck for as long as it lives: which pages are huge, where the weights lie, what the neighbours
do. Two processes of one build may differ by a tenth, however often each repeats. The unit of a comparison is therefore
a process, not a repetition: a round is one process of each model; rounds are compared in pairs. Where memory holds
both, the two live at once and answer alternately, so that other work on the machine, which comes and goes within
seconds, meets both alike: a round's ratio is the median over its pairs of neighbouring answers.

Which of them comes first is drawn by lot in each round. Whatever the machine did meanwhile, had the models been the
same the other order would have been as likely, and with it the opposite difference: so the p-value of the signed ranks
holds by the draw (Fisher, The Design of Experiments, 1935), not by an assumption about the machine's noise.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgestill.bench_results import BenchRecord
from edgestill.comparison import CompareDocument, MetricComparison, Verdict
from edgestill.errors import InputError
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress
from edgestill.runtime.bench import bench_model, bench_turns
from edgestill.runtime.bench_options import DEFAULT_OPTIONS, BenchOptions
from edgestill.runtime.environment import describe_environment, usable_memory
from edgestill.runtime.model_source import locate_model
from edgestill.runtime.rank_tests import mann_whitney_p, signed_rank_interval, signed_rank_p
from edgestill.turns import alternate

METRICS: Final[Mapping[str, str]] = {
    "answer_seconds": "seconds",
    "ttft_seconds": "seconds",
    "prefill_tokens_per_second": "tokens/s",
    "decode_tokens_per_second": "tokens/s",
    "load_seconds": "seconds",
    "peak_rss_bytes": "bytes",
    "pss_bytes": "bytes",
}
"""Metrics that are compared, by their name among a record's raw samples, with their units."""

_HALVED: Final = "pss_bytes"
"""Each of two processes that live at once counts half of what they share here: files mapped by both, libraries."""

SIGNIFICANCE: Final = 0.01
"""A difference is one at this p-value. At the usual 5% a gate that runs every day would cry wolf every third week."""

FEWEST_ROUNDS: Final = 8
"""Below this no signed ranks are that rare: the least p-value of n rounds is 2 / 2^n."""

_FIRST: Final = 5
_MOST: Final = 25
"""Repetitions of the first round, and of any."""

_IN_TIME: Final = 0.9
"""Rounds are planned to end in this part of the time: a machine may become slower."""

_ROOM: Final = 2.5
_BASE: Final = 1 << 30
"""Two models live at once where memory has 2.5 times their files (a repacked copy, cache, buffers), and this much."""

Bench = Callable[[Sequence[tuple[str, BenchOptions]]], list[BenchRecord]]
"""Measures models in the order given, each in a process of its own; returns their records in this order."""

Rounds = list[list[float]]
"""Samples of one metric: a list for each round (a process)."""


@dataclass(frozen=True)
class CompareOptions:
    """How two models are compared.

    ``bench`` is what a process does, but for its ``repetitions``: these are this class's, or where None 5 in the first
    round and then so many (5 to 25) that the answers take twice as long as all that goes before them, if time is left
    for the least rounds. Rounds are added until the 95% interval of the ``metric``'s ratio is at most ``width`` wide on
    either side (a fraction), but for at least ``min_rounds``, at most ``max_rounds``, and about ``max_seconds``. The
    width, not the answer, ends it: stopping when a difference shows would find one by chance. (An interval is somewhat
    narrower where all signs agree, so beyond the least rounds a little of that is left.) ``seed`` draws who comes
    first in each round (None: another one each time).
    """

    bench: BenchOptions = DEFAULT_OPTIONS
    repetitions: int | None = None
    metric: str = "answer_seconds"
    width: float = 0.02
    min_rounds: int = 10
    max_rounds: int = 100
    max_seconds: float = 120.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"metric {self.metric!r} is not one of {', '.join(METRICS)}")
        if not FEWEST_ROUNDS <= self.min_rounds <= self.max_rounds:
            raise InputError(
                f"rounds from {self.min_rounds} to {self.max_rounds}: give at least {FEWEST_ROUNDS}, the most last"
            )
        if self.width <= 0 or self.max_seconds <= 0:
            raise InputError("width and max_seconds must be above 0")


def compare_in_turn(
    first: str,
    second: str,
    options: CompareOptions = CompareOptions(),
    *,
    bench: Bench | None = None,
    progress: Progress = SILENT,
) -> CompareDocument:
    """Run both models in turn, a fresh process each time, and say whether the second differs from the first.

    They answer alternately unless memory doesn't hold both, or PSS is what decides: then one after the other.
    ``bench`` measures a round (None: :func:`edgestill.runtime.bench.bench_model` and
    :func:`edgestill.runtime.bench.bench_turns`, whose names are MODEL arguments). The least number of rounds is run
    even if it takes longer than ``max_seconds``. Raises as ``bench``.
    """
    bytes_ = sum(locate_model(model).size_bytes for model in (first, second)) if bench is None else 0
    room = usable_memory()
    fits = not room or _ROOM * bytes_ + _BASE < room
    alternately = fits and options.metric != _HALVED
    if bench is None:
        bench = bench_alternately if alternately else _one_after_the_other
    environment = describe_environment()
    begun, done, lots = time.monotonic(), 0, random.Random(options.seed)
    each = replace(options.bench, repetitions=options.repetitions or _FIRST)
    records: tuple[list[BenchRecord], list[BenchRecord]] = ([], [])
    with progress.task(f"comparing {first} and {second}", options.max_rounds, "rounds") as task:
        while done < options.max_rounds:
            order = (0, 1) if lots.random() < 0.5 else (1, 0)
            measured = bench([((first, second)[side], each) for side in order])
            for side, record in zip(order, measured, strict=True):
                records[side].append(record)
            done += 1
            task.advance()
            if done == 1:
                _check_measured(options.metric, shared_metrics(_raw(records, alternately)))
            seconds = time.monotonic() - begun
            if options.repetitions is None:
                each = replace(each, repetitions=_repetitions(records, seconds, options))
            if done < options.min_rounds:
                continue
            if (
                seconds + seconds / done > options.max_seconds
                or _half_width(_raw(records, alternately), options, alternately) <= options.width
            ):
                break
    raw = _raw(records, alternately)
    metrics = tuple(
        _in_turn(name, raw["first"][name], raw["second"][name], alternately) for name in shared_metrics(raw)
    )
    return CompareDocument(
        environment=environment,
        first=first,
        second=second,
        in_turn=True,
        alternately=alternately,
        rounds=done,
        decided_by=options.metric,
        verdict=find(metrics, options.metric).verdict,
        metrics=metrics,
        warnings=tuple(_warnings(records, metrics, options, fits)),
        raw=raw,
    )


def _repetitions(records: Sequence[Sequence[BenchRecord]], seconds: float, options: CompareOptions) -> int:
    """Return how often to repeat in the next round, so many seconds after the first began."""
    answers = [record.raw["answer_seconds"] for side in records for record in side]
    done, spent = len(records[0]), sum(map(sum, answers))
    once, before = 2 * spent / sum(map(len, answers)), (seconds - spent) / done
    left = _IN_TIME * options.max_seconds - seconds
    in_time = left / max(options.min_rounds - done, 1)
    return min(max(_FIRST, round(min(2 * before, in_time - before) / once)), _MOST)


def bench_alternately(models: Sequence[tuple[str, BenchOptions]]) -> list[BenchRecord]:
    """Measure models that live at once and take turns, an answer each. Raises as ``bench_model``."""
    return alternate([bench_turns(model, options) for model, options in models])


def _one_after_the_other(models: Sequence[tuple[str, BenchOptions]]) -> list[BenchRecord]:
    return [bench_model(model, options) for model, options in models]


def slower_by(comparison: MetricComparison) -> float:
    """Return by which fraction the second is slower (or larger) than the first; below 0 when it is faster."""
    ratio = comparison.ratio.value or math.nan
    return (1 / ratio if comparison.metric.endswith("_per_second") else ratio) - 1


def rounds_of(records: Sequence[BenchRecord]) -> dict[str, Rounds]:
    """Return each metric's samples, a list for each record; an empty list where a record hasn't any."""
    return {name: [record.raw.get(name, []) for record in records] for name in METRICS}


def shared_metrics(raw: Mapping[str, Mapping[str, Rounds]]) -> list[str]:
    """Return the metrics that every round of both sides has samples of."""
    return [name for name in METRICS if all(all(side.get(name, [[]])) for side in raw.values())]


def _raw(records: Sequence[Sequence[BenchRecord]], alternately: bool) -> dict[str, dict[str, Rounds]]:
    raw = {side: rounds_of(of_side) for side, of_side in zip(("first", "second"), records, strict=True)}
    if alternately:
        for rounds in raw.values():
            del rounds[_HALVED]
    return raw


def _middle(name: str, rounds: Rounds) -> list[float]:
    """Return one value a round: the median, and for memory the peak."""
    summarise: Callable[[list[float]], float] = max if name == "pss_bytes" else statistics.median
    return [summarise(samples) for samples in rounds]


def _log_ratios(name: str, first: Rounds, second: Rounds, alternately: bool) -> list[float]:
    """Return the logarithm of second / first for each round: of its neighbours' median, or of the sides' medians."""
    if not alternately or name.endswith("_bytes"):
        pairs = zip(_middle(name, first), _middle(name, second), strict=True)
        return [math.log(b / a) for a, b in pairs]
    # Where one side repeated more often, its last answers had no neighbours.
    return [
        statistics.median(math.log(b / a) for a, b in zip(ours, theirs, strict=False))
        for ours, theirs in zip(first, second, strict=True)
    ]


def _half_width(raw: Mapping[str, Mapping[str, Rounds]], options: CompareOptions, alternately: bool) -> float:
    sides = raw["first"][options.metric], raw["second"][options.metric]
    found = signed_rank_interval(_log_ratios(options.metric, *sides, alternately))
    return math.inf if found is None else (math.exp(found[2] - found[1]) - 1) / 2


def _in_turn(name: str, first: Rounds, second: Rounds, alternately: bool) -> MetricComparison:
    ours, theirs = _middle(name, first), _middle(name, second)
    logs = _log_ratios(name, first, second, alternately)
    found = signed_rank_interval(logs)
    source = f"second / first, Hodges and Lehmann's estimate over {len(logs)} rounds in turn"
    ratio = Figure(
        value=statistics.geometric_mean(map(math.exp, logs)) if found is None else math.exp(found[0]),
        unit="ratio",
        n=len(logs),
        ci95=None if found is None else (math.exp(found[1]), math.exp(found[2])),
        source=source,
    )
    p = signed_rank_p(logs)
    return comparison(name, ours, theirs, ratio, 1.0 if p is None else p, mann_whitney_p(ours, theirs))


def comparison(
    name: str, first: Sequence[float], second: Sequence[float], ratio: Figure, p: float | None, ranks: float | None
) -> MetricComparison:
    """Return the comparison; a difference is one when the test and the interval agree on it."""
    differs = p is not None and p <= SIGNIFICANCE and ratio.ci95 is not None and not ratio.ci95[0] <= 1 <= ratio.ci95[1]
    verdict: Verdict = "no difference shown"
    if differs and name.endswith("_bytes"):
        verdict = "larger" if (ratio.value or 0) > 1 else "smaller"
    elif differs:
        more = (ratio.value or 0) > 1
        verdict = "faster" if more == name.endswith("_per_second") else "slower"
    return MetricComparison(
        metric=name,
        first=Figure.median(list(first), METRICS[name], "median over rounds"),
        second=Figure.median(list(second), METRICS[name], "median over rounds"),
        ratio=ratio,
        p_value=p,
        mann_whitney_p=ranks,
        verdict=verdict,
    )


def find(metrics: Sequence[MetricComparison], name: str) -> MetricComparison:
    """Return one metric's comparison. Raises InputError when a side has no samples of it."""
    found = {comparison.metric: comparison for comparison in metrics}
    _check_measured(name, list(found))
    return found[name]


def _check_measured(name: str, measured: Sequence[str]) -> None:
    if name not in measured:
        raise InputError(f"{name} was not measured on both sides; compare by {', '.join(measured)}")


def _warnings(
    records: tuple[list[BenchRecord], list[BenchRecord]],
    metrics: Sequence[MetricComparison],
    options: CompareOptions,
    fits: bool,
) -> list[str]:
    found = find(metrics, options.metric)
    said = [] if fits else ["memory doesn't hold both models at once: they ran one after the other, which finds less"]
    interval = found.ratio.ci95
    if interval is not None and (wide := (interval[1] / interval[0] - 1) / 2) > options.width:
        said.append(
            f"after {found.ratio.n} rounds the ratio is known to {wide:.1%} only, not {options.width:.1%}: "
            "a smaller difference wouldn't show; give more time, or a quieter machine"
        )
    for side, record in (("first", records[0][-1]), ("second", records[1][-1])):
        said += [f"{side}: {warning}" for warning in record.warnings if warning.startswith("prompt shortened")]
    if records[0][-1].prompt_sha256 != records[1][-1].prompt_sha256:
        said.append("the two tokenise the prompt's text into other ids; both got equally many")
    busy = [
        warning for side in records for record in side for warning in record.warnings if "other processes" in warning
    ]
    if busy:
        said.append(f"in {len(busy)} of {2 * found.ratio.n} processes others kept the cores busy, e.g.: {busy[0]}")
    return said
