"""edgestill: a language model from a teacher to a device.

The public names; importing this package loads none of them until it is asked for one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgestill.artifact import Artifact, Checkpoint
    from edgestill.bundle import Bundle, Manifest, open_bundle, verify_files
    from edgestill.dataset import Example, Message, read_examples
    from edgestill.errors import EdgestillError
    from edgestill.figure import Figure
    from edgestill.pipeline import run_recipe
    from edgestill.recipe import Recipe, load_recipe
    from edgestill.runtime.sampling import Sampling
    from edgestill.runtime.session import Generation, GenerationOptions, Session

__all__ = [
    "Artifact",
    "Bundle",
    "Checkpoint",
    "EdgestillError",
    "Example",
    "Figure",
    "Generation",
    "GenerationOptions",
    "Manifest",
    "Message",
    "Recipe",
    "Sampling",
    "Session",
    "load_recipe",
    "open_bundle",
    "read_examples",
    "run_recipe",
    "verify_files",
]

_MODULES = {
    "artifact": ("Artifact", "Checkpoint"),
    "bundle": ("Bundle", "Manifest", "open_bundle", "verify_files"),
    "dataset": ("Example", "Message", "read_examples"),
    "errors": ("EdgestillError",),
    "pipeline": ("run_recipe",),
    "recipe": ("Recipe", "load_recipe"),
    "results": ("Figure",),
    "runtime.sampling": ("Sampling",),
    "runtime.session": ("Generation", "GenerationOptions", "Session"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edgestill.{_HOME[name]}"), name)
    globals()[name] = value
    return value
