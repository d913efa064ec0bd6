"""The report's headline as a table for a console, printed at the end of a run."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from edgestill.figure import Figure
from edgestill.report import summary
from edgestill.report.format import MISSING, figure_text, printable, quantity
from edgestill.results import ModelRecord, ReportDocument


def render_console_table(document: ReportDocument) -> Table:
    """Return one row a model; the title is the headline and the caption the gain of distilling."""
    metric = summary.primary_metric(document)
    shipped = document.headline.artifact if document.headline else None
    table = Table(
        title=Text(summary.headline_sentence(document), style="bold"),
        caption=Text(summary.distillation_gain(document)),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("model", overflow="fold")
    score = summary.metric_label(metric) if metric else "score"
    for label in (score, "size", "answer", "decode", "PSS", "top-1"):
        table.add_column(Text(label), justify="right")
    for model in document.models:
        table.add_row(*(Text(value) for value in _values(model, metric)), style="bold" if model.name == shipped else "")
    return table


def _values(model: ModelRecord, metric: str | None) -> tuple[str, ...]:
    bench = model.bench
    role = "" if model.role == "artifact" else f" ({model.role})"
    return (
        printable(model.name) + (role if model.name != model.role else ""),
        _shown(model.metrics.get(metric) if metric else None),
        MISSING if model.size_bytes is None else quantity(model.size_bytes, "bytes"),
        _shown(model.answer_seconds),
        _shown(bench.decode_tokens_per_second if bench else None),
        _shown(bench.peak_pss_bytes if bench else None),
        _shown(model.parity.top1_agreement if model.parity else None),
    )


def _shown(figure: Figure | None) -> str:
    return MISSING if figure is None else figure_text(figure)
