"""What a store holds, compared with what was before: each device and artifact by itself, the whole held together.

Two results are compared as ``compare A.json B.json`` does it, refused where their conditions differ; where a command
measured several processes on both sides, these are the samples, as a process keeps its luck for life. Of many rows some
would differ by chance, so p-values are adjusted over all of them (Holm, "A simple sequentially rejective multiple test
procedure", Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

import datetime
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from edgestill.bench_results import over_processes
from edgestill.comparison import MetricComparison, Verdict
from edgestill.devices.store import Store, StoredResult
from edgestill.errors import InputError
from edgestill.runtime.bench_comparison import METRICS, SIGNIFICANCE, slower_by
from edgestill.runtime.result_comparison import compare_samples, incomparable
from edgestill.store_results import (
    HistoryDocument,
    Series,
    StoreCompareDocument,
    StoreComparison,
    StoredPoint,
    Workload,
)

_OTHER_BYTES: Final = "models of other bytes"
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}(T[\d:]*Z?)?")
_HASH: Final = re.compile(r"[0-9a-f]{6,64}")
_WORSE: Final = ("slower", "larger")

FEWEST_PROCESSES: Final = 5
"""From so many processes on either side they are compared, not repetitions: fewer can't differ at the 1% level."""

Run = list[StoredResult]
"""One command's results of a workload, the latest first: a process each."""

_Key = tuple[str, str, int, int, int, int, str, str]
"""A workload as it is sorted: device, artifact, prompt tokens, depth, new tokens, threads, engine, settings."""


def compare_store(
    store: Store,
    *,
    devices: Sequence[str] = (),
    artifacts: Sequence[str] = (),
    metric: str = "answer_seconds",
    limit: float | None = None,
    baseline: str | None = None,
) -> StoreCompareDocument:
    """Compare the latest result of each workload with the one before, or with ``baseline``.

    A baseline is a date (``2026-01-31``, or a time: the last result up to then) or at least 6 digits of a bundle's
    hash (the last result of that bundle). ``limit`` is a fraction. Raises InputError for a metric, device, artifact or
    baseline that isn't there.
    """
    found = workloads(store, devices, artifacts)
    if baseline is not None:
        _check_baseline(baseline, found)
    rows = _rows(found, metric, limit, baseline)
    return StoreCompareDocument(metric=metric, limit=limit, baseline=baseline, rows=tuple(rows))


def history(
    store: Store,
    *,
    devices: Sequence[str] = (),
    artifacts: Sequence[str] = (),
    since: str | None = None,
    metric: str = "answer_seconds",
    limit: float = 0.05,
) -> HistoryDocument:
    """Return all results by workload, the earliest first. Raises as :func:`compare_store`."""
    found = workloads(store, devices, artifacts, since)
    changes = _rows(found, metric, limit, None)
    series = tuple(
        Series(workload=change.workload, points=tuple(map(point_of, reversed(runs_of(results)))), change=change)
        for change, results in zip(changes, found.values(), strict=True)
    )
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return HistoryDocument(created=now, metric=metric, limit=limit, series=series)


def workloads(
    store: Store, devices: Sequence[str] = (), artifacts: Sequence[str] = (), since: str | None = None
) -> dict[_Key, list[StoredResult]]:
    """Return the store's results by workload, the latest first; sorted by device, artifact and the rest.

    Raises InputError for a device or artifact without a result, naming those that have some.
    """
    results = [
        one
        for one in store.query(since=since)
        if (not devices or one.device in devices) and (not artifacts or one.artifact in artifacts)
    ]
    for what, asked, there in (
        ("device", devices, {one.device for one in results}),
        ("artifact", artifacts, {one.artifact for one in results}),
    ):
        for name in asked:
            if name not in there:
                known = sorted({getattr(one, what) for one in store.query()})
                raise InputError(f"{store.path}: no result of {what} {name!r}; it has {', '.join(known) or 'none'}")
    found: dict[_Key, list[StoredResult]] = {}
    for one in results:
        found.setdefault(_key(one), []).append(one)
    return dict(sorted(found.items()))


def runs_of(results: Sequence[StoredResult]) -> list[Run]:
    """Return results (of one workload, the latest first) by the command that measured them, the latest first."""
    found: dict[object, Run] = {}
    for one in results:
        found.setdefault((one.record.run or one.id, one.bundle), []).append(one)
    return list(found.values())


def point_of(run: Run) -> StoredPoint:
    """Return the figures of one command's processes."""
    records = [one.record for one in run]
    latest = run[0]
    return StoredPoint(
        measured=latest.measured,
        processes=len(run),
        bundle=latest.bundle,
        model_sha256=latest.record.model_sha256,
        cpu=latest.environment.cpu,
        load=over_processes([one.load_seconds for one in records]),
        ttft=over_processes([one.ttft_seconds for one in records]),
        prefill=over_processes([one.prefill_tokens_per_second for one in records]),
        decode=over_processes([one.decode_tokens_per_second for one in records]),
        token_p50=over_processes([one.inter_token_seconds.p50 for one in records]),
        answer=over_processes([one.answer_seconds for one in records]),
        peak_pss=over_processes([one.peak_pss_bytes for one in records]),
        failure=next((one.failure for one in records if one.failure), None),
        facts=latest.record.facts,
    )


