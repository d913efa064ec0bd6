"""What the student learns from: the teachers' answers to the recipe's prompts, checked and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, prompt_key, read_examples
from edgestill.errors import InputError
from edgestill.example_file import ExampleFile
from edgestill.filters import JudgeFilter
from edgestill.measuring import Quality, task_of
from edgestill.preparing import Prepared
from edgestill.progress import Progress
from edgestill.recipe import Recipe
from edgestill.steps import Steps
from edgestill.storage import sha256_json

_JUDGED_AT_ONCE: Final = 10_000

if TYPE_CHECKING:
    from edgestill.distill.answers import Plan
    from edgestill.distill.judge import Judge
    from edgestill.distill.teachers import Teacher


@dataclass(frozen=True)
class Learnt:
    """The rows that the student learns, on disk, and what they depend on in one hash."""

    rows: ExampleFile
    sha256: str


def open_teachers(recipe: Recipe, local: Checkpoint | None) -> list[Teacher]:
    """Return the recipe's teachers, ready to be asked; ``local`` is the one checkpoint, where there is just one."""
    from edgestill.distill.teachers import open_teacher
    from edgestill.distill.teachers.transformers import CheckpointTeacher

    if local is not None:
        return [CheckpointTeacher(local, recipe.teachers[0].name or "teacher")]
    return [open_teacher(section) for section in recipe.teachers]


def answer_data(
    steps: Steps, recipe: Recipe, data: Prepared, teachers: Sequence[Teacher], progress: Progress
) -> tuple[Learnt, dict[str, object]]:
    """Return the rows that the student learns: the teachers' answers, or the texts of a text task."""
    if recipe.task == "text":
        return Learnt(data.rows("train"), data.sha256["train"]), {"rows": data.counts["train"]}
    section = recipe.synthesize
    split = "prompts" if section.prompts is not None else "train"

    def work() -> Any:
        from edgestill.distill import answer_prompts

        # Conversations of train and of test may open alike: what the test asks is asked of no teacher.
        tested = {prompt_key(row) for row in data.rows("test")}
        asked = [question for row in data.rows(split) for question in task_of(recipe).questions(row)]
        questions = [question for question in asked if prompt_key(question) not in tested]
        if len(questions) < len(asked):
            progress.note(f"not asked: {len(asked) - len(questions):,} questions that the test split asks")
        result = answer_prompts(
            teachers,
            questions,
            answers,
            _plan(recipe, steps.out_dir),
            validate=_validator(recipe, data),
            ledger=section.ledger,
            progress=progress,
        )
        dropped = [{"reason": d.reason, "count": d.count, "example": d.example} for d in result.dropped]
        accounts = [
            {
                "teacher": one.teacher,
                "answers": one.answers,
                "prompt_tokens": one.prompt_tokens,
                "new_tokens": one.new_tokens,
                "cost": one.cost,
            }
            for one in result.accounts
        ]
        return {
            "asked": result.asked,
            "kept": len(result.examples),
            "tested": len(asked) - len(questions),
            "dropped": dropped,
            "teachers": accounts,
            "judged": sorted(result.judged),
        }

    answers = steps.out_dir / "answers.jsonl"
    how = section.model_dump(mode="json", include=set(_ASKED))
    # The labels that a classification's answers are checked by come from train.
    checked_by = [recipe.task, recipe.task_options, data.sha256["train"] if recipe.task == "classification" else None]
    who = [[teacher.identity, one.weight, one.when] for teacher, one in zip(teachers, recipe.teachers, strict=True)]
    judged_by = _judged_by(recipe) if section.combine == "judge" else None
    depends = [how, checked_by, data.sha256[split], data.sha256["test"], who, recipe.seed, judged_by]
    names = "the teacher answers" if len(teachers) == 1 else f"{len(teachers)} teachers answer"
    title = f"{names} {data.counts[split]:,} prompts"
    done = steps.run("answers", depends, work, outputs=[answers], title=title)
    for drop in done.value["dropped"]:
        progress.note(f"left out {drop['count']:,} answers: {drop['reason']}, for example {drop['example']}")
    for account in done.value["teachers"]:
        if account["cost"] is not None:
            progress.note(f"{account['teacher']}: {account['answers']:,} answers cost {account['cost']:.4f}")
    spent, judged = spent_on({"answers": done.value}), frozenset(done.value["judged"])
    rows, curated = _curated(steps, recipe, data, answers, done.sha256, spent, judged, progress)
    facts = {key: value for key, value in done.value.items() if key != "judged"}
    return rows, {"answers": facts, "curated": curated}


