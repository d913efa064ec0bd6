"""Two results that ``bench --json`` wrote, at different times: may they be compared, and what differs?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edgestill.bench_results import BenchDocument, BenchRecord, Environment
from edgestill.comparison import CompareDocument, MetricComparison
from edgestill.documents import read_document
from edgestill.errors import InputError
from edgestill.figure import Figure
from edgestill.runtime.bench_comparison import METRICS, comparison, find, rounds_of, shared_metrics
from edgestill.runtime.intervals import bootstrap_interval
from edgestill.runtime.rank_tests import mann_whitney_p

MAX_CLOCK_DIFFERENCE: Final = 0.1
"""Results whose processors' mean clocks differ by more than this fraction aren't compared."""

MAX_TEMPERATURE_DIFFERENCE: Final = 15.0
"""Degrees Celsius between the hottest sensors, beyond which results aren't compared."""


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
    raw = {"first": rounds_of([one]), "second": rounds_of([other])}
    sides = {name: (raw["first"][name][0], raw["second"][name][0]) for name in shared_metrics(raw)}
    metrics = tuple(compare_samples(name, *samples) for name, samples in sides.items())
    return CompareDocument(
        environment=here,
        first=f"{first}: {one.model}",
        second=f"{second}: {other.model}",
        in_turn=False,
        rounds=1,
        decided_by=metric,
        verdict=find(metrics, metric).verdict,
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


def compare_samples(name: str, first: Sequence[float], second: Sequence[float]) -> MetricComparison:
    """Compare one metric of two processes that ran at different times, by their repetitions (at least one each)."""
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
    return comparison(name, first, second, ratio, p, p)


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