def _rows(
    found: Mapping[_Key, Sequence[StoredResult]], metric: str, limit: float | None, baseline: str | None
) -> list[StoreComparison]:
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    rows = [_row(results, metric, baseline) for results in found.values()]
    compared = [row.comparison for row in rows if row.comparison is not None]
    known = [one.p_value for one in compared if one.p_value is not None]
    adjusted = dict(zip(known, holm(known), strict=True))
    return [_decided(row, adjusted, limit) for row in rows]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many they are, in their order."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _row(results: Sequence[StoredResult], metric: str, baseline: str | None) -> StoreComparison:
    latest, *others = runs_of(results)
    earlier = _before(others, baseline)
    row = StoreComparison(
        workload=workload_of(latest[0]),
        state="first",
        why="the first result measured so" if baseline is None else f"nothing measured so at {baseline}",
        before=None if earlier is None else point_of(earlier),
        latest=point_of(latest),
    )
    if earlier is None:
        return row
    there, here = earlier[0], latest[0]
    reasons = incomparable(there.record, there.environment, here.record, here.environment)
    # That a build has other bytes is what is asked about.
    against = [reason for reason in reasons if not reason.startswith(_OTHER_BYTES)]
    if against:
        return row.model_copy(update={"state": "refused", "why": f"can't be compared: {'; '.join(against)}"})
    sides = [[raw for one in run if (raw := one.record.raw.get(metric))] for run in (earlier, latest)]
    if not all(sides):
        said = _missing(here if not sides[1] else there, metric)
        return row.model_copy(update={"state": "no figure", "why": f"{metric} wasn't measured: {said}"})
    by_process = min(map(len, sides)) >= FEWEST_PROCESSES
    first, second = ([statistics.median(raw) for raw in side] if by_process else _middle(side) for side in sides)
    compared = compare_samples(metric, first, second)
    unit = "processes" if by_process else "repetitions"
    return row.model_copy(update={"state": "compared", "why": "", "unit": unit, "comparison": compared})


def _middle(side: Sequence[list[float]]) -> list[float]:
    """Return the repetitions of the process whose median is in the middle."""
    return sorted(side, key=statistics.median)[len(side) // 2]


def _decided(row: StoreComparison, adjusted: Mapping[float, float], limit: float | None) -> StoreComparison:
    """Return a compared row with its verdict."""
    compared = row.comparison
    if compared is None:
        return row
    p = None if compared.p_value is None else adjusted[compared.p_value]
    verdict: Verdict = compared.verdict if p is not None and p <= SIGNIFICANCE else "no difference shown"
    worse = slower_by(compared) if verdict in _WORSE else None
    return row.model_copy(
        update={
            "adjusted_p": p,
            "verdict": verdict,
            "slower": worse,
            "regressed": worse is not None and limit is not None and worse >= limit,
            "why": _verdict_text(compared, verdict),
        }
    )


def _verdict_text(compared: MetricComparison, verdict: Verdict) -> str:
    if verdict == "no difference shown":
        return verdict
    by = slower_by(compared)
    return f"{verdict} by {abs(by):.1%} in {compared.metric}"


def _before(earlier: Sequence[Run], baseline: str | None) -> Run | None:
    """Return the results to compare with; ``earlier`` are the latest first."""
    if baseline is None:
        return next(iter(earlier), None)
    if _is_date(baseline):
        # Text orders as time does; what is as long as the baseline and begins with it is of that day.
        return next((run for run in earlier if run[0].measured[: len(baseline)] <= baseline), None)
    return next((run for run in earlier if (run[0].bundle or "").startswith(baseline)), None)


def _check_baseline(baseline: str, found: Mapping[_Key, Sequence[StoredResult]]) -> None:
    if _is_date(baseline):
        return
    if not _HASH.fullmatch(baseline):
        raise InputError(
            f"--baseline {baseline!r} is neither a date (2026-01-31) nor at least 6 digits of a bundle's hash; "
            "edgestill report shows what the store has"
        )
    hashes = sorted({one.bundle for results in found.values() for one in results if one.bundle})
    matching = [one for one in hashes if one.startswith(baseline)]
    if len(matching) != 1:
        known = ", ".join(one[:12] for one in (matching or hashes)) or "none"
        which = "is the beginning of several bundles" if matching else "is no bundle of these results"
        raise InputError(f"--baseline {baseline} {which}; there are: {known}")


def _is_date(text: str) -> bool:
    return _DATE.fullmatch(text) is not None


def _missing(result: StoredResult, metric: str) -> str:
    figure = getattr(result.record, metric, None)
    return str(getattr(figure, "source", "") or "no samples of it are kept")


def workload_of(result: StoredResult) -> Workload:
    """Return what a stored result is a measurement of."""
    record = result.record
    return Workload(
        device=result.device,
        artifact=result.artifact,
        engine=record.engine,
        threads=record.threads,
        prompt_tokens=record.prompt_tokens,
        depth=record.depth,
        new_tokens=record.new_tokens,
        settings=record.settings,
    )


def _key(result: StoredResult) -> _Key:
    one = workload_of(result)
    told = str(sorted(one.settings.items()))
    return (one.device, one.artifact, one.prompt_tokens, one.depth, one.new_tokens, one.threads, one.engine, told)
