"""A template: a folder with ``template.toml`` and the ``files`` of a project, of which those named ``*.jinja`` are
rendered.

    description = "one line"
    formats = ["gguf", "onnx"]      # artifacts that its app can use; by default one of each goes into it
    bundle = "assets/bundle"        # where the bundle's files go
    single = false                  # true: one artifact in all

    [copies]                        # files of ours: the C ABI's header
    "edgestill.h" = "native/include/edgestill.h"
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

import edgestill.runtime.native
from edgestill.errors import InputError
from edgestill.figure import Record
from edgestill.storage import files_below

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEMPLATES: Final = Path(__file__).resolve().parent / "templates"
OURS: Final = {"edgestill.h": Path(edgestill.runtime.native.__file__).resolve().parent / "include" / "edgestill.h"}
"""What a template may have copied into its project."""


class Description(Record):
    """``template.toml``."""

    description: str
    formats: tuple[Literal["gguf", "onnx"], ...] = Field(min_length=1)
    bundle: str
    single: bool = False
    copies: dict[Literal["edgestill.h"], str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Template:
    """A kind of project; ``files`` are relative to ``folder``/files."""

    name: str
    folder: Path
    about: Description
    files: tuple[Path, ...]


def template_names() -> tuple[str, ...]:
    """Return the names of all templates: the folders that have a ``template.toml``."""
    return tuple(sorted(path.parent.name for path in TEMPLATES.glob("*/template.toml")))


def read_template(name: str) -> Template:
    """Read a template by its name. Raises InputError that lists those there are."""
    if name not in template_names():
        raise InputError(f"template {name!r} is not one of {', '.join(template_names())}")
    folder = TEMPLATES / name
    value = tomllib.loads((folder / "template.toml").read_text(encoding="utf-8"))
    about = Description.model_validate(value)
    return Template(name, folder, about, tuple(files_below(folder / "files")))
