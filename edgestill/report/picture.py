"""The size-latency-accuracy picture: one bubble a model, as SVG to be placed inside the page.

Imports matplotlib inside the function that draws. Text stays text, ids are the same on every run,
and ink takes the page's own colours, so the picture follows light and dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgestill.figure import Figure
from edgestill.report.format import printable, quantity
from edgestill.report.labels import Box, place_labels
from edgestill.report.summary import metric_label, primary_metric
from edgestill.results import ModelRecord, ReportDocument

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins for the page's own colours.
INK: Final = "#010203"
MUTED: Final = "#040506"
GRID: Final = "#070809"
_PAGE_COLOURS: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    "#0072b2": "var(--teacher)",  # too dark for a dark page
}

# Colours that colour-blind readers can tell apart (Okabe and Ito, 2008), each with its own shape.
_KINDS: Final = {
    "teacher": ("#0072B2", "o", "teacher"),
    "student": ("#CC79A7", "s", "student"),
    "baseline": ("#D55E00", "v", "student without distillation"),
    "onnx": ("#009E73", "D", "ONNX file"),
    "gguf": ("#E69F00", "o", "GGUF file"),
    "artifact": ("#56B4E9", "P", "file"),
}
_SMALLEST_POINTS: Final = 3.5
_LARGEST_POINTS: Final = 24.0


@dataclass(frozen=True)
class Bubble:
    """One model in the picture; the radius is in points, its area in proportion to the size."""

    name: str
    kind: str
    seconds: float
    score: float
    interval: tuple[float, float] | None
    radius: float
    shipped: bool


@dataclass(frozen=True)
class Frame:
    """Size of one drawing in inches, and of its text in points."""

    width: float
    height: float
    font: float
    name: str


WIDE: Final = Frame(8.6, 5.2, 10.0, "wide")
NARROW: Final = Frame(4.1, 5.2, 9.0, "narrow")


def bubbles(document: ReportDocument) -> tuple[Bubble, ...]:
    """Return the models that have a latency, a score and a size, largest first."""
    metric = primary_metric(document)
    complete = [(model, *values) for model in document.models if (values := _values(model, metric)) is not None]
    largest = max((size for *_, size in complete), default=1.0)
    shipped = document.headline.artifact if document.headline else None
    found = [
        Bubble(
            printable(model.name),
            _kind(model),
            seconds,
            score.value or 0.0,
            score.ci95,
            max(_SMALLEST_POINTS, _LARGEST_POINTS * math.sqrt(size / largest)),
            model.name == shipped,
        )
        for model, seconds, score, size in complete
    ]
    return tuple(sorted(found, key=lambda bubble: (-bubble.radius, bubble.name)))


def left_out(document: ReportDocument) -> tuple[str, ...]:
    """Return the names of the models that the picture can't show."""
    metric = primary_metric(document)
    return tuple(printable(model.name) for model in document.models if _values(model, metric) is None)


def draw(document: ReportDocument, frame: Frame) -> str:
    """Return the picture as an ``<svg>`` element, or an empty string when no model can be shown.

    x is the seconds of one answer (log), y the primary metric, area the size. Raises ImportError
    when matplotlib isn't installed.
    """
    shown = bubbles(document)
    if not shown:
        return ""
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": f"edgestill-{frame.name}",
            "font.family": "DejaVu Sans",
            "font.size": frame.font,
            "text.parse_math": False,
        }
    ):
        figure = Canvas(figsize=(frame.width, frame.height), layout=None)
        figure.patch.set_alpha(0)
        FigureCanvasSVG(figure)
        left, bottom = 0.66 / frame.width, 0.62 / frame.height
        top = 1 - (0.14 + 0.2 * _legend_rows(shown, frame)) / frame.height
        axes = figure.add_axes((left, bottom, 1 - left - 0.12 / frame.width, top - bottom))
        _draw_axes(axes, document, shown)
        _draw_bubbles(axes, shown)
        _draw_labels(axes, shown, frame)
        _draw_legend(axes, shown, frame)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return for_page(text.getvalue(), frame)


def _values(model: ModelRecord, metric: str | None) -> tuple[float, Figure, float] | None:
    score = model.metrics.get(metric) if metric is not None else None
    seconds = model.answer_seconds.value if model.answer_seconds else None
    if score is None or score.value is None or seconds is None or seconds <= 0 or not model.size_bytes:
        return None
    return seconds, score, float(model.size_bytes)


def _kind(model: ModelRecord) -> str:
    if model.role != "artifact":
        return model.role
    prefix = model.name.partition("-")[0]
    return prefix if prefix in ("onnx", "gguf") else "artifact"


