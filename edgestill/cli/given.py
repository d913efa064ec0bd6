"""Which options of a command its user wrote: one that a case of it hasn't is refused by name, never ignored."""

from __future__ import annotations

import typer


def written(context: typer.Context) -> list[str]:
    """Return the names of the parameters that stood on the command line."""
    names = (str(parameter.name) for parameter in context.command.params)
    return [name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]


def option_text(name: str) -> str:
    """Return a parameter's name as its option."""
    return "--" + name.replace("_", "-")
