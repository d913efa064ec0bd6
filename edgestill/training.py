"""From data files to checkpoints: teacher, its answers, its signal, the student, and the baseline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, read_examples, split_by_prompt, write_examples
from edgestill.errors import DataError
from edgestill.progress import Progress
from edgestill.recipe import ConfigStudent, KlLoss, PretrainedStudent, PrunedStudent, Recipe, SftLoss, TrainedTeacher
from edgestill.steps import Done, Steps
from edgestill.storage import sha256_file, whole_folder

if TYPE_CHECKING:
    from edgestill.distill import EncodedData

_SMALL_FILES: Final = (".json", ".jinja", ".txt", ".model")


@dataclass(frozen=True)
class Trained:
    """What training hands on: checkpoints and data files, each with its sha256.

    ``held_out`` are the rows of the parity check (validation), ``test`` those of the task's metric.
    ``facts`` are counts for the report: rows asked, dropped and why, steps, tokens.
    """

    teacher: Checkpoint
    teacher_sha256: str
    student: Checkpoint
    student_sha256: str
    baseline: Checkpoint | None
    baseline_sha256: str
    test: Path
    test_sha256: str
    held_out: Path
    held_out_sha256: str
    data_sha256: dict[str, str]
    facts: dict[str, object]


@dataclass(frozen=True)
class _Data:
    folder: Path
    sha256: dict[str, str]
    counts: dict[str, int]

    def rows(self, split: str) -> list[Example]:
        return list(read_examples(self.folder / f"{split}.jsonl"))


def train_models(steps: Steps, recipe: Recipe, progress: Progress) -> Trained:
    """Do (or find done) every step up to the student and the baseline."""
    data = _prepare_data(steps, recipe)
    if isinstance(recipe.student, PretrainedStudent):
        from edgestill.distill import load_teacher

        check_exportable(load_teacher(recipe.student.model))
    teacher, teacher_sha256 = _teacher(steps, recipe, data, progress)
    start, start_sha256 = _student_start(steps, recipe, teacher, teacher_sha256)
    _check_before_answers(recipe, teacher, start)
    answers, facts = _answers(steps, recipe, data, teacher, teacher_sha256, progress)
    student = _student(steps, recipe, teacher, teacher_sha256, start, start_sha256, answers, progress)
    facts["student"] = learnt = _training_facts(steps.out_dir / "student")
    baseline: Done | None = None
    if recipe.distill.baseline and recipe.task != "text":
        plain, plain_sha256 = _baseline_start(steps, recipe, start, start_sha256)
        baseline = _baseline(steps, recipe, data, plain, plain_sha256, int(learnt["rows"]), progress)
        facts["baseline"] = _training_facts(steps.out_dir / "baseline")
    if isinstance(recipe.teachers[0], TrainedTeacher):
        facts["teacher"] = _training_facts(teacher.path)
    return Trained(
        teacher=teacher,
        teacher_sha256=teacher_sha256,
        student=Checkpoint.open(steps.out_dir / "student"),
        student_sha256=student.value["sha256"],
        baseline=None if baseline is None else Checkpoint.open(steps.out_dir / "baseline"),
        baseline_sha256="" if baseline is None else baseline.value["sha256"],
        test=data.folder / "test.jsonl",
        test_sha256=data.sha256["test"],
        held_out=data.folder / "validation.jsonl",
        held_out_sha256=data.sha256["validation"],
        data_sha256=data.sha256,
        facts=facts,
    )


def _prepare_data(steps: Steps, recipe: Recipe) -> _Data:
    """Read every data file once, check every row, and write the splits as JSONL."""
    from edgestill.runtime.tasks import get_task

    section = recipe.data
    files = {"train": section.train, "validation": section.validation, "test": section.test}
    files["prompts"] = recipe.synthesize.prompts
    for path in files.values():
        if path is not None and not path.is_file():
            raise DataError(f"{path}: no such data file; correct the recipe's data section")
    folder = steps.out_dir / "data"

    def read(path: Path) -> Iterator[Example]:
        columns = section.columns
        names = {} if columns is None else {"prompt_column": columns.prompt, "completion_column": columns.completion}
        return read_examples(path, system=section.system, limit=section.limit, **names)

    def work() -> Any:
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
                get_task(recipe.task).gold(row)  # an answer that can't be scored is refused before any training
        with whole_folder(folder) as partial:
            for split, found in rows.items():
                write_examples(partial / f"{split}.jsonl", found)
        return {
            "sha256": {split: sha256_file(folder / f"{split}.jsonl") for split in rows},
            "counts": {split: len(found) for split, found in rows.items()},
        }

    depends = [
        section.model_dump(mode="json", exclude={"train", "validation", "test"}),
        recipe.task,
        {split: sha256_file(path) for split, path in files.items() if path is not None},
    ]
    done = steps.run("data", depends, work, outputs=[folder], title="reading the data")
    return _Data(folder, done.value["sha256"], done.value["counts"])


def _teacher(steps: Steps, recipe: Recipe, data: _Data, progress: Progress) -> tuple[Checkpoint, str]:
    section = recipe.teachers[0]
    if not isinstance(section, TrainedTeacher):
        return _found_checkpoint(steps, "teacher", section.model)

    def work() -> Any:
        from edgestill.distill import train_teacher

        made = train_teacher(
            section,
            data.rows("train"),
            folder,
            max_length=recipe.distill.max_length,
            seed=recipe.seed,
            save_every_seconds=recipe.distill.save_every_seconds,
            progress=progress,
        )
        return {"sha256": made.sha256()}

    folder = steps.out_dir / "teacher"
    depends = [section.model_dump(mode="json"), data.sha256["train"], recipe.distill.max_length, recipe.seed]
    title = f"training the teacher on {data.counts['train']:,} gold answers"
    done = steps.run("teacher", depends, work, outputs=[folder], title=title)
    return Checkpoint.open(folder), done.value["sha256"]


def _found_checkpoint(steps: Steps, name: str, model: str) -> tuple[Checkpoint, str]:
    """Find a folder or hub name; its hash is computed once and again when a file's size or time changed."""
    from edgestill.distill import load_teacher

    checkpoint = load_teacher(model)
    files = [*checkpoint.weight_files(), *(path for path in checkpoint.path.iterdir() if path.suffix in _SMALL_FILES)]
    stamps = sorted([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in set(files))
    done = steps.run(f"{name}-found", [model, stamps], lambda: {"sha256": checkpoint.sha256()})
    return checkpoint, done.value["sha256"]


def check_exportable(checkpoint: Checkpoint) -> None:
    """Raise UnsupportedError when no format can be written of a checkpoint, before hours are spent on it."""
    from edgestill.export.architectures import describe_checkpoint
    from edgestill.export.weights import Weights

    with Weights(checkpoint) as weights:
        describe_checkpoint(checkpoint, weights)


def _check_before_answers(recipe: Recipe, teacher: Checkpoint, start: Checkpoint) -> None:
    """Refuse what could only fail after the teacher has answered everything."""
    from edgestill.distill import check_same_vocabulary

    check_exportable(start)
    if _kl_temperatures(recipe):
        check_same_vocabulary(teacher, start)


def _kl_temperatures(recipe: Recipe) -> list[float]:
    return sorted({loss.temperature for loss in recipe.distill.losses if isinstance(loss, KlLoss) and loss.weight > 0})


def _student_start(steps: Steps, recipe: Recipe, teacher: Checkpoint, teacher_sha256: str) -> tuple[Checkpoint, str]:
    section: PretrainedStudent | PrunedStudent | ConfigStudent = recipe.student
    if isinstance(section, PretrainedStudent):
        return _found_checkpoint(steps, "student", section.model)

    def work() -> Any:
        from edgestill.distill import make_student

        return {"sha256": make_student(section, teacher, folder, seed=recipe.seed).sha256()}

    folder = steps.out_dir / "student-start"
    depends = [section.model_dump(mode="json"), teacher_sha256, recipe.seed]
    done = steps.run("student-start", depends, work, outputs=[folder], title=f"making the student ({section.kind})")
    return Checkpoint.open(folder), done.value["sha256"]


def _answers(
    steps: Steps, recipe: Recipe, data: _Data, teacher: Checkpoint, teacher_sha256: str, progress: Progress
) -> tuple[list[Example], dict[str, object]]:
    """Return the rows that the student learns: the teacher's answers, or the texts of a text task."""
    if recipe.task == "text":
        return data.rows("train"), {"rows": data.counts["train"]}
    section = recipe.synthesize
    split = "prompts" if section.prompts is not None else "train"

    def work() -> Any:
        from edgestill.distill import answer_prompts

        result = answer_prompts(
            teacher,
            data.rows(split),
            answers,
            temperature=section.temperature,
            max_new_tokens=section.max_new_tokens,
            batch_size=section.batch_size,
            seed=recipe.seed,
            validate=_validator(recipe, data),
            progress=progress,
        )
        dropped = [{"reason": d.reason, "count": d.count, "example": d.example} for d in result.dropped]
        return {"asked": result.asked, "kept": len(result.examples), "dropped": dropped}

    answers = steps.out_dir / "answers.jsonl"
    asked = section.model_dump(mode="json", exclude={"prompts", "include_gold"})
    # The labels that a classification's answers are checked by come from train.
    checked_by = [recipe.task, data.sha256["train"] if recipe.task == "classification" else None]
    depends = [asked, checked_by, data.sha256[split], teacher_sha256, recipe.seed]
    title = f"the teacher answers {data.counts[split]:,} prompts"
    done = steps.run("answers", depends, work, outputs=[answers], title=title)
    for drop in done.value["dropped"]:
        progress.note(f"left out {drop['count']:,} answers: {drop['reason']}, for example {drop['example']}")
    rows = list(read_examples(answers))
    if section.include_gold:
        rows += data.rows("train")
    return rows, {"answers": done.value}


def _validator(recipe: Recipe, data: _Data) -> Callable[[Example], str | None] | None:
    """Return the task's own check of a teacher's answer."""
    if recipe.task == "json":
        from edgestill.runtime.tasks.json_action import parse_object

        return lambda row: None if parse_object(row.completion or "") is not None else "not one JSON object"
    if recipe.task == "classification":
        labels = {(row.completion or "").strip() for row in data.rows("train")}
        return lambda row: None if (row.completion or "").strip() in labels else "not one of the labels"
    return None


def _student(
    steps: Steps,
    recipe: Recipe,
    teacher: Checkpoint,
    teacher_sha256: str,
    start: Checkpoint,
    start_sha256: str,
    answers: list[Example],
    progress: Progress,
) -> Done:
    from edgestill.distill import TrainSettings

    temperatures = _kl_temperatures(recipe)
    cache, folder = steps.out_dir / "signal", steps.out_dir / "student"
    encoded: list[EncodedData] = []

    def rows() -> EncodedData:
        if not encoded:
            encoded.append(_encode(answers, start, recipe, progress))
        return encoded[0]

    answers_key = [row.to_row() for row in answers]
    if temperatures:

        def cache_work() -> Any:
            from edgestill.distill import cache_signal

            cache_signal(teacher, rows(), cache, temperatures=temperatures, progress=progress)
            return None

        depends = [answers_key, start_sha256, teacher_sha256, temperatures, recipe.distill.max_length]
        steps.run("signal", depends, cache_work, outputs=[cache], title="caching the teacher's logits")

    def work() -> Any:
        from edgestill.distill import CachedSignal, train

        signal = CachedSignal(cache, rows()) if temperatures else None
        made = train(
            start,
            rows(),
            TrainSettings.from_recipe(recipe.distill),
            folder,
            signal=signal,
            seed=recipe.seed,
            label="student",
            progress=progress,
        )
        return {"sha256": made.sha256()}

    depends = [_distill_key(recipe), answers_key, start_sha256, teacher_sha256 if temperatures else None, recipe.seed]
    title = f"distilling the student from {len(answers):,} answers"
    return steps.run("student", depends, work, outputs=[folder], title=title)


def _baseline_start(steps: Steps, recipe: Recipe, start: Checkpoint, start_sha256: str) -> tuple[Checkpoint, str]:
    """Return what the baseline starts from: nothing that the recipe's own teacher has learnt.

    A student pruned from a teacher that the recipe trained gets new weights; one that was there before
    (pretrained, or pruned from a teacher that was given) is as good a start without distilling.
    """
    if not (isinstance(recipe.student, PrunedStudent) and isinstance(recipe.teachers[0], TrainedTeacher)):
        return start, start_sha256

    def work() -> Any:
        from edgestill.distill import renew

        return {"sha256": renew(start, folder, seed=recipe.seed).sha256()}

    folder = steps.out_dir / "baseline-start"
    done = steps.run("baseline-start", [start_sha256, recipe.seed], work, outputs=[folder])
    return Checkpoint.open(folder), done.value["sha256"]


def _baseline(
    steps: Steps,
    recipe: Recipe,
    data: _Data,
    start: Checkpoint,
    start_sha256: str,
    student_rows: int,
    progress: Progress,
) -> Done:
    """Train the same student on the gold answers alone, for as many steps, to show what distilling gains."""
    folder = steps.out_dir / "baseline"

    def work() -> Any:
        from edgestill.distill import TrainSettings, train
        from edgestill.distill.training import steps_of

        encoded = _encode(data.rows("train"), start, recipe, progress)
        settings = TrainSettings.from_recipe(recipe.distill)
        gold = replace(settings, losses=(SftLoss(kind="sft"),))
        same = steps_of(student_rows, settings) / steps_of(len(encoded.rows), replace(gold, epochs=1.0))
        made = train(
            start, encoded, replace(gold, epochs=same), folder, seed=recipe.seed, label="baseline", progress=progress
        )
        return {"sha256": made.sha256()}

    depends = [_distill_key(recipe), data.sha256["train"], start_sha256, student_rows, recipe.seed]
    title = f"training the same student without the teacher, on {data.counts['train']:,} gold answers"
    return steps.run("baseline", depends, work, outputs=[folder], title=title)


def _distill_key(recipe: Recipe) -> dict[str, Any]:
    return recipe.distill.model_dump(mode="json", exclude={"save_every_seconds", "baseline"})


def _encode(examples: list[Example], checkpoint: Checkpoint, recipe: Recipe, progress: Progress) -> EncodedData:
    from edgestill.distill import ChatTokenizer, encode_examples

    limit = recipe.distill.max_length
    data = encode_examples(examples, ChatTokenizer.open(checkpoint), max_length=limit, progress=progress)
    if data.too_long:
        progress.note(f"left out {data.too_long:,} rows longer than {limit} tokens; raise distill.max_length")
    return data


def _training_facts(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return {key: value[key] for key in ("steps", "rows", "tokens", "losses", "parameters")}
