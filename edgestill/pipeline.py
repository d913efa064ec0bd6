"""Recipe -> bundle -> report: the verbs in order, each a step that is done once.

data -> teacher -> answers -> student (and baseline) -> files, each checked -> eval -> bench
     -> golden -> report -> bundle
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edgestill.answering import ask_test, spent_on
from edgestill.artifact import Artifact, Checkpoint
from edgestill.errors import GateError, StageError, UnsupportedError
from edgestill.example_file import ExampleFile
from edgestill.making import PLAIN, Made, make_artifacts, make_plain
from edgestill.measuring import (
    Measured,
    Quality,
    answer_limit,
    choose_shipped,
    distilling_gain,
    make_headline,
    measure_quality,
    measure_speed,
    refuse_unfaithful,
    task_of,
)
from edgestill.packing import describe, golden_prompts, now, write_bundle
from edgestill.progress import Progress
from edgestill.recipe import Recipe, load_recipe
from edgestill.results import Headline, ModelRecord, Refused, ReportDocument, Role
from edgestill.steps import Steps, tool_versions
from edgestill.storage import whole_file, write_text
from edgestill.training import TaughtBy, Trained, check_exportable, train_models

if TYPE_CHECKING:
    from edgestill.distill.teachers import Teacher


@dataclass(frozen=True)
class RunResult:
    """A finished run: its report, where things are, and which steps were done or up to date."""

    document: ReportDocument
    bundle: Path
    report: Path
    done: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """One model to measure: the files that serve it, on which engine, and what it is in the report."""

    name: str
    role: Role
    model: Path | None
    sha256: str
    made: Made | None = None
    checkpoint: Checkpoint | None = None
    notes: tuple[str, ...] = ()
    asked: Teacher | None = None


def distill_recipe(recipe_file: Path, out_dir: Path, *, progress: Progress) -> Checkpoint:
    """Run a recipe as far as the student's checkpoint, and return it."""
    recipe = _checked_recipe(recipe_file)
    steps = Steps(out_dir, progress)
    with steps.locked():
        return train_models(steps, recipe, progress).student


def run_recipe(recipe_file: Path, out_dir: Path, *, progress: Progress) -> RunResult:
    """Run a recipe the whole way into ``out_dir``; what is up to date is not done again.

    Leaves ``report.html``, ``report.json``, ``report.md`` and ``bundle/``. Raises RecipeError and
    DataError before any work, GateError when a gate refused every artifact.
    """
    recipe = _checked_recipe(recipe_file)
    steps = Steps(out_dir, progress)
    with steps.locked():
        with whole_file(out_dir / "recipe.yaml") as copy:
            copy.write_bytes(recipe_file.read_bytes())
        trained = train_models(steps, recipe, progress)
        made = make_artifacts(steps, recipe, trained, progress)
        refused = {one.artifact.name: ", ".join(one.reasons) for one in made if not one.accepted}
        _check_left(recipe, [one.artifact.name for one in made if one.accepted], refused, "parity")
        rows = _rows(steps, recipe, trained, made, progress)
        measured = _measure(steps, recipe, trained, rows, progress)
        return _pack(steps, recipe, trained, made, rows, measured, progress)


def _checked_recipe(recipe_file: Path) -> Recipe:
    recipe = load_recipe(recipe_file)
    task_of(recipe)  # a task that can't be scored is refused before any work
    if recipe.bundle.sign is not None:
        from edgestill.signing import check_private_key

        check_private_key(recipe.bundle.sign)
    return recipe


def _rows(steps: Steps, recipe: Recipe, trained: Trained, made: list[Made], progress: Progress) -> list[_Row]:
    """List what is measured. Student and baseline are served as fp32 by the artifacts' own engine."""
    rows = [row for teacher in trained.teachers for row in _teacher_rows(steps, recipe, trained, teacher, progress)]

    def add(role: Role, name: str, served: Made, checkpoint: Checkpoint) -> None:
        rows.append(_Row(name, role, served.artifact.folder, served.artifact.sha256, served, checkpoint))

    first = recipe.export[0]
    plain = next(one for one in made if one.artifact.name == f"{first}-{PLAIN[first]}")
    if plain.accepted:
        add("student", "student", plain, trained.student)
    if trained.baseline is not None:
        baseline = make_plain(steps, "baseline", trained.baseline, trained.baseline_sha256, first, trained, progress)
        add("baseline", "baseline", baseline, trained.baseline)
    for one in made:
        if one.accepted:
            rows.append(_Row(one.artifact.name, "artifact", one.artifact.folder, one.artifact.sha256, one))
    return rows


