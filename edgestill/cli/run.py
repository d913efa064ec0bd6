"""``edgestill run``: a recipe, the whole way; and the end of every such run on the console."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console
from edgestill.threads import spin_briefly


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML).")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/<name>).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report's JSON document.")] = False,
) -> None:
    """Run a recipe: distil, export, quantise, check, measure, pack, report. Continues a stopped run."""
    from edgestill.recipe import load_recipe

    loaded = load_recipe(recipe)
    run_and_show(recipe, out or Path("runs") / loaded.name, as_json)


def run_and_show(recipe: Path, out: Path, as_json: bool) -> None:
    """Run a recipe into ``out`` and print the table, or the report's JSON."""
    from edgestill.pipeline import run_recipe
    from edgestill.report import render_console_table

    spin_briefly()
    with console.open_progress() as progress:
        result = run_recipe(recipe, out, progress=progress)
    if as_json:
        console.print_json(result.document.to_json())
    else:
        console.print_rich(render_console_table(result.document))
    console.say(f"bundle: {result.bundle}")
    console.say(f"report: {result.report}")
    if not result.done:
        console.say(f"nothing changed since the last run: {len(result.skipped)} steps up to date, nothing done")
