"""The recipes in examples/ are sound, and say what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgestill.quickstart import write_quickstart
from edgestill.recipe import load_recipe

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_sound_and_begins_with_a_comment(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.export
    assert path.read_text().startswith("# ")


def test_the_quickstarts_recipe_is_the_one_in_examples(tmp_path: Path) -> None:
    embedded = load_recipe(write_quickstart(tmp_path / "input"))
    shown = load_recipe(EXAMPLES / "quickstart.yaml")
    other_places = {"data", "synthesize"}
    assert shown.model_dump(exclude=other_places) == embedded.model_dump(exclude=other_places)
    assert shown.synthesize.model_dump(exclude={"prompts"}) == embedded.synthesize.model_dump(exclude={"prompts"})
