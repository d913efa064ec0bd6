"""``edgestill quickstart``: the whole road on an embedded task, with no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quickstart")(quickstart)


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("quickstart-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report's JSON document.")] = False,
) -> None:
    """Teach a tiny smart-home assistant from generated data and take it to a measured bundle."""
    from edgestill.cli.run import run_and_show
    from edgestill.quickstart import write_quickstart
    from edgestill.steps import INPUT_FOLDER, refuse_foreign_folder

    refuse_foreign_folder(out)
    run_and_show(write_quickstart(out / INPUT_FOLDER), out, as_json)
