"""From the user's data files to the run's own: read once, every row checked, split, written as JSONL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgestill.dataset import BadRow, Example, read_examples, split_by_prompt, write_bad_rows, write_examples
from edgestill.errors import DataError
from edgestill.measuring import task_of
from edgestill.progress import Progress
from edgestill.recipe import Recipe
from edgestill.steps import Steps
from edgestill.storage import sha256_file, whole_folder


@dataclass(frozen=True)
class Prepared:
    """The run's data files: ``<split>.jsonl`` in ``folder``, with each split's hash and number of rows."""

    folder: Path
    sha256: dict[str, str]
    counts: dict[str, int]

    def rows(self, split: str) -> list[Example]:
        """Return all rows of one split."""
        return list(read_examples(self.folder / f"{split}.jsonl"))


def prepare_data(steps: Steps, recipe: Recipe, progress: Progress) -> Prepared:
    """Read every data file once, check every row, and write the splits as JSONL."""
    section, task = recipe.data, task_of(recipe)
    files = {"train": section.train, "validation": section.validation, "test": section.test}
    files["prompts"] = recipe.synthesize.prompts
    for path in files.values():
        if path is not None and not path.is_file():
            raise DataError(f"{path}: no such data file; correct the recipe's data section")
    folder = steps.out_dir / "data"

    def work() -> Any:
        bad: list[BadRow] = []

        def read(path: Path) -> Iterator[Example]:
            return read_examples(
                path,
                columns=section.columns.given(),
                shape=task,
                system=section.system,
                limit=section.limit,
                set_aside=bad.append if section.on_bad_row == "set-aside" else None,
            )

        rows = {split: list(read(path)) for split, path in files.items() if path is not None}
        if section.validation is None:
            rows["train"], rows["validation"] = split_by_prompt(iter(rows["train"]), section.validation_fraction)
        if section.test is None:
            rows["test"] = rows["validation"]
        for split, found in rows.items():
            if not found:
                raise DataError(f"{files.get(split) or section.train}: no rows for {split}")
        if recipe.task != "text":
            for split in ("train", "validation", "test"):
                for row in rows[split]:
                    if row.completion is None:
                        raise DataError(f"{row.source}: no answer in it; task {recipe.task!r} needs one in {split}")
            for row in rows["test"]:
                task.check(row)  # an answer that can't be scored is refused before any training
        with whole_folder(folder) as partial:
            for split, found in rows.items():
                write_examples(partial / f"{split}.jsonl", found)
            write_bad_rows(partial / "bad-rows.jsonl", bad)
        if bad:
            progress.note(f"set aside {len(bad):,} bad rows in {folder / 'bad-rows.jsonl'}; the first: {bad[0].error}")
        return {
            "bad_rows": len(bad),
            "sha256": {split: sha256_file(folder / f"{split}.jsonl") for split in rows},
            "counts": {split: len(found) for split, found in rows.items()},
        }

    depends = [
        section.model_dump(mode="json", exclude={"train", "validation", "test"}),
        [recipe.task, recipe.task_options],
        {split: sha256_file(path) for split, path in files.items() if path is not None},
    ]
    done = steps.run("data", depends, work, outputs=[folder], title="reading the data")
    return Prepared(folder, done.value["sha256"], done.value["counts"])
