"""What a report says, before it is said in HTML, Markdown or on a console: cards, tables, sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgestill.figure import Figure
from edgestill.report.format import MISSING, bare_text, basis_text, figure_text, interval_text, printable, quantity
from edgestill.report.parity_tables import cases_section, parity_section
from edgestill.report.table import Cell, Section, figure_cell, rows
from edgestill.results import ModelRecord, ReportDocument


@dataclass(frozen=True)
class Card:
    """One headline figure; the shares (0 to 1, of the larger) draw teacher and shipped file as two bars."""

    label: str
    value: str
    interval: str
    basis: str
    teacher: str
    artifact: str
    teacher_share: float | None
    artifact_share: float | None


def primary_metric(document: ReportDocument) -> str | None:
    """Return the metric of the headline, or the first that any model was scored on."""
    if document.headline is not None:
        return document.headline.metric
    return next((name for model in document.models for name in model.metrics), None)


def metric_names(document: ReportDocument) -> tuple[str, ...]:
    """Return all metrics, the primary one first, the others as they first appear."""
    first = primary_metric(document)
    names = dict.fromkeys(name for model in document.models for name in model.metrics)
    return tuple(sorted(names, key=lambda name: name != first))


def metric_label(name: str) -> str:
    """Return a metric's name as words: ``valid_json`` is ``valid JSON``."""
    words = printable(name).replace("_", " ")
    return words.replace("json", "JSON").replace("rouge", "ROUGE")


def headline_sentence(document: ReportDocument) -> str:
    """Return the headline in one sentence, for a title or a console."""
    headline = document.headline
    if headline is None:
        return "No artifact was compared with a teacher in this run."
    parts = [f"{card.value} {card.label}" for card in cards(document)]
    return f"{printable(headline.artifact)} against {teacher_name(document)}: {', '.join(parts)}"


def teacher_name(document: ReportDocument) -> str:
    """Return how to speak of the headline's teacher: ``the teacher``, with its name where it has one."""
    name = document.headline.teacher if document.headline else ""
    return "the teacher" if name in ("", "teacher") else f"the teacher {printable(name)}"


def cards(document: ReportDocument) -> tuple[Card, ...]:
    """Return accuracy kept, latency saved and memory saved; empty when there is no headline."""
    headline = document.headline
    if headline is None:
        return ()
    models = {model.name: model for model in document.models}
    teacher, artifact = models.get(headline.teacher), models.get(headline.artifact)
    metric = metric_label(headline.metric)

    def pair(read: Callable[[ModelRecord], Figure | None]) -> tuple[Figure | None, Figure | None]:
        return (read(teacher) if teacher else None), (read(artifact) if artifact else None)

    accuracy = pair(lambda model: model.metrics.get(headline.metric))
    latency = pair(lambda model: model.answer_seconds)
    memory = pair(lambda model: model.bench.weights_bytes if model.bench else None)
    return (
        _card(f"of {metric} kept", headline.accuracy_retention, accuracy),
        _saved("latency per answer", headline.latency_reduction, latency),
        _saved("memory for the weights", headline.memory_reduction, memory),
    )


def distillation_gain(document: ReportDocument) -> str:
    """Return what distilling added over the same student trained on gold answers alone, in words."""
    metric = primary_metric(document)
    by_role = {model.role: model for model in reversed(document.models)}
    student, baseline = by_role.get("student"), by_role.get("baseline")
    if metric is None or student is None or baseline is None:
        return ""
    with_teacher, alone = student.metrics.get(metric), baseline.metrics.get(metric)
    if with_teacher is None or alone is None or with_teacher.value is None or alone.value is None:
        return ""
    gain = document.distilling_gain
    if gain is None or gain.value is None:
        return ""
    label = metric_label(metric)
    reached = (
        f"the distilled student reaches {figure_text(with_teacher)} {label}, "
        f"the same student trained on the gold answers alone {figure_text(alone)}"
    )
    if not gain.value:
        return f"Distilling changed nothing: {reached}."
    direction = "Distilling raised" if gain.value > 0 else "Distilling lowered"
    sentence = f"{direction} {label} by {_points(abs(gain.value), gain.unit)}: {reached}."
    if gain.ci95 is None:
        return sentence
    low, high = gain.ci95 if gain.value > 0 else (-gain.ci95[1], -gain.ci95[0])
    between = f"On the same {gain.n} test rows the difference's 95% interval is {_points(low, gain.unit, bare=True)} to"
    chance = ": it holds 0, so this may be chance." if low <= 0 else "."
    return f"{sentence} {between} {_points(high, gain.unit)}{chance}"


def _points(value: float, unit: str, *, bare: bool = False) -> str:
    if unit != "fraction":
        return quantity(value, unit)
    return f"{value * 100:.1f}" + ("" if bare else " points")


