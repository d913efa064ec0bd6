"""Evaluate and bench every model of a run, and work out the headline from what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import Artifact
from edgestill.bench_results import BenchRecord
from edgestill.dataset import Message, read_examples
from edgestill.example_file import ExampleFile
from edgestill.figure import Figure
from edgestill.recipe import Recipe
from edgestill.results import Headline, ModelRecord
from edgestill.steps import Steps

if TYPE_CHECKING:
    from edgestill.progress import Progress
    from edgestill.runtime.tasks import Task

ANSWER_PROMPTS: Final = 20
ANSWER_REPETITIONS: Final = 3
_ANSWERS: Final = "task_answer_seconds"
_FOUR_BIT: Final = ("int4", "int4_g128", "q4_0", "q4_k_m")


@dataclass(frozen=True)
class Quality:
    """What one model scored: metrics, and each test row's statistics ``[rows, k]`` (see Task.combine)."""

    metrics: dict[str, Figure]
    rows: NDArray[np.float64]

    @classmethod
    def of(cls, value: dict[str, Any]) -> Quality:
        """Read back what a step recorded."""
        metrics = {key: Figure.model_validate(figure) for key, figure in value["metrics"].items()}
        return cls(metrics, np.array(value["statistics"], np.float64))


@dataclass(frozen=True)
class Measured:
    """What one model scored and how fast it is; ``answers`` are raw seconds per whole answer."""

    metrics: dict[str, Figure]
    rows: NDArray[np.float64]
    bench: BenchRecord | None
    answers: list[float]


def measure_quality(
    steps: Steps, recipe: Recipe, name: str, model: Path, sha256: str, test: Path, test_sha256: str, progress: Progress
) -> Quality:
    """Score one model on the test split through the runtime (step ``eval-<name>``)."""

    def work() -> Any:
        from edgestill.runtime.evaluate import evaluate, write_predictions
        from edgestill.runtime.session import Session

        with Session.open(model) as session:
            result = evaluate(session, task_of(recipe), read_examples(test), model_name=name, progress=progress)
        write_predictions(predictions, result.predictions)
        return {"metrics": result.record.model_dump(mode="json")["metrics"], "statistics": result.statistics.tolist()}

    predictions = steps.out_dir / "predictions" / f"{name}.jsonl"
    depends = [recipe.task, recipe.task_options, sha256, test_sha256]
    done = steps.run(f"eval-{name}", depends, work, outputs=[predictions], title=f"scoring {name}")
    return Quality.of(done.value)


def task_of(recipe: Recipe) -> Task:
    """Return the recipe's task with its options."""
    from edgestill.runtime.tasks import get_task

    return get_task(recipe.task, recipe.task_options)


def measure_speed(
    steps: Steps, recipe: Recipe, name: str, model: Path, sha256: str, test: Path, test_sha256: str, progress: Progress
) -> tuple[BenchRecord, Figure | None, list[float]]:
    """Bench one model in fresh processes: fixed lengths, and whole answers to the task's own prompts."""
    generates = recipe.task != "text"

    def work() -> Any:
        from edgestill.runtime.bench import bench_answers, bench_model
        from edgestill.runtime.bench_options import BenchOptions

        bench = recipe.bench
        options = BenchOptions(
            prompt_tokens=bench.prompt_tokens,
            new_tokens=bench.new_tokens,
            repetitions=bench.repetitions,
            threads=bench.threads,
        )
        record = bench_model(model, options, progress=progress).model_copy(update={"model": name})
        value: dict[str, Any] = {"bench": record.model_dump(mode="json"), "answer_seconds": None}
        if generates:
            answers = bench_answers(
                model,
                spread_prompts(test),
                BenchOptions(repetitions=ANSWER_REPETITIONS, threads=bench.threads),
                max_new_tokens=answer_limit(test),
                progress=progress,
            )
            value["answer_seconds"] = answers.answer_seconds.model_dump(mode="json")
            value["bench"]["raw"][_ANSWERS] = list(answers.raw["answer_seconds"])
        return value

    depends = [recipe.bench.model_dump(mode="json"), recipe.task == "text", sha256, test_sha256]
    done = steps.run(f"bench-{name}", depends, work, title=f"measuring {name}")
    seconds = done.value["answer_seconds"]
    bench = BenchRecord.model_validate(done.value["bench"])
    return bench, None if seconds is None else Figure.model_validate(seconds), bench.raw.get(_ANSWERS, [])


