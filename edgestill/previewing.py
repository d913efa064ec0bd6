"""The first rows as the student will learn them: decoded, with what the loss covers marked."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, read_examples
from edgestill.preparing import Prepared, prepare_data
from edgestill.progress import Progress
from edgestill.recipe import PretrainedStudent, Recipe, TrainedTeacher, TransformersTeacher, load_recipe
from edgestill.steps import Steps

if TYPE_CHECKING:
    from edgestill.distill import ChatTokenizer


@dataclass(frozen=True)
class Preview:
    """One row: pieces of its text, each with whether it is learnt, and how many tokens are."""

    source: str
    pieces: tuple[tuple[str, bool], ...]
    tokens: int
    learnt: int


def preview_recipe(recipe_file: Path, out_dir: Path, count: int, *, progress: Progress) -> list[Preview]:
    """Return the first ``count`` rows that the student of a recipe learns.

    These are the curated answers where the run has them already, else the gold rows of train. Raises
    DataError when the student's chat template leaves it open what the model has to write.
    """
    recipe = load_recipe(recipe_file)
    steps = Steps(out_dir, progress)
    with steps.locked():
        data = prepare_data(steps, recipe, progress)
        curated = out_dir / "curated.jsonl"
        learnt = curated if curated.is_file() else data.folder / "train.jsonl"
        rows = list(itertools.islice(read_examples(learnt), count))
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = _tokenizer(recipe, out_dir, data, Path(folder))
            return [_preview(tokenizer, row, recipe) for row in rows]


def _tokenizer(recipe: Recipe, out_dir: Path, data: Prepared, folder: Path) -> ChatTokenizer:
    """Return the student's tokenizer: its own, the teacher's, or the one that training would begin with."""
    from edgestill.distill import ChatTokenizer, load_teacher
    from edgestill.distill.teacher import new_model

    start, teacher = out_dir / "student-start", recipe.teachers[0]
    if isinstance(recipe.student, PretrainedStudent):
        return ChatTokenizer.open(load_teacher(recipe.student.model))
    if start.is_dir():
        return ChatTokenizer.open(Checkpoint.open(start))
    if isinstance(teacher, TransformersTeacher):
        return ChatTokenizer.open(load_teacher(teacher.model))
    assert isinstance(teacher, TrainedTeacher)  # for the type checker: others can't have such a student
    return ChatTokenizer.open(new_model(teacher, data.rows("train"), folder / "new", seed=recipe.seed))


def _preview(tokenizer: ChatTokenizer, row: Example, recipe: Recipe) -> Preview:
    encoded = tokenizer.encode(row, turns=recipe.distill.turns)
    mask, ids = encoded.labels_mask.tolist(), encoded.input_ids.tolist()
    pieces = []
    at = 0
    for learnt, run in itertools.groupby(mask):
        length = len(list(run))
        text = tokenizer.tokenizer.decode(ids[at : at + length], skip_special_tokens=False)
        pieces.append((text, bool(learnt)))
        at += length
    return Preview(row.source, tuple(pieces), len(ids), sum(mask))
