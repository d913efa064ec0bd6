"""Figure: a value with its unit, how many samples are behind it, its interval and its source; and what records are.

Every JSON document that a command prints or writes is one of the ``*Document`` models, so the published schemas
(``edgestill/schemas/*.json``) are generated from what is really written.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Basis = Literal["measured", "derived", "estimated"]


class Record(BaseModel):
    """Base of all records: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="null")


class Figure(Record):
    """A value that never travels alone.

    ``value`` is null when nothing was measured; ``n`` is how many samples are behind it; ``ci95`` is
    its 95% confidence interval where one was computed; ``source`` says what produced it.
    """

    value: float | None
    unit: str
    n: int = Field(ge=0)
    ci95: tuple[float, float] | None = None
    basis: Basis = "measured"
    source: str = ""

    @classmethod
    def missing(cls, unit: str, source: str) -> Figure:
        """Return a figure that was not measured; ``source`` says why."""
        return cls(value=None, unit=unit, n=0, source=source)

    @classmethod
    def median(cls, samples: Sequence[float], unit: str, source: str) -> Figure:
        """Return the median of samples with its distribution-free 95% interval (order statistics).

        The interval is the pair of order statistics whose binomial coverage is at least 95%
        (Conover, Practical Nonparametric Statistics, 3.2); null when n < 6, where none exists.
        """
        ordered = sorted(samples)
        n = len(ordered)
        if n == 0:
            return cls.missing(unit, source)
        interval = None
        tail = 0.0
        for rank in range(n // 2):
            tail += math.comb(n, rank) / 2**n
            if 2 * tail > 0.05:
                break
            interval = (ordered[rank], ordered[n - 1 - rank])
        return cls(value=statistics.median(ordered), unit=unit, n=n, ci95=interval, source=source)

    @classmethod
    def proportion(cls, hits: int, n: int, source: str) -> Figure:
        """Return hits/n as a fraction with the Wilson score interval (Wilson, 1927)."""
        if n == 0:
            return cls.missing("fraction", source)
        z = 1.959963984540054
        p = hits / n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        interval = (max(0.0, centre - half), min(1.0, centre + half))
        return cls(value=p, unit="fraction", n=n, ci95=interval, source=source)


class Document(Record):
    """What a command writes as JSON; its first key names schema and version."""

    def to_json(self) -> str:
        """Return the document as JSON text, schema first."""
        return self.model_dump_json(indent=2, by_alias=True)