def spent_on(facts: Mapping[str, Any]) -> float:
    """Return what teachers and judge cost, by what the steps ``answers`` and ``curated`` recorded."""
    accounts = facts["answers"]["teachers"] if "answers" in facts else []
    judged = facts.get("curated", {}).get("judge_cost", 0.0)
    return float(sum(account["cost"] or 0.0 for account in accounts) + judged)


def _curated(
    steps: Steps,
    recipe: Recipe,
    data: Prepared,
    answers: Path,
    answers_sha256: str,
    spent: float,
    judged: frozenset[str],
    progress: Progress,
) -> tuple[Learnt, dict[str, Any]]:
    """Pass the answers, and gold if it is included, through the recipe's filters; ``judged`` are paid for already."""
    section = recipe.synthesize
    curated = steps.out_dir / "curated.jsonl"

    def work() -> Any:
        from edgestill.distill.curate import Context, curate

        files = [answers, *([data.folder / "train.jsonl"] if section.include_gold else [])]
        fault, test, rating = _validator(recipe, data), data.rows("test"), None
        judge_cost = 0.0
        at = next((n for n, one in enumerate(section.filters) if isinstance(one, JudgeFilter)), len(section.filters))
        first, rest, dropped, read = section.filters[:at], section.filters[at:], [], None
        worth = steps.out_dir / ".worth-judging.jsonl"
        try:
            if rest:
                # The judge is asked about what is left by then; each question costs.
                before = curate(_rows(files), worth, first, Context(fault, test), progress=progress)
                files, dropped, read = [worth], [*before.dropped], before.read
                rating, judge_cost = _ratings(recipe, ExampleFile(worth), steps.out_dir, spent, judged, progress)
            result = curate(
                _rows(files),
                curated,
                rest or first,
                Context(fault, test, rating),
                balance=section.balance,
                progress=progress,
            )
        finally:
            worth.unlink(missing_ok=True)
        shown = [
            {"filter": d.filter, "reason": d.reason, "count": d.count, "example": d.example}
            for d in (*dropped, *result.dropped)
        ]
        return {"read": read or result.read, "kept": result.kept, "dropped": shown, "judge_cost": judge_cost}

    depends = [
        [one.model_dump(mode="json", by_alias=True) for one in section.filters],
        None if section.balance is None else section.balance.model_dump(mode="json"),
        answers_sha256,
        [recipe.task, recipe.task_options, data.sha256["test"], data.sha256["train"]],
        section.include_gold,
        _judged_by(recipe) if any(isinstance(one, JudgeFilter) for one in section.filters) else None,
    ]
    done = steps.run("curated", depends, work, outputs=[curated], title="curating the answers")
    for drop in done.value["dropped"]:
        progress.note(f"{drop['filter']} dropped {drop['count']:,} rows: {drop['reason']}, such as {drop['example']}")
    if done.value["judge_cost"]:
        progress.note(f"the judge's ratings cost {done.value['judge_cost']:.4f}")
    return Learnt(ExampleFile(curated), done.sha256), done.value


def _rows(files: Sequence[Path]) -> Iterator[Example]:
    return (row for file in files for row in read_examples(file))


def _ratings(
    recipe: Recipe, rows: ExampleFile, out_dir: Path, spent: float, judged: frozenset[str], progress: Progress
) -> tuple[Callable[[Example], float | None], float]:
    """Let the judge rate all rows that have an answer; return what it said of a row, and what that cost.

    What ``judged`` names was rated, and counted in ``spent``, before.
    """
    plan = _plan(recipe, out_dir)
    if plan.judge is None:
        raise InputError("a filter of kind 'judge' needs synthesize.judge")
    limits, cost = replace(plan.limits, spent=spent), 0.0
    found: dict[bytes, float | None] = {}
    for at in range(0, len(rows), _JUDGED_AT_ONCE):
        part = [row for row in rows[at : at + _JUDGED_AT_ONCE] if row.completion is not None]
        verdict = plan.judge.rate(part, limits, paid=judged, progress=progress)
        found |= {_said(row): rating for row, rating in zip(part, verdict.ratings, strict=True)}
        limits, cost = replace(limits, spent=limits.spent + verdict.cost), cost + verdict.cost
    return lambda row: found[_said(row)], cost


