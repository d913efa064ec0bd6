"""Markdown: a table as GitHub shows it, for a pull request or a wiki, and below it what is to be known of it."""

from __future__ import annotations

from collections.abc import Iterator

from edgestill.bench_formats import register
from edgestill.bench_results import BenchDocument, BenchRecord, Environment
from edgestill.figure import Figure
from edgestill.report.format import MISSING, figure_text, interval_text, quantity
from edgestill.report.markdown_table import escape, table_lines

_HEAD = ("model", "engine", "size", "load", "TTFT", "prefill", "decode", "token p50", "token p90", "peak PSS")


@register("markdown", suffixes=(".md", ".markdown"))
def render_markdown(document: BenchDocument) -> str:
    """Return the table with 95% intervals, then failures, warnings and the environment.

    A model of which nothing was measured has a row too; each failure is told in full below.
    """
    rows = [_row(record) for record in document.results]
    rows += [[escape(failure.model), "**failed**", *[MISSING] * (len(_HEAD) - 2)] for failure in document.failures]
    lines = table_lines(_HEAD, rows)
    if notes := list(_notes(document)):
        lines += ["", *notes]
    lines += ["", _environment(document.environment, document.created)]
    return "\n".join(lines) + "\n"


def _row(record: BenchRecord) -> list[str]:
    failed = f", **failed** after {record.repetitions} repetitions" if record.failure else ""
    threads = f"{record.threads} thread{'' if record.threads == 1 else 's'}"
    about = [escape(record.model), escape(f"{record.engine}, {threads}") + failed]
    return [*about, quantity(record.size_bytes, "bytes"), *map(_cell, record.main_figures.values())]


def _cell(figure: Figure) -> str:
    interval = interval_text(figure)
    return escape(figure_text(figure) + (f" ({interval})" if interval else ""))


def _notes(document: BenchDocument) -> Iterator[str]:
    for record in document.results:
        if record.failure:
            yield f"- **{escape(record.model)} failed**: {escape(record.failure)}"
        yield from (f"- {escape(record.model)}: {escape(warning)}" for warning in record.warnings)
    for failure in document.failures:
        yield f"- **{escape(failure.model)} failed**: {escape(failure.error)}"


def _environment(environment: Environment, created: str | None) -> str:
    parts = [environment.cpu, f"{environment.cores} cores"]
    parts += [quantity(environment.memory_bytes, "bytes")] if environment.memory_bytes is not None else []
    parts += [environment.system, *([f"Python {environment.python}"] if environment.python else [])]
    parts += [f"{name} {version}" for name, version in sorted(environment.versions.items())]
    parts.append(f"governor {environment.governor or 'unknown'}")
    if (limits := environment.limits) is not None:
        parts += [f"CPU quota {limits.cpu_quota:g} cores"] if limits.cpu_quota is not None else []
        if limits.memory_bytes is not None:
            parts.append(f"memory limit {quantity(limits.memory_bytes, 'bytes')}")
        parts += ["pinned"] if limits.pinned else []
    if (repository := environment.repository) is not None:
        parts.append(f"commit {repository.commit[:12]}{' with changes' if repository.dirty else ''}")
    when = f", {created}" if created else ""
    return escape(f"Medians with 95% intervals where there are any. {', '.join(parts)}{when}.")