def spread_prompts(test: Path, count: int = ANSWER_PROMPTS) -> list[Sequence[Message]]:
    """Return prompts spread evenly over the test split."""
    rows = ExampleFile(test)
    stride = max(len(rows) // count, 1)
    return [rows[number].prompt for number in range(0, len(rows), stride)[:count]]


def answer_limit(test: Path) -> int:
    """Return a limit on new tokens that no right answer can reach: the longest gold answer's bytes."""
    return max((len((row.completion or "").encode()) for row in read_examples(test)), default=0) + 8


def choose_shipped(
    recipe: Recipe, artifacts: Sequence[Artifact], measured: dict[str, Measured], metric: str
) -> str | None:
    """Return the artifact to ship: the recipe's, else the 4-bit one with the best metric, then the fastest."""
    if recipe.bundle.ship is not None:
        return recipe.bundle.ship
    candidates = [artifact for artifact in artifacts if artifact.precision in _FOUR_BIT] or list(artifacts)
    if not candidates:
        return None

    def rank(artifact: Artifact) -> tuple[float, float]:
        found = measured[artifact.name]
        quality = found.metrics[metric].value if metric in found.metrics else None
        speed = found.metrics["answer_seconds"].value if "answer_seconds" in found.metrics else None
        if quality is None:
            return (math.inf, math.inf)
        return (-quality if task_of(recipe).higher_is_better else quality, speed if speed is not None else math.inf)

    return min(candidates, key=rank).name


def make_headline(recipe: Recipe, artifact: str, teacher: str, shipped: Measured, taught: Measured) -> Headline:
    """Compare the shipped artifact with the teacher as fp32, on the same engine if that can serve it."""
    return Headline(
        artifact=artifact,
        teacher=teacher,
        metric=task_of(recipe).primary_metric,
        accuracy_retention=_retention(recipe, shipped, taught),
        latency_reduction=_reduction(shipped, taught),
        memory_reduction=_memory(shipped.bench, taught.bench),
    )


def distilling_gain(recipe: Recipe, student: Measured, baseline: Measured) -> Figure:
    """Return what the student scores above the baseline on the same test rows."""
    from edgestill.runtime.intervals import paired_difference

    task = task_of(recipe)
    metric = task.primary_metric
    source = f"{metric} of the student - {metric} of the baseline, same test rows; paired bootstrap"
    return paired_difference(student.rows, baseline.rows, task.combine, student.metrics[metric].unit, source)


def _retention(recipe: Recipe, artifact: Measured, teacher: Measured) -> Figure:
    from edgestill.runtime.intervals import paired_ratio

    task = task_of(recipe)
    metric, inverse = task.primary_metric, not task.higher_is_better
    pair = f"{metric} of the artifact / {metric} of the teacher"
    if inverse:
        pair = f"{metric} of the teacher / {metric} of the artifact (lower is better)"
    source = f"{pair}, same test rows; paired bootstrap"
    return paired_ratio(artifact.rows, teacher.rows, task.combine, source, inverse=inverse)


def _reduction(shipped: Measured, taught: Measured) -> Figure:
    """1 - ratio of median seconds per answer; bootstrap interval over answers (percentile, 2,000 resamples)."""
    artifact, teacher = shipped.answers, taught.answers
    engines = {measured.bench.engine for measured in (shipped, taught) if measured.bench is not None}
    same = "same prompts and engine" if len(engines) == 1 else "same prompts, each on its own engine"
    source = f"1 - median seconds per answer of the artifact / of the teacher, {same}, bootstrap"
    if not artifact or not teacher:
        return Figure.missing("fraction", source)
    random = np.random.default_rng(0)
    ours, theirs = np.asarray(artifact), np.asarray(teacher)
    ratios = np.median(random.choice(ours, (2000, len(ours))), axis=1) / np.median(
        random.choice(theirs, (2000, len(theirs))), axis=1
    )
    low, high = np.percentile(ratios, [2.5, 97.5])
    value = 1 - float(np.median(ours) / np.median(theirs))
    return Figure(value=value, unit="fraction", n=len(ours), ci95=(1 - float(high), 1 - float(low)), source=source)


def _memory(artifact: BenchRecord | None, teacher: BenchRecord | None) -> Figure:
    source = "1 - weight bytes of the artifact / of the teacher, as each engine holds them"
    if artifact is None or teacher is None:
        return Figure.missing("fraction", source)
    ours, theirs = artifact.weights_bytes.value, teacher.weights_bytes.value
    if ours is None or not theirs:
        return Figure.missing("fraction", source)
    return Figure(value=1 - ours / theirs, unit="fraction", n=1, basis="derived", source=source)


def refuse_unfaithful(
    recipe: Recipe, rows: Sequence[ModelRecord], teacher: Figure | None, metric: str
) -> dict[str, str]:
    """Return artifact name -> reason for those below ``min_accuracy_retention`` of the teacher."""
    floor = recipe.gates.min_accuracy_retention
    if floor == 0 or teacher is None or not teacher.value:
        return {}
    refused = {}
    for row in rows:
        figure = row.metrics.get(metric)
        if row.role == "artifact" and figure is not None and figure.value is not None:
            better = task_of(recipe).higher_is_better
            kept = figure.value / teacher.value if better else teacher.value / figure.value
            if kept < floor:
                refused[row.name] = f"min_accuracy_retention: {kept:.4f} of the teacher's {metric}, {floor} is asked"
    return refused
