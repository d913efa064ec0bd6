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
    preview: Annotated[
        int, typer.Option(min=0, help="Train nothing: show so many rows, and what of them is learnt.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train the student of a recipe and stop there; `run` on the same folder continues."""
    import json

    if preview:
        _preview(recipe, out, preview, as_json)
        return
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


def _preview(recipe: Path, out: Path | None, count: int, as_json: bool) -> None:
    import dataclasses
    import json

    from rich.text import Text

    from edgestill.previewing import preview_recipe
    from edgestill.recipe import load_recipe

    folder = out or Path("runs") / load_recipe(recipe).name
    with console.open_progress() as progress:
        rows = preview_recipe(recipe, folder, count, progress=progress)
    if as_json:
        document = {"schema": "edgestill.preview/1", "rows": [dataclasses.asdict(row) for row in rows]}
        console.print_json(json.dumps(document, ensure_ascii=False, indent=2))
        return
    for row in rows:
        shown = Text(f"{row.source}: {row.learnt} of {row.tokens} tokens are learnt\n", style="bold")
        for text, learnt in row.pieces:
            # The brackets show it where there is no colour.
            shown.append(f"⟦{text}⟧" if learnt else text, style="black on green" if learnt else "dim")
        console.print_rich(shown)
