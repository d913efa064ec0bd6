"""``edgestill report``: write a run's report again from its report.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder or its report.json.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write report.html, .json and .md to.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report's JSON document.")] = False,
) -> None:
    """Show a run's table, and with --out write its page and documents."""
    from edgestill.documents import read_document
    from edgestill.report import render_console_table, write_report
    from edgestill.results import ReportDocument

    path = run / "report.json" if run.is_dir() else run
    document = read_document(path, ReportDocument, what="a report", cure="give the folder of a finished run")
    if out is not None:
        write_report(document, out)
    if as_json:
        console.print_json(document.to_json())
    else:
        console.print_rich(render_console_table(document))