def _draw_axes(axes: Axes, document: ReportDocument, shown: tuple[Bubble, ...]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    metric = primary_metric(document) or ""
    unit = next(model.metrics[metric].unit for model in document.models if metric in model.metrics)
    low, high = min(b.seconds for b in shown), max(b.seconds for b in shown)
    spread = max(math.log10(high / low), 0.3)
    axes.set_xscale("log")
    axes.set_xlim(low / 10 ** (0.16 * spread), high * 10 ** (0.16 * spread))
    ends = [end for b in shown for end in (b.interval or (b.score, b.score))]
    bottom, top = min(ends), max(ends)
    margin = max((top - bottom) * 0.14, abs(top) * 0.004, 1e-9)
    axes.set_ylim(bottom - margin, top + margin)
    decades = math.log10(axes.get_xlim()[1] / axes.get_xlim()[0])
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, "seconds")))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, unit)))
    axes.set_xlabel("seconds for one answer (log scale; left is faster)", color=MUTED)
    axes.set_ylabel(metric_label(metric), color=MUTED)
    axes.set_facecolor("none")
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _tick(value: float, unit: str) -> str:
    if unit == "fraction":
        return "" if value > 1 + 1e-9 else f"{value * 100:g}%"
    text = quantity(value, unit)
    number, _, symbol = text.partition(" ")
    return f"{float(number.replace(',', '').replace('−', '-')):g} {symbol}".replace("-", "−") if symbol else text


def _draw_bubbles(axes: Axes, shown: tuple[Bubble, ...]) -> None:
    for bubble in shown:
        colour, marker, _ = _KINDS[bubble.kind]
        if bubble.interval is not None:
            axes.plot([bubble.seconds] * 2, bubble.interval, color=colour, linewidth=1.2, alpha=0.45, zorder=2)
        if bubble.shipped:
            halo = (2 * _reach(bubble)) ** 2
            axes.scatter([bubble.seconds], [bubble.score], s=halo, c="none", edgecolors=INK, linewidths=1.4, zorder=5)
        area = (2 * bubble.radius) ** 2
        place = ([bubble.seconds], [bubble.score])
        axes.scatter(*place, s=area, c=colour, marker=marker, alpha=0.35, linewidths=0, zorder=3)
        axes.scatter(*place, s=area, c="none", marker=marker, edgecolors=colour, linewidths=1.4, zorder=4)


def _reach(bubble: Bubble) -> float:
    """Radius that a bubble takes up, with the ring around the shipped one."""
    return bubble.radius + (5 if bubble.shipped else 0)


def _draw_labels(axes: Axes, shown: tuple[Bubble, ...], frame: Frame) -> None:
    to_points = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    window = axes.get_window_extent()
    area = Box(window.x0 * to_points, window.y0 * to_points, window.width * to_points, window.height * to_points)
    places = axes.transData.transform([(b.seconds, b.score) for b in shown]) * to_points
    circles = [(float(x), float(y), _reach(b)) for (x, y), b in zip(places, shown, strict=True)]
    texts = [f"{b.name} (shipped)" if b.shipped else b.name for b in shown]
    shortened = [text if len(text) <= 28 else f"{text[:27]}…" for text in texts]
    sizes = [(0.62 * frame.font * len(text), 1.25 * frame.font) for text in shortened]
    boxes = place_labels(circles, sizes, area, lines=_interval_boxes(axes, shown, to_points))
    inverse = axes.transData.inverted()
    for text, box, circle, bubble in zip(shortened, boxes, circles, shown, strict=True):
        centre = (box.x + box.width / 2, box.y + box.height / 2)
        anchor = box.nearest(circle[0], circle[1])
        distance = math.dist(anchor, circle[:2])
        if distance > circle[2] + 7:
            edge = [c + (a - c) * bubble.radius / distance for a, c in zip(anchor, circle[:2], strict=True)]
            line = inverse.transform([[part / to_points for part in end] for end in (edge, anchor)])
            axes.plot(line[:, 0], line[:, 1], color=MUTED, linewidth=0.7, zorder=6)
        x, y = inverse.transform([part / to_points for part in centre])
        weight = "bold" if bubble.shipped else "normal"
        axes.text(x, y, text, ha="center", va="center", color=INK, fontweight=weight, zorder=7)


def _interval_boxes(axes: Axes, shown: tuple[Bubble, ...], to_points: float) -> list[Box]:
    boxes = []
    for bubble in shown:
        if bubble.interval is not None:
            ends = axes.transData.transform([(bubble.seconds, end) for end in bubble.interval]) * to_points
            boxes.append(Box(float(ends[0][0]) - 1, float(ends[0][1]), 2, float(ends[1][1] - ends[0][1])))
    return boxes


def _legend_rows(shown: tuple[Bubble, ...], frame: Frame) -> int:
    kinds = {bubble.kind for bubble in shown}
    columns = 5 if frame.width > 6 else 2
    return -(-len(kinds) // columns)


def _draw_legend(axes: Axes, shown: tuple[Bubble, ...], frame: Frame) -> None:
    from matplotlib.lines import Line2D

    present = [kind for kind in _KINDS if any(bubble.kind == kind for bubble in shown)]
    handles = [
        Line2D([], [], linestyle="none", marker=_KINDS[kind][1], color=_KINDS[kind][0], label=_KINDS[kind][2])
        for kind in present
    ]
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=5 if frame.width > 6 else 2,
        frameon=False,
        borderpad=0.2,
        handletextpad=0.1,
        columnspacing=1.2,
        labelcolor=MUTED,
        fontsize=frame.font - 0.5,
    )


def for_page(svg: str, frame: Frame) -> str:
    """Cut the XML prologue, hand ink over to the page's colours, and say what the picture is."""
    svg = svg[svg.index("<svg") :].strip()
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    svg = svg.replace("'DejaVu Sans'", "inherit").replace("DejaVu Sans", "inherit")
    head, _, rest = svg.partition(">")
    return f'{head} class="picture-{frame.name}" role="img" aria-labelledby="picture-caption">{rest}'