def _said(row: Example) -> bytes:
    return bytes.fromhex(sha256_json(row.to_row()))


def _judge(recipe: Recipe, out_dir: Path) -> Judge | None:
    from edgestill.distill.judge import INSTRUCTIONS, Judge
    from edgestill.distill.teachers import open_teacher

    section = recipe.synthesize.judge
    if section is None:
        return None
    return Judge(
        open_teacher(section.teacher),
        section.instructions or INSTRUCTIONS,
        section.max_new_tokens,
        recipe.synthesize.ledger,
        out_dir / ".judge.sqlite",
    )


def _judged_by(recipe: Recipe) -> object:
    """Return what ratings depend on."""
    judge = _judge(recipe, Path())
    return None if judge is None else [judge.teacher.identity, judge.instructions, judge.max_new_tokens]


_ASKED = ("temperature", "max_new_tokens", "batch_size", "samples", "combine", "min_agreement")


def _plan(recipe: Recipe, out_dir: Path) -> Plan:
    from edgestill.distill.answers import Plan
    from edgestill.distill.teachers import Limits
    from edgestill.runtime.tasks import GenerationTask

    section, task = recipe.synthesize, task_of(recipe)
    own: dict[str, Any] = {}
    if isinstance(task, GenerationTask):
        own = {"ask": task.teacher_prompt, "learn": task.from_teacher, "same": task.same}
    return Plan(
        combine=section.combine,
        shares=tuple((one.weight, one.when) for one in recipe.teachers),
        samples=section.samples,
        min_agreement=section.min_agreement,
        temperature=section.temperature,
        max_new_tokens=section.max_new_tokens,
        seed=recipe.seed,
        limits=Limits(section.concurrency, section.batch_size, section.max_cost),
        judge=_judge(recipe, out_dir),
        **own,
    )


def _validator(recipe: Recipe, data: Prepared) -> Callable[[Example], str | None] | None:
    """Return the task's own check of a teacher's answer."""
    from edgestill.runtime.tasks import GenerationTask

    task = task_of(recipe)
    if recipe.task == "classification":
        labels = {(row.completion or "").strip() for row in data.rows("train")}
        return lambda row: None if (row.completion or "").strip() in labels else "not one of the labels"
    if isinstance(task, GenerationTask):
        return lambda row: task.fault(row.completion or "", row)
    return None


def ask_test(
    steps: Steps,
    recipe: Recipe,
    name: str,
    teacher: Teacher,
    test: Path,
    test_sha256: str,
    spent: float,
    progress: Progress,
) -> tuple[Quality, float]:
    """Score a teacher that can only be asked: its greedy answers to the test prompts, from the ledger or asked now.

    Returns what they cost, too.
    """

    def work() -> Any:
        from edgestill.distill.answers import ask_greedily

        task = task_of(recipe)
        if not isinstance(task, GenerationTask):
            raise InputError(f"teacher {name}: task {recipe.task!r} can't be scored by asking")
        rows = list(read_examples(test))
        plan, golds = _plan(recipe, steps.out_dir), [task.gold(row) for row in rows]
        plan = replace(plan, limits=replace(plan.limits, spent=spent))
        answers, cost = ask_greedily(teacher, rows, plan, ledger=recipe.synthesize.ledger, progress=progress)
        metrics = {name: figure.model_dump(mode="json") for name, figure in task.score(answers, golds).items()}
        return {"metrics": metrics, "statistics": task.statistics(answers, golds).tolist(), "cost": cost}

    from edgestill.runtime.tasks import GenerationTask

    depends = [recipe.task, recipe.task_options, teacher.identity, test_sha256, recipe.synthesize.max_new_tokens]
    done = steps.run(f"eval-{name}", depends, work, title=f"asking {name} the test questions")
    return Quality.of(done.value), float(done.value.get("cost", 0.0))
