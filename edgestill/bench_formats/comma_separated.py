"""CSV: one row a model and metric, as spreadsheets pivot and pandas reads.

Quoting, and lines that end in CR LF, by RFC 4180. A spreadsheet takes text that begins with ``= + - @`` for a formula
and runs it: an apostrophe goes before such text, also where it is a model's name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from edgestill.bench_formats import register
from edgestill.bench_results import BenchDocument, BenchFailure, BenchRecord
from edgestill.figure import Figure, Record

COLUMNS: Final = (
    *("model", "engine", "threads", "prompt_tokens", "new_tokens", "repetitions"),
    *("metric", "value", "unit", "n", "ci95_low", "ci95_high", "basis", "source", "device", "failure"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@register("csv", suffixes=(".csv",))
def render_csv(document: BenchDocument) -> str:
    """Return a head and the rows; what wasn't measured has an empty value, and its source says why.

    A model of which nothing was measured is one row, with its name and ``failure``.
    """
    return csv_text(document.results, document.failures)


def csv_text(results: Sequence[BenchRecord], failures: Sequence[BenchFailure]) -> str:
    """Return the head and the rows of some results and failures."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    for record in results:
        about = (*(getattr(record, name) for name in COLUMNS[:6]),)
        for metric, figure in figures(record):
            low, high = figure.ci95 or (None, None)
            found = (metric, figure.value, figure.unit, figure.n, low, high, figure.basis, figure.source)
            rows.writerow(map(_cell, (*about, *found, record.device, record.failure)))
    for failed in failures:
        rows.writerow(map(_cell, (failed.model, *[None] * (len(COLUMNS) - 3), failed.device, failed.error)))
    return text.getvalue()


def figures(record: BenchRecord) -> Iterator[tuple[str, Figure]]:
    """Yield every figure of a record with the path of its names: ``inter_token_seconds.p90``."""
    yield from _figures(record, "")


def _figures(record: Record | Mapping[str, object], path: str) -> Iterator[tuple[str, Figure]]:
    named = (
        record if isinstance(record, Mapping) else {name: getattr(record, name) for name in type(record).model_fields}
    )
    for name, value in named.items():
        if isinstance(value, Figure):
            yield path + name, value
        elif isinstance(value, Record | Mapping):
            yield from _figures(value, f"{path}{name}.")


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
