"""The JSON document of ``compare``: two models, what differs between them, and how surely."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgestill.bench_results import Environment
from edgestill.figure import Document, Figure, Record

Verdict = Literal["faster", "slower", "larger", "smaller", "no difference shown"]


class MetricComparison(Record):
    """One metric of two models: each one's median, their ratio, how likely so much is by chance.

    ``ratio`` is the second by the first. ``p_value`` is two-sided: Wilcoxon's signed ranks where both ran in turn
    (``mann_whitney_p`` beside it), else Mann and Whitney's.
    """

    metric: str
    first: Figure
    second: Figure
    ratio: Figure
    p_value: float | None
    mann_whitney_p: float | None
    verdict: Verdict


class CompareDocument(Document):
    """What ``compare`` prints: ``second`` measured against ``first``.

    ``decided_by`` is the metric of the verdict, one for all: of many metrics some would differ by chance.
    ``in_turn``: both ran in this command, in processes that took turns; ``alternately``: these lived at once and
    answered in turn, not one after the other. ``rounds`` are the processes of each. ``forced`` are the reasons for
    which results from files can't be compared, when it was done all the same. ``raw`` has every round's samples, by
    side and metric.
    """

    schema_: Annotated[Literal["edgestill.compare/1"], Field(alias="schema")] = "edgestill.compare/1"
    environment: Environment
    first: str
    second: str
    in_turn: bool
    alternately: bool = False
    rounds: int
    decided_by: str
    verdict: Verdict
    metrics: tuple[MetricComparison, ...]
    forced: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    raw: dict[str, dict[str, list[list[float]]]]
