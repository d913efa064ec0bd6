"""The JSON documents of what a store of results holds: compared with what was before, and over time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgestill.comparison import MetricComparison, Verdict
from edgestill.figure import Document, Figure, Record


class Workload(Record):
    """What was measured: results are compared, and stand in one line, only where all of it is equal."""

    device: str
    artifact: str
    engine: str
    threads: int
    prompt_tokens: int
    depth: int
    new_tokens: int
    settings: dict[str, bool | str] = Field(default_factory=dict)


class StoredPoint(Record):
    """What one command measured of a workload: figures are medians over its ``processes``.

    ``measured`` is the time (UTC), ``bundle`` its content_sha256 where that is known.
    """

    measured: str
    processes: int
    bundle: str | None
    model_sha256: str | None
    cpu: str
    load: Figure
    ttft: Figure
    prefill: Figure
    decode: Figure
    token_p50: Figure
    answer: Figure
    peak_pss: Figure
    failure: str | None = None
    facts: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


class StoreComparison(Record):
    """A workload's latest result against an earlier one.

    ``state``: ``compared``; ``first`` (there is nothing to compare it with), ``refused`` (they were taken under
    conditions that differ), ``no figure`` (the metric wasn't measured, as on an emulated device); ``why`` says it in
    words. ``unit`` is what the samples are: medians of ``processes`` where there are enough of them on both sides, else
    the ``repetitions`` of one process, whose luck is then taken for the build's. ``adjusted_p`` is Holm's, over all
    comparisons of the document, and decides the ``verdict``. ``slower`` is by which fraction the latest is shown to be
    worse, null where that isn't shown; ``regressed``: by the limit or more.
    """

    workload: Workload
    state: Literal["compared", "first", "refused", "no figure"]
    why: str
    before: StoredPoint | None
    latest: StoredPoint
    unit: Literal["processes", "repetitions"] | None = None
    comparison: MetricComparison | None = None
    adjusted_p: float | None = None
    verdict: Verdict | None = None
    slower: float | None = None
    regressed: bool = False


class StoreCompareDocument(Document):
    """What ``compare`` prints of a store: a row for each device, artifact and way of measuring.

    ``baseline`` is what the latest results were compared with: null for the results before them, else a date or the
    beginning of a bundle's hash. ``limit`` is a fraction, null where none was given.
    """

    schema_: Annotated[Literal["edgestill.compare-store/1"], Field(alias="schema")] = "edgestill.compare-store/1"
    metric: str
    limit: float | None
    baseline: str | None
    rows: tuple[StoreComparison, ...]


class Series(Record):
    """All results of one workload, the earliest first, and how the latest compares with the one before."""

    workload: Workload
    points: tuple[StoredPoint, ...]
    change: StoreComparison


class HistoryDocument(Document):
    """What ``report`` says of a store: device x artifact x time.

    ``metric`` is what changes are judged by; one that is worse by ``limit`` (a fraction) or more has regressed.
    """

    schema_: Annotated[Literal["edgestill.history/1"], Field(alias="schema")] = "edgestill.history/1"
    created: str
    metric: str
    limit: float
    series: tuple[Series, ...]
