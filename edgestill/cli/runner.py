"""``edgestill runner``: the native library and program, for this machine or another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console


def add_to(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Build the native runtime: a C library and a program.", no_args_is_help=True)
    group.callback()(lambda: None)  # with a single command typer would leave out its name
    group.command("build")(build)
    app.add_typer(group, name="runner")


def build(
    target: Annotated[str, typer.Option(help="host, android, or a machine: aarch64-linux-musl for one.")] = "host",
    out: Annotated[Path, typer.Option(help="Folder for edgestill-run, libedgestill and edgestill.h.")] = (
        Path("runner")
    ),
    source: Annotated[
        Path | None,
        typer.Option(help="llama.cpp's source, or llama-cpp-python's distribution of it (default: pip fetches that)."),
    ] = None,
    installed_llama: Annotated[
        bool, typer.Option("--installed-llama", help="Link to the installed llama-cpp-python's libraries.")
    ] = False,
    ndk: Annotated[Path | None, typer.Option(help="Android's NDK, for the target android.")] = None,
    toolchain: Annotated[
        Path | None, typer.Option(help="TOML file that names another compiler than zig: c, cpp, ar, flags.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Files compiled at a time (default: the cores).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compile libedgestill and edgestill-run. What was compiled before isn't compiled again."""
    from edgestill.runtime.native.build import build_native

    with console.open_progress() as progress:
        built = build_native(
            target,
            out,
            source=source,
            installed_llama=installed_llama,
            ndk=ndk,
            toolchain=toolchain,
            jobs=jobs,
            progress=progress,
        )
    if as_json:
        document = {
            "schema": "edgestill.runner/1",
            "target": built.target,
            "compiler": built.compiler,
            "units": built.units,
            "compiled": built.compiled,
            "files": [{"path": str(path), "size_bytes": path.stat().st_size} for path in built.files],
        }
        console.print_json(json.dumps(document, indent=2))
        return
    for path in built.files:
        console.print_line(f"{path}  {console.size(path.stat().st_size)}")
