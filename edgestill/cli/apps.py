"""``edgestill app``: a complete project around a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("app")(write)


def write(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    template: Annotated[str, typer.Option(help="Kind of project: android, c, ios, python, web.")],
    out: Annotated[Path, typer.Option(help="The project's folder, new or empty.")],
    artifact: Annotated[
        list[str] | None,
        typer.Option(help="Artifact that the app carries (default: one of each format that it can use)."),
    ] = None,
    package: Annotated[str, typer.Option(help="Domain part of the app's identifier.")] = "org.example",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write a project that runs a bundle: an app for a phone, a web page, a service or a C program."""
    from edgestill.devices.apps import write_app

    with console.open_progress() as progress:
        made = write_app(bundle, template, out, artifacts=artifact or (), package=package, progress=progress)
    if as_json:
        document = {
            "schema": "edgestill.app/1",
            "template": made.template,
            "path": str(made.folder),
            "bundle": str(made.bundle),
            "artifacts": list(made.artifacts),
            "files": [path.as_posix() for path in made.files],
        }
        console.print_json(json.dumps(document, indent=2))
        return
    console.print_line(f"{made.folder}: {len(made.files)} files with {' and '.join(made.artifacts)}")
    console.say(f"how it goes on: {made.folder / 'README.md'}")