def _teacher_rows(
    steps: Steps, recipe: Recipe, trained: Trained, teacher: TaughtBy, progress: Progress
) -> Iterator[_Row]:
    """Yield how a teacher is measured.

    A checkpoint is served once per format as fp32, so that an artifact is compared with it on the same
    engine; one that can't be exported is served by torch. Who is behind a server can only be asked.
    """
    name = "teacher" if len(trained.teachers) == 1 else f"teacher-{teacher.name}"
    if teacher.asked is not None:
        note = "asked over the network: its speed and memory are those of somebody else's machine, not measured"
        yield _Row(f"teacher-{teacher.name}", "teacher", None, teacher.sha256, notes=(note,), asked=teacher.asked)
    elif teacher.file is not None:
        yield _Row(f"teacher-{teacher.name}", "teacher", teacher.file, teacher.sha256)
    elif teacher.checkpoint is not None:
        checkpoint = teacher.checkpoint
        try:
            check_exportable(checkpoint)
        except UnsupportedError as error:
            note = f"served by torch, as it can't be exported: {error}"
            yield _Row(f"{name}-torch", "teacher", checkpoint.path, teacher.sha256, None, checkpoint, (note,))
            return
        for format in recipe.export:
            served = make_plain(steps, name, checkpoint, teacher.sha256, format, trained, progress)
            artifact = served.artifact
            yield _Row(f"{name}-{artifact.name}", "teacher", artifact.folder, artifact.sha256, served, checkpoint)


def _measure(
    steps: Steps, recipe: Recipe, trained: Trained, rows: list[_Row], progress: Progress
) -> dict[str, Measured]:
    """Evaluate every row, then bench every row (on a machine that does nothing else by then)."""
    test, test_sha256 = trained.test, trained.test_sha256
    quality: dict[str, Quality] = {}
    teachers: dict[Path, Quality] = {}
    spent = spent_on(trained.facts)
    for row in rows:
        # A teacher computes the same on both engines (parity says so): scored once, on the first.
        same = row.checkpoint.path if row.role == "teacher" and row.checkpoint is not None else None
        if same in teachers:
            quality[row.name] = teachers[same]
            continue
        if row.asked is not None:
            found, cost = ask_test(steps, recipe, row.name, row.asked, test, test_sha256, spent, progress)
            spent += cost
        else:
            model = _model_of(row)
            found = measure_quality(steps, recipe, row.name, model, row.sha256, test, test_sha256, progress)
        quality[row.name] = found
        if same is not None:
            teachers[same] = found
    measured = {}
    for row in rows:
        found = quality[row.name]
        # A baseline has the student's sizes: its speed is the student's.
        if row.role == "baseline" or row.model is None:
            measured[row.name] = Measured(found.metrics, found.rows, None, [])
            continue
        bench, seconds, answers = measure_speed(
            steps, recipe, row.name, row.model, row.sha256, test, test_sha256, progress
        )
        metrics = found.metrics if seconds is None else {**found.metrics, "answer_seconds": seconds}
        measured[row.name] = Measured(metrics, found.rows, bench, answers)
    return measured


def _model_of(row: _Row) -> Path:
    if row.model is None:
        raise StageError(f"{row.name} has no file to run")
    return row.model


def _pack(
    steps: Steps,
    recipe: Recipe,
    trained: Trained,
    made: list[Made],
    rows: list[_Row],
    measured: dict[str, Measured],
    progress: Progress,
) -> RunResult:
    metric = task_of(recipe).primary_metric
    records = [_record(row, measured[row.name]) for row in rows]
    teacher_score = measured[rows[0].name].metrics.get(metric)
    below = refuse_unfaithful(recipe, records, teacher_score, metric)
    shipped = [one.artifact for one in made if one.accepted and one.artifact.name not in below]
    refused = [Refused(name=one.artifact.name, reasons=one.reasons) for one in made if not one.accepted]
    refused += [Refused(name=name, reasons=(reason,)) for name, reason in below.items()]
    reasons = {one.name: ", ".join(one.reasons) for one in refused}
    _check_left(recipe, [artifact.name for artifact in shipped], reasons, "the gates")
    ship = choose_shipped(recipe, shipped, measured, metric)
    headline = _headline(recipe, ship, shipped, rows, measured)
    gain = None
    if {"student", "baseline"} <= measured.keys():
        gain = distilling_gain(recipe, measured["student"], measured["baseline"])
    parities = {one.artifact.name: one.parity for one in made}
    golden = _golden(steps, recipe, trained, shipped, progress)
    bundle_dir = steps.out_dir / "bundle"
    report_files = [steps.out_dir / name for name in ("report.html", "report.json", "report.md")]
    provenance = _provenance(recipe, trained)
    limit = answer_limit(trained.test) if recipe.task != "text" else 256

    def work() -> Any:
        from edgestill.bundle import open_bundle
        from edgestill.report import render_html, write_report
        from edgestill.runtime.environment import describe_environment
        from edgestill.signing import sign_bundle

        created = now()
        document = ReportDocument(
            name=recipe.name,
            created=created,
            task=recipe.task,
            headline=headline,
            distilling_gain=gain,
            models=tuple(records),
            refused=tuple(refused),
            environment=describe_environment(),
            recipe=recipe.model_dump(mode="json"),
            provenance=provenance,
        )
        write_bundle(
            bundle_dir,
            trained.student,
            [
                (
                    artifact,
                    describe(
                        artifact,
                        parities[artifact.name],
                        measured[artifact.name].metrics,
                        measured[artifact.name].bench,
                    ),
                )
                for artifact in shipped
            ],
            name=recipe.name,
            task=recipe.task,
            ship=ship,
            golden=golden,
            max_new_tokens=limit,
            headline=headline,
            report_html=render_html(document),
            license=recipe.bundle.license,
            created=created,
            provenance=provenance,
            system=recipe.bundle.system,
        )
        if recipe.bundle.sign is not None:
            sign_bundle(open_bundle(bundle_dir), recipe.bundle.sign)
        write_report(document, steps.out_dir)
        return {"document": document.model_dump(mode="json", by_alias=True)}

    depends = [
        recipe.model_dump(mode="json"),
        [record.model_dump(mode="json") for record in records],
        None if headline is None else headline.model_dump(mode="json"),
        [one.model_dump(mode="json") for one in refused],
        [artifact.sha256 for artifact in shipped],
        golden,
        provenance,
    ]
    title = "packing the bundle and writing the report"
    done = steps.run("bundle", depends, work, outputs=[bundle_dir, *report_files], title=title)
    document = ReportDocument.model_validate(done.value["document"])
    return RunResult(document, bundle_dir, report_files[0], tuple(steps.done), tuple(steps.skipped))


