"""Is the second model slower than the first? Both run in turn in fresh processes, or two results from files.

A process has its own luck for as long as it lives: which pages are huge, where the weights lie, what the neighbours
do. Two processes of one build may differ by a tenth, however often each repeats. The unit of a comparison is therefore
a process, not a repetition: a round is one process of each model, one after the other; rounds are compared in pairs.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from edgestill.bench_results import BenchDocument, BenchRecord, Environment
from edgestill.comparison import CompareDocument, MetricComparison, Verdict
from edgestill.documents import read_document
from edgestill.errors import InputError
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress
from edgestill.runtime.bench import bench_model
from edgestill.runtime.bench_options import BenchOptions
from edgestill.runtime.environment import describe_environment
from edgestill.runtime.intervals import bootstrap_interval
from edgestill.runtime.model_source import locate_model
from edgestill.runtime.rank_tests import mann_whitney_p, signed_rank_interval, signed_rank_p

METRICS: Final[Mapping[str, str]] = {
    "answer_seconds": "seconds",
    "ttft_seconds": "seconds",
    "prefill_tokens_per_second": "tokens/s",
    "decode_tokens_per_second": "tokens/s",
    "load_seconds": "seconds",
    "pss_bytes": "bytes",
}
"""Metrics that are compared, by their name among a record's raw samples, with their units."""

SIGNIFICANCE: Final = 0.01
"""A difference is one at this p-value. At the usual 5% a gate that runs every day would cry wolf every third week."""

FEWEST_ROUNDS: Final = 8
"""Below this no signed ranks are that rare: the least p-value of n rounds is 2 / 2^n."""

MAX_CLOCK_DIFFERENCE: Final = 0.1
"""Results whose processors' mean clocks differ by more than this fraction aren't compared."""

MAX_TEMPERATURE_DIFFERENCE: Final = 15.0
"""Degrees Celsius between the hottest sensors, beyond which results aren't compared."""

Bench = Callable[[str, BenchOptions], BenchRecord]
Rounds = list[list[float]]
"""Samples of one metric: a list for each round (a process)."""


