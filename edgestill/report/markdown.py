"""The report as Markdown, for a pull request or a wiki: the same words and numbers as the page."""

from __future__ import annotations

import re

from edgestill.report import summary
from edgestill.report.markdown_table import escape, table_lines
from edgestill.report.page import environment_lines, flat, recipe_yaml
from edgestill.results import ReportDocument


def render_markdown(document: ReportDocument) -> str:
    """Return the report as GitHub-flavoured Markdown; names and notes are escaped."""
    lines = [f"# {escape(document.name)}", "", f"Task {escape(document.task)} · {escape(document.created)}", ""]
    for card in summary.cards(document):
        interval = f" ({card.interval})" if card.interval else ""
        pair = f"teacher {card.teacher}, shipped {card.artifact}"
        lines.append(f"- **{card.value}** {escape(card.label)}{interval}: {escape(pair)}. {escape(card.basis)}")
    if document.headline is None:
        lines.append(summary.headline_sentence(document))
    if gain := summary.distillation_gain(document):
        lines += ["", escape(gain)]
    for table in summary.sections(document):
        lines += ["", f"## {table.title}", "", escape(table.intro), ""]
        rows = [
            [f"**{escape(row.name)}**{' (shipped)' if row.shipped else ''}", row.role]
            + [escape(f"{cell.text} ({cell.detail})" if cell.detail else cell.text) for cell in row.cells]
            for row in table.rows
        ]
        lines += table_lines(["model", "role", *map(escape, table.columns)], rows)
    if document.refused:
        lines += ["", "## Refused files", ""]
        lines += [f"- **{escape(file.name)}**: {escape('; '.join(file.reasons))}" for file in document.refused]
    if notes := summary.notes(document):
        lines += ["", "## Notes", ""]
        lines += [f"- **{escape(model)}**: {escape(note)}" for model, note in notes]
    fence = _fence(recipe := recipe_yaml(document))
    lines += ["", "## Recipe", "", f"{fence}yaml", recipe.rstrip("\n"), fence]
    about = [*flat(document.model_dump(mode="json")["provenance"]), *environment_lines(document.environment)]
    if about:
        lines += ["", "## Provenance and environment", ""]
        lines += table_lines(["what", "value"], [[escape(key), escape(value)] for key, value in about])
    return "\n".join(lines) + "\n"


def _fence(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)