def _check_left(recipe: Recipe, left: list[str], refused: dict[str, str], by: str) -> None:
    """Raise GateError when nothing is left to ship, or not what the recipe says is shipped."""
    if not left:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise GateError(f"{by} refused every artifact ({reasons}); loosen the recipe's gates or train longer")
    ship = recipe.bundle.ship
    if ship is not None and ship not in left:
        reason = refused.get(ship, "the file that it is made from was refused")
        raise GateError(
            f"{by} refused {ship}, which bundle.ship asks for ({reason}); "
            "leave bundle.ship out to ship the best of the others, or loosen the recipe's gates"
        )


def _record(row: _Row, found: Measured) -> ModelRecord:
    size = None if found.bench is None else found.bench.size_bytes
    return ModelRecord(
        name=row.name,
        role=row.role,
        metrics=found.metrics,
        parity=None if row.made is None else row.made.parity,
        bench=found.bench,
        size_bytes=size if row.made is None else row.made.artifact.size_bytes,
        parameters=None if row.checkpoint is None else count_parameters(row.checkpoint),
        notes=row.notes if row.made is None else row.made.artifact.notes,
    )


def _headline(
    recipe: Recipe, ship: str | None, shipped: list[Artifact], rows: list[_Row], measured: dict[str, Measured]
) -> Headline | None:
    """Compare the shipped artifact with the first teacher: on its own engine, where the teacher is served there."""
    if ship is None:
        return None
    format = next(artifact.format for artifact in shipped if artifact.name == ship)
    teachers = [row.name for row in rows if row.role == "teacher"]
    teacher = next((name for name in teachers if name.endswith(f"-{format}-{PLAIN[format]}")), teachers[0])
    return make_headline(recipe, ship, teacher, measured[ship], measured[teacher])


def _golden(steps: Steps, recipe: Recipe, trained: Trained, shipped: list[Artifact], progress: Progress) -> str:
    def work() -> Any:
        from edgestill.runtime.golden import make_golden

        rows = golden_prompts(ExampleFile(trained.test), recipe.bundle.golden_prompts)
        limit = answer_limit(trained.test) if recipe.task != "text" else 64
        text = make_golden({artifact.name: artifact.folder for artifact in shipped}, rows, limit, progress=progress)
        write_text(golden_file, text)
        return None

    golden_file = steps.out_dir / "golden.jsonl"
    depends = [trained.test_sha256, recipe.bundle.golden_prompts, [artifact.sha256 for artifact in shipped]]
    steps.run("golden", depends, work, outputs=[golden_file], title="generating golden answers")
    return golden_file.read_text(encoding="utf-8")


def _provenance(recipe: Recipe, trained: Trained) -> dict[str, object]:
    return {
        "recipe": yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        "teachers": [
            {"kind": section.kind, "name": teacher.name, "sha256": teacher.sha256}
            for section, teacher in zip(recipe.teachers, trained.teachers, strict=True)
        ],
        "student": {"kind": recipe.student.kind, "sha256": trained.student_sha256},
        "data": trained.data_sha256,
        "training": trained.facts,
        "versions": tool_versions(),
    }


def count_parameters(checkpoint: Checkpoint) -> int:
    """Return the number of weights in a checkpoint's safetensors files."""
    from edgestill.safetensors import read_header

    tensors = (tensor for file in checkpoint.weight_files() for tensor in read_header(file))
    total = 0
    for tensor in tensors:
        size = 1
        for extent in tensor.shape:
            size *= extent
        total += size
    return total
