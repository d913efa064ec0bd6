"""Results over time as a picture: a panel a device, a line an artifact. matplotlib is imported where it draws."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edgestill.report import history
from edgestill.report.format import printable
from edgestill.report.picture import GRID, INK, MUTED, NARROW, WIDE, Frame, for_page
from edgestill.store_results import HistoryDocument, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that colour-blind readers can tell apart (Okabe and Ito, 2008), each with its own shape.
_MARKS: Final = (
    *(("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "D"), ("#CC79A7", "v")),
    *(("#D55E00", "^"), ("#56B4E9", "P"), ("#888888", "X")),
)
_DASHES: Final = ("-", "--", ":", "-.")
_PANEL_INCHES: Final = 2.1
MOST_PANELS: Final = 12


def drawn(document: HistoryDocument) -> list[str]:
    """Return the devices that get a panel."""
    return history.devices(document)[:MOST_PANELS]


def draw(document: HistoryDocument) -> list[str]:
    """Return the picture in a wide and a narrow form; none without results. Raises ImportError without matplotlib."""
    return [_draw(document, frame) for frame in (WIDE, NARROW)] if document.series else []


def _draw(document: HistoryDocument, frame: Frame) -> str:
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    names, artifacts = drawn(document), history.artifacts(document)
    columns = 2 if frame.width > 6 and len(names) > 1 else 1
    rows = -(-len(names) // columns)
    legend_columns = 4 if frame.width > 6 else 2
    legend = 0.12 + 0.22 * -(-len(artifacts) // legend_columns)
    frame = replace(frame, height=rows * _PANEL_INCHES + legend)
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": f"edgestill-history-{frame.name}",
            "font.family": "DejaVu Sans",
            "font.size": frame.font,
            "text.parse_math": False,
        }
    ):
        canvas = Canvas(figsize=(frame.width, frame.height))
        canvas.set_layout_engine("constrained", rect=(0, 0, 1, 1 - legend / frame.height), h_pad=0.1, w_pad=0.1)
        canvas.patch.set_alpha(0)
        FigureCanvasSVG(canvas)
        panels = canvas.subplots(rows, columns, squeeze=False).flatten().tolist()
        span = _span(document)
        for name, axes in zip(names, panels, strict=False):
            _draw_panel(axes, [one for one in document.series if one.workload.device == name], artifacts, span)
            axes.set_title(printable(name), loc="left", color=INK, fontweight="bold", fontsize=frame.font + 1)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        handles = [
            Line2D([], [], marker=marker, color=colour, label=printable(name))
            for name, (colour, marker) in ((name, _mark(artifacts, name)) for name in artifacts)
        ]
        canvas.legend(handles=handles, loc="upper left", ncols=legend_columns, frameon=False, labelcolor=MUTED)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return for_page(text.getvalue(), frame)


def _draw_panel(
    axes: Axes,
    series: Sequence[Series],
    artifacts: Sequence[str],
    span: tuple[float, float],
) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    memory = all(map(history.timeless, series))
    ways = list(dict.fromkeys(history.way(one.workload) for one in series))
    for one in series:
        colour, marker = _mark(artifacts, one.workload.artifact)
        dash = _DASHES[ways.index(history.way(one.workload)) % len(_DASHES)]
        found = [
            (moment(point.measured), figure.value / scale, figure.ci95, scale)
            for point in one.points
            for figure, scale in [(point.peak_pss, 1e6) if memory else (point.decode, 1.0)]
            if figure.value is not None
        ]
        if not found:
            continue
        times, values = [at for at, *_ in found], [value for _, value, *_ in found]
        axes.plot(times, values, color=colour, marker=marker, markersize=4.5, linewidth=1.3, linestyle=dash, zorder=3)
        for at, value, interval, scale in found:
            low, high = interval or (value * scale, value * scale)
            axes.plot([at, at], [low / scale, high / scale], color=colour, linewidth=3, alpha=0.3, zorder=2)
        if one.change.regressed:
            axes.plot(times[-1:], values[-1:], "o", markersize=13, mfc="none", mec="#D55E00", mew=1.6, zorder=4)
    axes.set_ylim(bottom=0)
    axes.set_xlim(*span)
    locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.xaxis.get_offset_text().set_color(MUTED)
    axes.set_ylabel("peak PSS, MB" if memory else "decode, tokens/s", color=MUTED)
    axes.set_facecolor("none")
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def moment(measured: str) -> float:
    """Return a stored time in days since 1970, as matplotlib counts them; a store may hold a day alone."""
    text = measured.removesuffix("Z")
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return found.replace(tzinfo=datetime.timezone.utc).timestamp() / 86_400


def _span(document: HistoryDocument) -> tuple[float, float]:
    """Return the same ends of time for every panel, with a margin of at least a minute."""
    times = [moment(point.measured) for one in document.series for point in one.points]
    margin = max((max(times) - min(times)) * 0.06, 1 / 1440)
    return min(times) - margin, max(times) + margin


def _mark(artifacts: Sequence[str], name: str) -> tuple[str, str]:
    return _MARKS[artifacts.index(name) % len(_MARKS)]
