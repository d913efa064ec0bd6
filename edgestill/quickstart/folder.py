"""The quickstart's input folder: the recipe and its four data files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from edgestill.quickstart.generator import write_dataset
from edgestill.storage import whole_folder

RECIPE: Final = "recipe.yaml"
_TRAIN: Final = 6_200
_VALIDATION: Final = 300
_TEST: Final = 600
_FRESH: Final = 4_000
_SEED: Final = 0


def write_quickstart(folder: Path) -> Path:
    """Write the recipe and its data into ``folder``, whole or not at all, and return the recipe's path.

    The same bytes each time. Raises DiskFullError.
    """
    with whole_folder(folder) as partial:
        write_dataset(partial, train=_TRAIN, validation=_VALIDATION, test=_TEST, fresh=_FRESH, seed=_SEED)
        text = resources.files("edgestill.quickstart").joinpath(RECIPE).read_text(encoding="utf-8")
        (partial / RECIPE).write_text(text, encoding="utf-8", newline="\n")
    return folder / RECIPE
