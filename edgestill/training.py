"""From data files to checkpoints: teacher, its answers, its signal, the student, and the baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.answering import Learnt, answer_data, open_teachers
from edgestill.artifact import Checkpoint
from edgestill.dataset import Example
from edgestill.errors import GateError, StageError
from edgestill.preparing import Prepared, prepare_data
from edgestill.progress import Progress
from edgestill.recipe import (
    ConfigStudent,
    GgufTeacher,
    KlLoss,
    PretrainedStudent,
    PrunedStudent,
    Recipe,
    SftLoss,
    TrainedTeacher,
    TransformersTeacher,
)
from edgestill.steps import Done, Steps

if TYPE_CHECKING:
    from edgestill.distill import EncodedData
    from edgestill.distill.teachers import Teacher

_LOOKED_AT: Final = 20_000
"""Rows that a preflight looks at, at most, spread over all of them."""
_SMALL_FILES: Final = (".json", ".jinja", ".txt", ".model")


@dataclass(frozen=True)
class Trained:
    """What training hands on: checkpoints and data files, each with its sha256.

    ``held_out`` are the rows of the parity check (validation), ``test`` those of the task's metric.
    ``facts`` are counts for the report: rows asked, dropped and why, steps, tokens.
    """

    teachers: tuple[TaughtBy, ...]
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
class TaughtBy:
    """One teacher: a ``checkpoint``, a GGUF ``file``, or one who can only be ``asked``; ``sha256`` names it."""

    name: str
    sha256: str
    checkpoint: Checkpoint | None = None
    file: Path | None = None
    asked: Teacher | None = None


def train_models(steps: Steps, recipe: Recipe, progress: Progress) -> Trained:
    """Do (or find done) every step up to the student and the baseline."""
    data = prepare_data(steps, recipe, progress)
    if isinstance(recipe.student, PretrainedStudent):
        from edgestill.distill import load_teacher

        check_exportable(load_teacher(recipe.student.model))
    local = _local_teacher(steps, recipe, data, progress)
    start, start_sha256 = _student_start(steps, recipe, local)
    _check_before_answers(recipe, local, start)
    teachers = open_teachers(recipe, local.checkpoint)
    answers, facts = answer_data(steps, recipe, data, teachers, progress)
    student = _student(steps, recipe, local, start, start_sha256, answers, data, progress)
    facts["student"] = learnt = _training_facts(steps.out_dir / "student")
    baseline: Done | None = None
    if recipe.distill.baseline and recipe.task != "text":
        plain, plain_sha256 = _baseline_start(steps, recipe, start, start_sha256)
        baseline = _baseline(steps, recipe, data, plain, plain_sha256, int(learnt["rows"]), progress)
        facts["baseline"] = _training_facts(steps.out_dir / "baseline")
    if isinstance(recipe.teachers[0], TrainedTeacher) and local.checkpoint is not None:
        facts["teacher"] = _training_facts(local.checkpoint.path)
    return Trained(
        teachers=_taught_by(recipe, local, teachers),
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


@dataclass(frozen=True)
class _Local:
    """The one teacher that is a checkpoint here, whose logits can be had; none when there are others or several."""

    checkpoint: Checkpoint | None = None
    sha256: str = ""

    def needed(self) -> Checkpoint:
        """Return the checkpoint; a recipe that needs it and has none is refused before."""
        if self.checkpoint is None:
            raise StageError("this needs one teacher of kind transformers or trained")
        return self.checkpoint


def _local_teacher(steps: Steps, recipe: Recipe, data: Prepared, progress: Progress) -> _Local:
    if not recipe.has_local_teacher():
        return _Local()
    section = recipe.teachers[0]
    if isinstance(section, TransformersTeacher):
        return _Local(*_found_checkpoint(steps, "teacher", section.model))
    trained = section if isinstance(section, TrainedTeacher) else None
    if trained is None:
        return _Local()

    def work() -> Any:
        from edgestill.distill import train_teacher

        made = train_teacher(
            trained,
            data.rows("train"),
            folder,
            max_length=recipe.distill.max_length,
            seed=recipe.seed,
            save_every_seconds=recipe.distill.save_every_seconds,
            progress=progress,
        )
        return {"sha256": made.sha256()}

    folder = steps.out_dir / "teacher"
    section_key = trained.model_dump(mode="json", exclude={"name", "weight", "when"})
    depends = [section_key, data.sha256["train"], recipe.distill.max_length, recipe.seed]
    title = f"training the teacher on {data.counts['train']:,} gold answers"
    done = steps.run("teacher", depends, work, outputs=[folder], title=title)
    return _Local(Checkpoint.open(folder), done.value["sha256"])


def _taught_by(recipe: Recipe, local: _Local, teachers: Sequence[Teacher]) -> tuple[TaughtBy, ...]:
    from edgestill.distill import load_teacher

    found = []
    for section, teacher in zip(recipe.teachers, teachers, strict=True):
        if local.checkpoint is not None:
            found.append(TaughtBy(teacher.name, local.sha256, checkpoint=local.checkpoint))
        elif isinstance(section, TransformersTeacher):
            found.append(TaughtBy(teacher.name, teacher.identity, checkpoint=load_teacher(section.model)))
        elif isinstance(section, GgufTeacher):
            found.append(TaughtBy(teacher.name, teacher.identity, file=section.model))
        else:
            found.append(TaughtBy(teacher.name, teacher.identity, asked=teacher))
    return tuple(found)


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


def _check_before_answers(recipe: Recipe, local: _Local, start: Checkpoint) -> None:
    """Refuse what could only fail after the teacher has answered everything."""
    from edgestill.distill import check_same_vocabulary

    check_exportable(start)
    if _kl_temperatures(recipe):
        check_same_vocabulary(local.needed(), start)


def _kl_temperatures(recipe: Recipe) -> list[float]:
    return sorted({loss.temperature for loss in recipe.distill.losses if isinstance(loss, KlLoss) and loss.weight > 0})


def _student_start(steps: Steps, recipe: Recipe, local: _Local) -> tuple[Checkpoint, str]:
    section: PretrainedStudent | PrunedStudent | ConfigStudent = recipe.student
    if isinstance(section, PretrainedStudent):
        return _found_checkpoint(steps, "student", section.model)

    def work() -> Any:
        from edgestill.distill import make_student

        return {"sha256": make_student(section, local.needed(), folder, seed=recipe.seed).sha256()}

    folder = steps.out_dir / "student-start"
    depends = [section.model_dump(mode="json"), local.sha256, recipe.seed]
    done = steps.run("student-start", depends, work, outputs=[folder], title=f"making the student ({section.kind})")
    return Checkpoint.open(folder), done.value["sha256"]


def _student(
    steps: Steps,
    recipe: Recipe,
    local: _Local,
    start: Checkpoint,
    start_sha256: str,
    answers: Learnt,
    data: Prepared,
    progress: Progress,
) -> Done:
    from edgestill.distill import TrainSettings

    temperatures = _kl_temperatures(recipe)
    cache, folder = steps.out_dir / "signal", steps.out_dir / "student"
    encoded: list[EncodedData] = []

    def rows() -> EncodedData:
        if not encoded:
            encoded.append(_encode(answers.rows, start, recipe, steps.out_dir, progress))
        return encoded[0]

    if temperatures:

        def cache_work() -> Any:
            from edgestill.distill import cache_signal

            cache_signal(local.needed(), rows(), cache, temperatures=temperatures, progress=progress)
            return None

        depends = [
            answers.sha256,
            start_sha256,
            local.sha256,
            temperatures,
            recipe.distill.max_length,
            recipe.distill.turns,
        ]
        steps.run("signal", depends, cache_work, outputs=[cache], title="caching the teacher's logits")

    depends = [_distill_key(recipe), answers.sha256, start_sha256, local.sha256 if temperatures else None, recipe.seed]
    if recipe.distill.preflight != "off":

        def look() -> Any:
            return _preflight(
                recipe, local, start, answers.rows, rows(), cache if temperatures else None, data.rows("test")
            )

        done = steps.run(
            "preflight", [depends, data.sha256["test"]], look, title="looking for mistakes before training"
        )
        for finding in done.value:
            progress.note(f"preflight: {finding}")
        if done.value and recipe.distill.preflight == "stop":
            count = "a mistake" if len(done.value) == 1 else f"{len(done.value)} mistakes, the first"
            raise GateError(f"preflight found {count}: {done.value[0]} (distill.preflight: warn would go on)")

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

    title = f"distilling the student from {len(answers.rows):,} answers"
    return steps.run("student", depends, work, outputs=[folder], title=title)


def _preflight(
    recipe: Recipe,
    local: _Local,
    start: Checkpoint,
    answers: Sequence[Example],
    data: EncodedData,
    cache: Path | None,
    test: Sequence[Example],
) -> list[str]:
    """Return what a preflight of the student's training finds, one line each."""
    from edgestill.distill import CachedSignal
    from edgestill.distill.preflight import Setup, preflight

    places = range(0, len(data.rows), -(-len(data.rows) // _LOOKED_AT))
    setup = Setup(
        student=start,
        rows=[(answers[data.numbers[at]], data.rows[at]) for at in places],
        losses=recipe.distill.losses,
        teacher=local.checkpoint if cache is not None else None,
        signal=CachedSignal(cache, data) if cache is not None else None,
        test=test,
    )
    return [f"{finding.check}: {finding.message}" for finding in preflight(setup)]


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
    data: Prepared,
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

        encoded = _encode(data.rows("train"), start, recipe, steps.out_dir, progress)
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
    return recipe.distill.model_dump(mode="json", exclude={"save_every_seconds", "baseline", "preflight"})


def _encode(
    examples: Sequence[Example], checkpoint: Checkpoint, recipe: Recipe, spill: Path, progress: Progress
) -> EncodedData:
    from edgestill.distill import ChatTokenizer, encode_examples

    limit, turns = recipe.distill.max_length, recipe.distill.turns
    tokenizer = ChatTokenizer.open(checkpoint)
    data = encode_examples(examples, tokenizer, max_length=limit, turns=turns, spill=spill, progress=progress)
    if data.too_long:
        progress.note(f"left out {data.too_long:,} rows longer than {limit} tokens; raise distill.max_length")
    return data


def _training_facts(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return {key: value[key] for key in ("steps", "rows", "tokens", "losses", "parameters")}
