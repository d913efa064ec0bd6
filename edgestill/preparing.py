"""From the user's data files to the run's own: read once, every row checked, split, written as JSONL."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from edgestill.dataset import BadRow, Example, parse_row, prompt_key, read_examples, share_of
from edgestill.errors import DataError
from edgestill.example_file import ExampleFile
from edgestill.measuring import task_of
from edgestill.progress import Progress
from edgestill.recipe import Recipe
from edgestill.steps import Steps
from edgestill.storage import sha256_file, whole_folder

_SHOW_ROWS: Final = 5000


@dataclass(frozen=True)
class Prepared:
    """The run's data files: ``<split>.jsonl`` in ``folder``, with each split's hash and number of rows."""

    folder: Path
    sha256: dict[str, str]
    counts: dict[str, int]

    def rows(self, split: str) -> ExampleFile:
        """Return all rows of one split; they stay on disk."""
        return ExampleFile(self.folder / f"{split}.jsonl")


def prepare_data(steps: Steps, recipe: Recipe, progress: Progress) -> Prepared:
    """Read every data file once, check every row, and write the splits as JSONL; rows stream through.

    A row of another split that asks what a row of the test split asks is left out: what was learnt isn't
    tested on. A conversation asks at each of its turns; of one that is tested, only the whole counts, as openings
    ("hello") are everybody's.
    """
    section, task = recipe.data, task_of(recipe)
    # The test split comes first: the others are read beside its prompts.
    given = {"test": section.test, "train": section.train, "validation": section.validation}
    given["prompts"] = recipe.synthesize.prompts
    files = {split: path for split, path in given.items() if path is not None}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"{path}: no such data file; correct the recipe's data section")
    folder = steps.out_dir / "data"

    def work() -> Any:
        with whole_folder(folder) as partial, contextlib.ExitStack() as open_files:
            splits = _Splits(recipe, partial, open_files)
            for split, path in files.items():
                rows = read_examples(
                    path,
                    columns=section.columns.given(),
                    shape=task,
                    system=section.system,
                    limit=section.test_limit or section.limit if split == "test" else section.limit,
                    set_aside=splits.set_aside if section.on_bad_row == "set-aside" else None,
                )
                with progress.task(f"reading {split}", unit="rows") as reading:
                    for number, example in enumerate(rows, 1):
                        splits.take(split, example)
                        if number % _SHOW_ROWS == 0:
                            reading.advance(_SHOW_ROWS)
            splits.finish(files)
        if splits.bad:
            aside = folder / "bad-rows.jsonl"
            progress.note(f"set aside {splits.bad:,} bad rows in {aside}; the first: {splits.first_error}")
        for split, left_out in splits.tested.items():
            progress.note(f"left {left_out:,} rows out of {split}: their prompts are in the test split")
        return {
            "bad_rows": splits.bad,
            "tested": splits.tested,
            "sha256": {split: sha256_file(folder / f"{split}.jsonl") for split in splits.counts},
            "counts": splits.counts,
        }

    depends = [
        section.model_dump(mode="json", exclude={"train", "validation", "test"}),
        [recipe.task, recipe.task_options],
        {split: sha256_file(path) for split, path in files.items()},
    ]
    done = steps.run("data", depends, work, outputs=[folder], title="reading the data")
    return Prepared(folder, done.value["sha256"], done.value["counts"])


class _Splits:
    """The splits as they are written. Without files of their own, validation and test come out of train."""

    def __init__(self, recipe: Recipe, folder: Path, open_files: contextlib.ExitStack) -> None:
        self.counts: dict[str, int] = {}
        self.bad = 0
        self.tested: dict[str, int] = {}
        self.first_error = ""
        self._test_prompts: set[int] = set()
        self._turns = False
        self._task = task_of(recipe)
        self._section = recipe.data
        self._folder, self._open_files = folder, open_files
        self._written: dict[str, IO[str]] = {}

    def take(self, file: str, example: Example) -> None:
        split = self._split_of(example) if file == "train" else file
        asked = split in ("test", "prompts")
        questions = self._task.questions(example)
        self._turns = self._turns or len(questions) > 1
        if split != "test" and self._is_tested(questions):
            self.tested[split] = self.tested.get(split, 0) + 1
            return
        try:
            for row in questions if asked else (example,):
                self._check(split, row)
                self._write(split, row.to_row())
                self.counts[split] = self.counts.get(split, 0) + 1
            if split == "test":
                self._test_prompts.add(prompt_key(questions[-1]))
        except DataError as error:
            if self._section.on_bad_row == "stop":
                raise
            self.set_aside(BadRow(example.source, str(error), example.to_row()))

    def set_aside(self, bad: BadRow) -> None:
        self.bad += 1
        self.first_error = self.first_error or bad.error
        self._write("bad-rows", {"source": bad.source, "error": bad.error, "row": bad.row})

    def _is_tested(self, questions: Sequence[Example]) -> bool:
        return any(prompt_key(question) in self._test_prompts for question in questions)

    def finish(self, files: Mapping[str, Path]) -> None:
        for file in self._written.values():
            file.flush()
        if self._section.test is None and self._turns:
            for split in ("train", "validation"):
                self._leave_out_late(split)
        for split in ("train", "validation", "test", *(["prompts"] if "prompts" in files else [])):
            if not self.counts.get(split):
                tested = self.tested.get(split)
                why = f"; the prompts of {tested:,} are in the test split" if tested else ""
                raise DataError(f"{files.get(split) or files['train']}: no rows for {split}{why}")

    def _leave_out_late(self, split: str) -> None:
        """Leave out what was written before the test conversation that it goes on from was drawn."""
        path = self._folder / f"{split}.jsonl"
        if not path.is_file():
            return
        kept = 0
        with path.open(encoding="utf-8", newline="\n") as rows:
            path.unlink()
            with path.open("w", encoding="utf-8", newline="\n") as left:
                for line in rows:
                    if not self._is_tested(self._task.questions(parse_row(json.loads(line), str(path)))):
                        left.write(line)
                        kept += 1
        if late := self.counts[split] - kept:
            self.tested[split] = self.tested.get(split, 0) + late
            self.counts[split] = kept

    def _split_of(self, example: Example) -> str:
        section, share = self._section, share_of(example)
        validation = section.validation_fraction if section.validation is None else 0.0
        test = section.test_fraction if section.test is None else 0.0
        return "validation" if share < validation else "test" if share < validation + test else "train"

    def _check(self, split: str, row: Example) -> None:
        if split == "test":
            self._task.check(row)  # what can't be scored is refused before any training
        elif split != "prompts" and row.text is None and all(turn.role != "assistant" for turn in row.messages):
            raise DataError(f"{row.source}: no answer in it; task {self._task.name!r} needs one in {split}")

    def _write(self, name: str, row: object) -> None:
        if name not in self._written:
            file = (self._folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n")
            self._written[name] = self._open_files.enter_context(file)
        self._written[name].write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
