"""The recipes that the pages show can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from edgestill.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = [
    (page.name, number, block)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL), 1)
]
REST = {
    "version": 1,
    "name": "x",
    "task": "conversation",
    "data": {"train": "train.jsonl"},
    "teachers": [{"kind": "transformers", "model": "owner/teacher"}],
    "student": {"kind": "pruned", "layers": 2},
}


@pytest.mark.parametrize(("page", "number", "block"), BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS])
def test_a_shown_recipe_is_sound(page: str, number: int, block: str) -> None:
    Recipe.model_validate({**REST, **yaml.safe_load(block)})


def test_there_are_such_recipes() -> None:
    assert len(BLOCKS) >= 4
