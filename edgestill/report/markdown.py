"""The report as Markdown, for a pull request or a wiki: the same words and numbers as the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from edgestill.report import summary
from edgestill.report.format import printable
from edgestill.report.page import environment_lines, flat, recipe_yaml
from edgestill.results import ReportDocument

_MARKS: Final = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def render_markdown(document: ReportDocument) -> str:
    """Return the report as GitHub-flavoured Markdown; names and notes are escaped."""
    lines = [f"# {_text(document.name)}", "", f"Task {_text(document.task)} · {_text(document.created)}", ""]
    for card in summary.cards(document):
        interval = f" ({card.interval})" if card.interval else ""
        pair = f"teacher {card.teacher}, shipped {card.artifact}"
        lines.append(f"- **{card.value}** {_text(card.label)}{interval}: {_text(pair)}. {_text(card.basis)}")
    if document.headline is None:
        lines.append(summary.headline_sentence(document))
    if gain := summary.distillation_gain(document):
        lines += ["", _text(gain)]
    for table in summary.sections(document):
        lines += ["", f"## {table.title}", "", _text(table.intro), ""]
        rows = [
            [f"**{_text(row.name)}**{' (shipped)' if row.shipped else ''}", row.role]
            + [_text(f"{cell.text} ({cell.detail})" if cell.detail else cell.text) for cell in row.cells]
            for row in table.rows
        ]
        lines += _table(["model", "role", *map(_text, table.columns)], rows)
    if document.refused:
        lines += ["", "## Refused files", ""]
        lines += [f"- **{_text(file.name)}**: {_text('; '.join(file.reasons))}" for file in document.refused]
    if notes := summary.notes(document):
        lines += ["", "## Notes", ""]
        lines += [f"- **{_text(model)}**: {_text(note)}" for model, note in notes]
    fence = _fence(recipe := recipe_yaml(document))
    lines += ["", "## Recipe", "", f"{fence}yaml", recipe.rstrip("\n"), fence]
    about = [*flat(document.model_dump(mode="json")["provenance"]), *environment_lines(document.environment)]
    if about:
        lines += ["", "## Provenance and environment", ""]
        lines += _table(["what", "value"], [[_text(key), _text(value)] for key, value in about])
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _text(value: str) -> str:
    return _MARKS.sub(r"\\\1", " ".join(printable(value).split()))


def _fence(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)
