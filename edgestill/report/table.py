"""A table of a report: cells, rows, and one row a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgestill.figure import Figure
from edgestill.report.format import basis_text, figure_text, interval_text, printable
from edgestill.results import ModelRecord, ReportDocument

ROLE_NAMES: Final = {
    "teacher": "teacher",
    "student": "student",
    "baseline": "student without distillation",
    "artifact": "",
}


@dataclass(frozen=True)
class Cell:
    """One value of a table: the text, a smaller second line, what a pointer over it is told, and whether it is bad."""

    text: str
    detail: str = ""
    title: str = ""
    bad: bool = False


@dataclass(frozen=True)
class Row:
    """One model's line in a table."""

    name: str
    role: str
    shipped: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """One table: its title, a sentence on how to read it, the column labels and the rows."""

    title: str
    intro: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def rows(document: ReportDocument, cells: Callable[[ModelRecord], tuple[Cell, ...]]) -> tuple[Row, ...]:
    """Return one row a model, with what ``cells`` says of it."""
    shipped = document.headline.artifact if document.headline else None
    return tuple(
        Row(printable(model.name), _role(model), model.name == shipped, cells(model)) for model in document.models
    )


def _role(model: ModelRecord) -> str:
    role = ROLE_NAMES[model.role]
    return "" if role == model.name else role


def figure_cell(figure: Figure, *, text: str | None = None, detail: str = "") -> Cell:
    """Return a figure's cell; a pointer over it is told its interval and where it comes from."""
    interval = interval_text(figure)
    title = f"95% interval {interval}; {basis_text(figure)}" if interval else basis_text(figure)
    return Cell(figure_text(figure) if text is None else text, detail, title)
