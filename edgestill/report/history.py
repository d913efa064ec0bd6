"""What a page or a text says of results over time: a matrix of what is latest, changes in words, a table a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgestill.figure import Figure
from edgestill.report.format import MISSING, basis_text, figure_text, interval_text, printable
from edgestill.report.table import Cell, Row, Section, figure_cell
from edgestill.store_results import HistoryDocument, Series, StoreComparison, StoredPoint, Workload

MOST_POINTS: Final = 8
"""Results of one series that its table shows; all are in the JSON document."""


def way(workload: Workload) -> str:
    """Return how something was measured, in words: ``128 + 64 tokens, 4 threads``."""
    threads = f"{workload.threads} thread{'' if workload.threads == 1 else 's'}"
    depth = f" after {workload.depth}" if workload.depth else ""
    kv = workload.settings.get("kv_precision")
    cache = f", KV cache {kv}" if kv else ""
    return printable(f"{workload.prompt_tokens} + {workload.new_tokens} tokens{depth}, {threads}{cache}")


def devices(document: HistoryDocument) -> list[str]:
    """Return the devices' names in order."""
    return list(dict.fromkeys(one.workload.device for one in document.series))


def artifacts(document: HistoryDocument) -> list[str]:
    """Return the artifacts' names, sorted."""
    return sorted({one.workload.artifact for one in document.series})


def subtitle(document: HistoryDocument) -> str:
    """Return how much there is, and from when to when."""
    points = [point.measured for one in document.series for point in one.points]
    if not points:
        return "no results"
    first, last = min(points), max(points)
    span = day(first) if day(first) == day(last) else f"{day(first)} to {day(last)}"
    counted = [
        _count(len(devices(document)), "device"),
        _count(len(artifacts(document)), "artifact"),
        _count(len(points), "result"),
    ]
    return printable(f"{', '.join(counted)}, {span}")


def worse(document: HistoryDocument) -> list[str]:
    """Return a sentence for each series whose latest result is worse than the one before, by the limit or more."""
    return [sentence(one.change) for one in document.series if one.change.regressed]


def others(document: HistoryDocument) -> list[str]:
    """Return a sentence for each series whose latest result differs otherwise from the one before."""
    changes = (one.change for one in document.series if not one.change.regressed)
    return [sentence(change) for change in changes if change.verdict not in (None, "no difference shown")]


def refused(document: HistoryDocument) -> list[str]:
    """Return a sentence for each pair that can't be compared."""
    return [sentence(one.change) for one in document.series if one.change.state == "refused"]


def sentence(change: StoreComparison) -> str:
    """Return a comparison in one sentence."""
    one = change.workload
    since = "" if change.before is None else f" (since {minute(change.before.measured)})"
    return printable(f"{one.artifact} on {one.device}, {way(one)}: {change.why}{since}")


def latest_section(document: HistoryDocument) -> Section:
    """Return the matrix of devices and artifacts: the latest decode rate, or memory where times mean nothing."""
    names = artifacts(document)
    rows = []
    for key in dict.fromkeys((one.workload.device, way(one.workload)) for one in document.series):
        found = {
            one.workload.artifact: one for one in document.series if (one.workload.device, way(one.workload)) == key
        }
        cells = tuple(_latest_cell(found[name]) if name in found else Cell(MISSING) for name in names)
        rows.append(Row(printable(key[0]), key[1], False, cells))
    return Section(
        "Latest",
        "Decode rate of the latest result, and how it compares with the one before; peak memory where a device's times "
        "mean nothing.",
        tuple(map(printable, names)),
        tuple(rows),
    )


def device_sections(document: HistoryDocument) -> Iterator[Section]:
    """Yield a table for each device: its artifacts' results, the latest first."""
    head = ("bundle", "TTFT", "prefill", "decode", "token p50", "answer", "peak PSS", "change")
    for name in devices(document):
        series = [one for one in document.series if one.workload.device == name]
        ways = list(dict.fromkeys(way(one.workload) for one in series))
        rows = tuple(row for one in series for row in _series_rows(one, len(ways) > 1))
        cpus = dict.fromkeys(point.cpu for one in series for point in one.points)
        hidden = sum(max(0, len(one.points) - MOST_POINTS) for one in series)
        more = f" {_count(hidden, 'older result')} not shown." if hidden else ""
        shared = f"; {ways[0]}" if len(ways) == 1 else ""
        yield Section(printable(name), printable(f"{', '.join(cpus)}{shared}.{more}"), head, rows)


def limit_text(document: HistoryDocument) -> str:
    """Return the limit as a percentage."""
    return f"{100 * document.limit:g}%"


def timeless(series: Series) -> bool:
    """Tell whether no result of a series has a decode rate."""
    return all(point.decode.value is None for point in series.points)


def minute(measured: str) -> str:
    """Return a time without its seconds."""
    return printable(measured[:16].replace("T", " "))


def day(measured: str) -> str:
    """Return a time's day."""
    return printable(measured[:10])


def change_text(change: StoreComparison) -> str:
    """Return a comparison for a cell: ``slower by 12.0%``, ``no difference shown``, ``not comparable``."""
    if change.state == "compared":
        return change.why.partition(" in ")[0]
    return {"first": "first", "refused": "not comparable", "no figure": "not measured"}[change.state]


def change_cell(change: StoreComparison) -> Cell:
    """Return how a latest result compares with the one before."""
    return Cell(change_text(change), "", printable(change.why), change.regressed)


def _latest_cell(series: Series) -> Cell:
    point = series.points[-1]
    figure = point.peak_pss if point.decode.value is None else point.decode
    detail = change_text(series.change)
    if point.decode.value is None:
        fits = point.facts.get("fits")
        detail = {True: "fits", False: "doesn't fit", None: "memory only"}[fits if isinstance(fits, bool) else None]
        if point.facts.get("thrashes"):
            detail = "thrashes"
    title = f"{_told(figure)}; {series.change.why}".rstrip("; ")
    return Cell(figure_text(figure), detail, printable(title), series.change.regressed)


def _series_rows(series: Series, told: bool) -> Iterator[Row]:
    """Yield the rows of a series; ``told``: with how each was measured."""
    how = f", {way(series.workload)}" if told else ""
    shown = list(reversed(series.points[-MOST_POINTS:]))
    for number, point in enumerate(shown):
        change = Cell("")
        if number == 0:
            change = change_cell(series.change)
        figures = (point.ttft, point.prefill, point.decode, point.token_p50, point.answer, point.peak_pss)
        cells = (Cell(_bundle(point)), *map(figure_cell, figures), change)
        yield Row(printable(series.workload.artifact), f"{minute(point.measured)}{how}", False, cells)


def _bundle(point: StoredPoint) -> str:
    return MISSING if point.bundle is None else printable(point.bundle[:8])


def _told(figure: Figure) -> str:
    interval = interval_text(figure)
    return f"95% interval {interval}; {basis_text(figure)}" if interval else basis_text(figure)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
