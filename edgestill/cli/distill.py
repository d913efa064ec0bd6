"""``edgestill distill``: a recipe as far as the student's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console
from edgestill.threads import spin_briefly


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("distill")(distill)


def distill(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML).")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/<name>).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train the student of a recipe and stop there; `run` on the same folder continues."""
    import json

    from edgestill.pipeline import distill_recipe
    from edgestill.recipe import load_recipe

    folder = out or Path("runs") / load_recipe(recipe).name
    spin_briefly()
    with console.open_progress() as progress:
        student = distill_recipe(recipe, folder, progress=progress)
    if as_json:
        document = {"schema": "edgestill.distill/1", "student": str(student.path), "sha256": student.sha256()}
        console.print_json(json.dumps(document, indent=2))
    else:
        console.print_line(f"student: {student.path}")