def sections(document: ReportDocument) -> tuple[Section, ...]:
    """Return the tables: quality and size, speed and memory, parity (where a model has one)."""
    metrics = metric_names(document)
    quality = Section(
        "Quality and size",
        "Every model answered the same test questions; the small line is the 95% interval.",
        (*(metric_label(name) for name in metrics), "parameters", "size"),
        rows(document, lambda model: _quality_cells(model, metrics)),
    )
    found = [quality]
    if any(model.bench for model in document.models):
        found.append(_speed_section(document))
    if any(model.parity for model in document.models):
        found.append(parity_section(document))
    if any(model.parity and model.parity.cases for model in document.models):
        found.append(cases_section(document))
    return tuple(found)


def notes(document: ReportDocument) -> tuple[tuple[str, str], ...]:
    """Return (model, note) for everything a reader should know about a row: fallbacks, warnings."""
    found = []
    for model in document.models:
        warnings = model.bench.warnings if model.bench else ()
        parity = model.parity
        reasons = () if parity is None else (*parity.reasons, *parity.notes)
        by_case = () if parity is None else tuple(case.note for case in parity.cases if case.positions and case.note)
        found += [(printable(model.name), printable(note)) for note in (*model.notes, *reasons, *by_case, *warnings)]
    return tuple(dict.fromkeys(found))


def _speed_section(document: ReportDocument) -> Section:
    benches = [model.bench for model in document.models if model.bench]
    shapes = sorted({(bench.prompt_tokens, bench.new_tokens, bench.repetitions) for bench in benches})
    intro = "; ".join(
        f"{prompt} prompt tokens, {new} new tokens, {repetitions} repetitions in a fresh process"
        for prompt, new, repetitions in shapes
    )
    columns = ("engine", "load", "TTFT", "prefill, tokens/s", "decode, tokens/s", "inter-token", "answer", "peak PSS")
    return Section("Speed and memory", f"{intro}.", columns, rows(document, _speed_cells))


def _quality_cells(model: ModelRecord, metrics: tuple[str, ...]) -> tuple[Cell, ...]:
    scored = [_score(model.metrics.get(name), name) for name in metrics]
    parameters = Cell(MISSING, title="parameter count not recorded")
    if model.parameters is not None:
        parameters = Cell(_count(model.parameters), title=f"{model.parameters:,} parameters")
    size = Cell(MISSING, title="no file of its own")
    if model.size_bytes is not None:
        size = Cell(quantity(model.size_bytes, "bytes"), title=f"{model.size_bytes:,} bytes")
    return (*scored, parameters, size)


def _speed_cells(model: ModelRecord) -> tuple[Cell, ...]:
    bench = model.bench
    if bench is None:
        return (Cell(MISSING, title="not benchmarked"),) * 8
    threads = f"{bench.threads} thread{'' if bench.threads == 1 else 's'}"
    p90, rss = bench.inter_token_seconds.p90, bench.peak_rss_bytes
    answer = model.answer_seconds or bench.answer_seconds
    return (
        Cell(printable(bench.engine), threads),
        figure_cell(bench.load_seconds),
        figure_cell(bench.ttft_seconds),
        figure_cell(bench.prefill_tokens_per_second, text=bare_text(bench.prefill_tokens_per_second)),
        figure_cell(bench.decode_tokens_per_second, text=bare_text(bench.decode_tokens_per_second)),
        figure_cell(bench.inter_token_seconds.p50, detail=f"p90 {figure_text(p90)}"),
        figure_cell(answer, detail=interval_text(answer)),
        figure_cell(bench.peak_pss_bytes, detail=f"RSS {figure_text(rss)}"),
    )


def _score(figure: Figure | None, metric: str) -> Cell:
    if figure is None:
        return Cell(MISSING, title=f"{metric_label(metric)} was not evaluated")
    return figure_cell(figure, detail=interval_text(figure))


def _saved(what: str, reduction: Figure, values: tuple[Figure | None, Figure | None]) -> Card:
    if reduction.value is not None and reduction.value < 0:
        grown = None if reduction.ci95 is None else (-reduction.ci95[1], -reduction.ci95[0])
        return _card(f"more {what}", reduction.model_copy(update={"value": -reduction.value, "ci95": grown}), values)
    return _card(f"less {what}", reduction, values)


def _card(label: str, figure: Figure, values: tuple[Figure | None, Figure | None]) -> Card:
    teacher, artifact = values
    known = [value.value for value in values if value is not None and value.value is not None]
    largest = max(known, default=0.0)

    def share(value: Figure | None) -> float | None:
        if value is None or value.value is None or largest <= 0:
            return None
        return max(0.0, value.value / largest)

    interval = interval_text(figure)
    return Card(
        label,
        figure_text(figure),
        f"95% interval {interval}" if interval else ("" if figure.value is None else f"no interval (n = {figure.n})"),
        basis_text(figure),
        figure_text(teacher) if teacher else MISSING,
        figure_text(artifact) if artifact else MISSING,
        share(teacher),
        share(artifact),
    )


def _count(number: int) -> str:
    for divisor, symbol in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= divisor:
            return f"{number / divisor:.3g} {symbol}"
    return str(number)
