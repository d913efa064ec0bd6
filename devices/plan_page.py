"""A plan as a picture (SVG), and as one HTML page with the table beside it. matplotlib is imported where it draws."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Final

from edgestill.devices.plan import PlanDocument, PlanRow
from edgestill.errors import InputError, MissingDependencyError
from edgestill.figure import Figure
from edgestill.storage import write_text

_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_HEAD: Final = ("artifact", "engine", "threads", "context", "decode", "TTFT", "peak memory", "accuracy", "fit")
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}.chosen{font-weight:600}.no{color:#888}figure{margin:1rem 0}"
)


def write_plan(plan: PlanDocument, path: Path) -> None:
    """Write a plan as .svg or .html, whole or not at all. Raises InputError for another suffix."""
    if path.suffix == ".svg":
        write_text(path, plan_svg(plan))
    elif path.suffix in (".html", ".htm"):
        write_text(path, plan_html(plan))
    else:
        raise InputError(f"--out {path}: suffix {path.suffix!r} is not .svg or .html; name one of them")


def plan_svg(plan: PlanDocument) -> str:
    """Return the picture: decode rate over peak memory, a mark for each way to run an artifact.

    What is on the frontier has its name and accuracy, the chosen one is a square; derived figures have their stated
    error as bars, and hollow marks. Raises MissingDependencyError.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise MissingDependencyError("a picture needs matplotlib; pip install 'edgestill[report]'") from error
    drawn = [row for row in plan.rows if row.decode.value and row.memory.value]
    names = list(dict.fromkeys(row.artifact for row in sorted(drawn, key=lambda row: row.artifact)))
    with matplotlib.rc_context({"svg.hashsalt": "edgestill", "svg.fonttype": "none", "font.size": 9}):
        canvas = Canvas(figsize=(8.0, 4.6), layout="constrained")
        axes = canvas.subplots()
        for row in drawn:
            colour = _COLOURS[names.index(row.artifact) % len(_COLOURS)]
            x, y = (row.memory.value or 0.0) / 1e6, row.decode.value or 0.0
            axes.errorbar(
                x,
                y,
                xerr=_bars(row.memory, 1e6),
                yerr=_bars(row.decode, 1.0),
                fmt="s" if row.chosen else "o",
                color=colour,
                ecolor=colour,
                elinewidth=0.7,
                alpha=1.0 if row.fit in ("fits", None) else 0.3,
                markersize=9 if row.chosen else 6,
                markerfacecolor=colour if row.decode.basis == "measured" else "white",
            )
            if row.frontier or row.chosen:
                accuracy = "" if row.accuracy is None else f", {cell(row.accuracy)}"
                label = f"{_plain(row.artifact)}, {row.threads} threads{accuracy}"
                axes.annotate(label, (x, y), xytext=(6, 6), textcoords="offset points")
        if plan.limits.min_decode_rate is not None:
            axes.axhline(plan.limits.min_decode_rate, color="#444444", linestyle="--", linewidth=0.8)
        if plan.limits.max_memory is not None:
            axes.axvline(plan.limits.max_memory / 1e6, color="#444444", linestyle="--", linewidth=0.8)
        axes.set_xlabel("peak memory, MB")
        axes.set_ylabel("decode, tokens/s")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{_plain(plan.bundle)} on {_plain(plan.title)} (hollow: derived)", loc="left")
        written = io.StringIO()
        FigureCanvasSVG(canvas).print_svg(  # type: ignore[no-untyped-call]
            written, metadata={"Date": None, "Creator": None}
        )
    text = written.getvalue()
    return text[text.index("<svg") :]


def plan_html(plan: PlanDocument) -> str:
    """Return one self-contained page: what is chosen or why nothing is, the picture, and every row."""
    chosen = plan.chosen
    verdict = plan.refusal if chosen is None else choice_text(chosen)
    rows = "".join(_table_row(row) for row in plan.rows)
    notes = "".join(f"<p class=no>{_escaped(note)}</p>" for note in plan.notes)
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    title = _escaped(f"{plan.bundle} on {plan.title}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p class=chosen>{_escaped(verdict or '')}</p><figure>{plan_svg(plan)}</figure>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}</html>\n"
    )


def choice_text(row: PlanRow) -> str:
    """Return the choice in one line."""
    return (
        f"{row.artifact} on {row.engine}, {row.threads} threads, context {row.context}: "
        f"{cell(row.decode)} decoding, {cell(row.ttft)} to the first token, {cell(row.memory)} of memory"
    )


def cell(figure: Figure | None) -> str:
    """Return a figure for a table: the value, and for a derived one its stated error."""
    if figure is None or figure.value is None:
        return "—"
    scale, unit, digits = (1e6, "MB", 0) if figure.unit == "bytes" else (1.0, figure.unit, 3)
    if figure.unit == "fraction":
        return f"{figure.value:.1%}"
    unit = {"seconds": "s"}.get(unit, unit)

    def number(value: float) -> str:
        return f"{value / scale:,.0f}" if digits == 0 or value / scale >= 100 else f"{value / scale:.3g}"

    if figure.basis == "measured":
        return f"{number(figure.value)} {unit}"
    if figure.ci95 is None:
        return f"{number(figure.value)} {unit} ({figure.basis})"
    return f"{number(figure.value)} {unit} ({figure.basis}, {number(figure.ci95[0])} to {number(figure.ci95[1])})"


def cells(row: PlanRow) -> list[str]:
    """Return a row of the table as text."""
    fit = row.fit or "not known"
    figures = [cell(row.decode), cell(row.ttft), cell(row.memory), cell(row.accuracy)]
    return [row.artifact, row.engine, str(row.threads), str(row.context), *figures, fit]


def heading() -> list[str]:
    """Return the names of the table's columns."""
    return list(_HEAD)


def _table_row(row: PlanRow) -> str:
    kind = "chosen" if row.chosen else "" if row.fit in ("fits", None) and not row.misses else "no"
    title = "; ".join((*row.misses, row.why, row.decode.source))
    inside = "".join(f"<td>{_escaped(text)}</td>" for text in cells(row))
    return f'<tr class="{kind}" title="{_escaped(title)}">{inside}</tr>'


def _bars(figure: Figure, scale: float) -> list[list[float]] | None:
    if figure.ci95 is None or figure.value is None:
        return None
    low, high = figure.ci95
    return [[max(0.0, figure.value - low) / scale], [max(0.0, high - figure.value) / scale]]


def _plain(text: str) -> str:
    """Return text that matplotlib shows as it is: a dollar sign would begin a formula."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text).replace("$", r"\$")


def _escaped(text: str) -> str:
    return html.escape("".join(sign if sign.isprintable() else "\ufffd" for sign in text))
