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
    from pydantic import ValidationError

    from edgestill.errors import InputError
    from edgestill.report import render_console_table, write_report
    from edgestill.results import ReportDocument

    path = run / "report.json" if run.is_dir() else run
    try:
        document = ReportDocument.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); give the folder of a finished run") from error
    except ValidationError as error:
        raise InputError(f"{path}: not a report ({error.errors()[0]['msg']})") from error
    if out is not None:
        write_report(document, out)
    if as_json:
        console.print_json(document.to_json())
    else:
        console.print_rich(render_console_table(document))