@dataclass(frozen=True)
class CompareOptions:
    """How two models are compared.

    ``bench`` is what a process does. Rounds are added until the 95% interval of the ``metric``'s ratio is at most
    ``width`` wide on either side (a fraction), but for at least ``min_rounds``, at most ``max_rounds``, and about
    ``max_seconds``. The width, not the answer, ends it: stopping when a difference shows would find one by chance.
    ``seed`` draws who comes first in each round (None: another one each time).
    """

    bench: BenchOptions = field(default_factory=lambda: BenchOptions(repetitions=5))
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

    ``bench`` measures a model by its name (None: :func:`edgestill.runtime.bench.bench_model`, whose names are MODEL
    arguments). The least number of rounds is run even if it takes longer than ``max_seconds``. Raises as ``bench``.
    """
    if bench is None:
        bench = bench_model
        for model in (first, second):
            locate_model(model)  # a misspelt one is found before the other runs
    environment = describe_environment()
    begun, done, lots = time.monotonic(), 0, random.Random(options.seed)
    records: tuple[list[BenchRecord], list[BenchRecord]] = ([], [])
    with progress.task(f"comparing {first} and {second}", options.max_rounds, "rounds") as task:
        while done < options.max_rounds:
            for side in (0, 1) if lots.random() < 0.5 else (1, 0):
                records[side].append(bench((first, second)[side], options.bench))
            done += 1
            task.advance()
            if done == 1:
                _check_measured(options.metric, _shared({"first": _rounds(records[0]), "second": _rounds(records[1])}))
            if done < options.min_rounds:
                continue
            seconds = time.monotonic() - begun
            if seconds + seconds / done > options.max_seconds or _half_width(records, options) <= options.width:
                break
    raw = {"first": _rounds(records[0]), "second": _rounds(records[1])}
    metrics = tuple(_in_turn(name, raw["first"][name], raw["second"][name]) for name in _shared(raw))
    return CompareDocument(
        environment=environment,
        first=first,
        second=second,
        in_turn=True,
        rounds=done,
        decided_by=options.metric,
        verdict=_verdict_of(metrics, options.metric),
        metrics=metrics,
        warnings=tuple(_warnings(records, metrics, options)),
        raw=raw,
    )


def compare_results(
    first: Path, second: Path, *, metric: str = "answer_seconds", force: bool = False
) -> CompareDocument:
    """Compare two results that ``bench --json`` wrote, ``FILE.json`` or ``FILE.json#MODEL``.

    Raises InputError when a file isn't such a result, and when the two were taken under conditions that differ
    (prompts, models' bytes, threads, machine, clocks, heat), naming each; ``force`` compares them all the same.
    """
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    (one, there), (other, here) = _read(first), _read(second)
    reasons = tuple(incomparable(one, there, other, here))
    if reasons and not force:
        raise InputError(f"{first} and {second} can't be compared: {'; '.join(reasons)}; --force does it all the same")
    raw = {"first": _rounds([one]), "second": _rounds([other])}
    metrics = tuple(_apart(name, raw["first"][name][0], raw["second"][name][0]) for name in _shared(raw))
    return CompareDocument(
        environment=here,
        first=f"{first}: {one.model}",
        second=f"{second}: {other.model}",
        in_turn=False,
        rounds=1,
        decided_by=metric,
        verdict=_verdict_of(metrics, metric),
        metrics=metrics,
        forced=reasons,
        warnings=(
            "each result is of one process, at another time: processes of one build differ too, and that can't be told "
            "from two files; give the models themselves, and they run in turn",
        ),
        raw=raw,
    )


def incomparable(one: BenchRecord, there: Environment, other: BenchRecord, here: Environment) -> list[str]:
    """Return why two results can't be compared, as phrases; empty when they can.

    Where a side doesn't say (a clock, a temperature), nothing is held against it.
    """
    reasons = []

    def equal(what: str, a: object, b: object) -> None:
        if a != b:
            reasons.append(f"{what} {a} and {b}")

    for record in (one, other):
        if record.failure:
            reasons.append(f"a run that ended early ({record.failure})")
    if one.prompt_sha256 and other.prompt_sha256 and one.prompt_sha256 != other.prompt_sha256:
        reasons.append("other prompts")
    equal("prompt tokens", one.prompt_tokens, other.prompt_tokens)
    equal("depth", one.depth, other.depth)
    equal("new tokens", one.new_tokens, other.new_tokens)
    equal("threads", one.threads, other.threads)
    if one.model_sha256 and other.model_sha256 and one.model_sha256 != other.model_sha256:
        reasons.append(f"models of other bytes ({one.model_sha256[:12]} and {other.model_sha256[:12]})")
    equal("processor", there.cpu, here.cpu)
    equal("cores", there.cores, here.cores)
    equal("governor", there.governor, here.governor)
    if there.limits is not None and here.limits is not None:
        equal("CPU quotas", there.limits.cpu_quota, here.limits.cpu_quota)
    slowed = [record.throttling and record.throttling.throttled for record in (one, other)]
    if True in slowed and False in slowed:
        reasons.append(f"only the {('first', 'second')[slowed.index(True)]} was slowed while it ran (throttling)")
    if there.clock_mhz and here.clock_mhz:
        clocks = statistics.fmean(there.clock_mhz), statistics.fmean(here.clock_mhz)
        if max(clocks) > (1 + MAX_CLOCK_DIFFERENCE) * min(clocks):
            reasons.append(f"clocks of {clocks[0]:.0f} and {clocks[1]:.0f} MHz")
    if there.temperatures and here.temperatures:
        heat = max(there.temperatures.values()), max(here.temperatures.values())
        if abs(heat[0] - heat[1]) > MAX_TEMPERATURE_DIFFERENCE:
            reasons.append(f"temperatures of {heat[0]:.0f} and {heat[1]:.0f} degrees Celsius")
    return reasons


def slower_by(comparison: MetricComparison) -> float:
    """Return by which fraction the second is slower (or larger) than the first; below 0 when it is faster."""
    ratio = comparison.ratio.value or math.nan
    return (1 / ratio if comparison.metric.endswith("_per_second") else ratio) - 1


def _rounds(records: Sequence[BenchRecord]) -> dict[str, Rounds]:
    return {name: [record.raw.get(name, []) for record in records] for name in METRICS}


def _shared(raw: Mapping[str, Mapping[str, Rounds]]) -> list[str]:
    """Return the metrics that every round of both sides has samples of."""
    return [name for name in METRICS if all(samples for side in raw.values() for samples in side[name])]


def _middle(name: str, rounds: Rounds) -> list[float]:
    """Return one value a round: the median, and for memory the peak."""
    summarise: Callable[[list[float]], float] = max if name == "pss_bytes" else statistics.median
    return [summarise(samples) for samples in rounds]


def _log_ratios(name: str, first: Rounds, second: Rounds) -> list[float]:
    pairs = zip(_middle(name, first), _middle(name, second), strict=True)
    return [math.log(b / a) for a, b in pairs]


def _half_width(records: tuple[list[BenchRecord], list[BenchRecord]], options: CompareOptions) -> float:
    raw = [_rounds(side)[options.metric] for side in records]
    found = signed_rank_interval(_log_ratios(options.metric, raw[0], raw[1]))
    return math.inf if found is None else (math.exp(found[2] - found[1]) - 1) / 2


def _in_turn(name: str, first: Rounds, second: Rounds) -> MetricComparison:
    ours, theirs = _middle(name, first), _middle(name, second)
    logs = _log_ratios(name, first, second)
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
    return _comparison(name, ours, theirs, ratio, 1.0 if p is None else p, mann_whitney_p(ours, theirs))


def _apart(name: str, first: list[float], second: list[float]) -> MetricComparison:
    a, b = np.asarray(first), np.asarray(second)

    def ratio_of(generator: np.random.Generator) -> float:
        ours, theirs = generator.choice(a, len(a)), generator.choice(b, len(b))
        return float(np.median(theirs) / np.median(ours))

    generator = np.random.default_rng(0)
    interval = None
    if min(len(a), len(b)) > 1:
        interval = bootstrap_interval(len(a), lambda _: ratio_of(generator))
    ratio = Figure(
        value=float(np.median(b) / np.median(a)),
        unit="ratio",
        n=min(len(a), len(b)),
        ci95=interval,
        source="second / first, ratio of medians; interval by bootstrap over each one's repetitions",
    )
    p = mann_whitney_p(first, second) if interval is not None else None
    return _comparison(name, first, second, ratio, p, p)


def _comparison(
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


def _verdict_of(metrics: Sequence[MetricComparison], name: str) -> Verdict:
    return find(metrics, name).verdict


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
) -> list[str]:
    found = find(metrics, options.metric)
    said = []
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


def _read(given: Path) -> tuple[BenchRecord, Environment]:
    """Read one record of a bench document. Raises InputError (one line)."""
    text = str(given)
    name = ""
    if not given.exists() and "#" in text:
        text, _, name = text.rpartition("#")
    path = Path(text)
    document = read_document(path, BenchDocument, what="a bench result", cure="give a file that bench --json wrote")
    records = [record for record in document.results if not name or record.model == name]
    if len(records) != 1:
        known = ", ".join(f"{path}#{record.model}" for record in document.results)
        raise InputError(f"{given}: one result is wanted, found {len(records)}; give one of {known}")
    return records[0], document.environment
