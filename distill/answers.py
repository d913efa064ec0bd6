"""Teachers answer prompts; what is empty, unfinished or refused by the task is left out and counted.

With one teacher, each prompt has one answer. With several, or several samples, a plan says who is asked what,
and which of the answers is kept. Every answer goes at once into a ledger: neither a killed run nor another
one over the same prompts asks again.
"""

from __future__ import annotations

import collections
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgestill.dataset import Example, Message, write_examples
from edgestill.distill.judge import HIGHEST, Judge, Verdict
from edgestill.distill.ledger import Asking, Ledger, Question, Reply, default_ledger
from edgestill.distill.teachers import Limits, Teacher
from edgestill.errors import DataError
from edgestill.progress import SILENT, Progress
from edgestill.storage import whole_file

Validate = Callable[[Example], str | None]
"""Returns why an answered example is no good (one short reason, the same words each time), or None."""


@dataclass(frozen=True)
class Plan:
    """Who is asked what, how, and which answer is kept; ``shares`` are (weight, rule) of each teacher.

    ``ask`` is what a teacher is asked, ``learn`` the part of its answer that the student learns, ``same`` a
    form in which answers that say the same are equal. With ``combine: judge`` the best rated is kept.
    """

    combine: Literal["sample", "route", "agreement", "judge"] = "sample"
    shares: tuple[tuple[float, str | None], ...] = ((1.0, None),)
    samples: int = 1
    min_agreement: float = 0.5
    temperature: float = 0.0
    max_new_tokens: int = 128
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    judge: Judge | None = None
    ask: Callable[[Example], Sequence[Message]] = lambda example: example.prompt
    learn: Callable[[str], str] = lambda answer: answer
    same: Callable[[str], str] = lambda answer: " ".join(answer.split())


@dataclass(frozen=True)
class Dropped:
    """How many answers were left out for one reason, and one of them."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Account:
    """What one teacher gave: its answers to this plan, their tokens by its own count, and what they cost.

    ``cost`` is None without a price; ``new`` of the answers were asked for in this attempt.
    """

    teacher: str
    answers: int
    new: int
    prompt_tokens: int
    new_tokens: int
    cost: float | None


@dataclass(frozen=True)
class AnswersResult:
    """What the teachers answered; ``seconds`` are of this attempt alone.

    ``judged`` are the keys of the questions that a judge answered: their cost is in ``accounts``.
    """

    path: Path
    examples: tuple[Example, ...]
    asked: int
    dropped: tuple[Dropped, ...]
    accounts: tuple[Account, ...]
    seconds: float
    judged: frozenset[str] = frozenset()


def answer_prompts(
    teachers: Sequence[Teacher],
    examples: Sequence[Example],
    out_file: Path,
    plan: Plan,
    *,
    validate: Validate | None = None,
    ledger: Path | None = None,
    progress: Progress = SILENT,
) -> AnswersResult:
    """Let ``teachers`` answer the prompts of ``examples`` (their own answers are ignored) into JSONL.

    A prompt that occurs twice is asked once. Answers of paid teachers are kept in ``ledger`` (None: the
    user's own, for all recipes), those of local ones beside ``out_file``. Raises DataError when no answer
    is left, StageError when a teacher can't be reached or costs too much, DiskFullError.
    """
    started = time.monotonic()
    tally = _Tally()
    prompts: dict[str, Example] = {}
    for example in examples:
        if not example.prompt:
            tally.drop("no prompt to answer", example)
        elif prompts.setdefault(key := example.prompt_sha256(), example) is not example:
            tally.drop("the same prompt again", prompts[key])
    questions = {key: Question.of(plan.ask(example)) for key, example in prompts.items()}
    replies: dict[str, list[Reply]] = {key: [] for key in prompts}
    accounts = []
    limits = plan.limits
    for teacher, asked in zip(teachers, _assigned(plan, prompts), strict=True):
        file = (ledger or default_ledger()) if teacher.paid else out_file.with_name(f".{out_file.stem}.sqlite")
        with Ledger(file) as book:
            theirs = {key: questions[key] for key in asked}
            account, limits = _ask(teacher, theirs, plan, limits, book, replies, progress)
            accounts.append(account)
    candidates: list[list[Example]] = []
    judged: frozenset[str] = frozenset()
    for key, example in prompts.items():
        if not replies[key]:
            tally.drop("no teacher's rule matches", example)
        else:
            candidates.append(_good(plan, example, replies[key], validate, tally))
    if plan.combine == "judge" and plan.judge is not None:
        kept, verdict = _best(plan.judge, candidates, limits, tally, progress)
        accounts.append(_account(f"{plan.judge.teacher.name} (judge)", [*verdict.replies.values()], verdict.new))
        judged = frozenset(verdict.replies)
    else:
        kept = [good[0] for good in candidates if good]
    if not kept:
        names = ", ".join(teacher.name for teacher in teachers)
        raise DataError(f"none of {len(prompts)} answers of {names} is usable: {tally.summary()}")
    with whole_file(out_file) as partial:
        write_examples(partial, kept)
    seconds = time.monotonic() - started
    return AnswersResult(out_file, tuple(kept), len(prompts), tally.result(), tuple(accounts), seconds, judged)


def ask_greedily(
    teacher: Teacher,
    examples: Sequence[Example],
    plan: Plan,
    *,
    ledger: Path | None = None,
    progress: Progress = SILENT,
) -> tuple[list[str], float]:
    """Return a teacher's own greedy answer to each prompt, for scoring (empty where it gave none), and their cost."""
    questions = [Question.of(plan.ask(example)) for example in examples]
    unique = list({question.key: question for question in questions}.values())
    with Ledger(ledger or default_ledger()) as book:
        asking = Asking(0.0, plan.max_new_tokens, plan.seed)
        found = teacher.answer(unique, asking, book, plan.limits, progress)
    cost = sum(reply.cost or 0.0 for reply in found.values())
    return [plan.learn(found[question.key].text) for question in questions], cost


def _assigned(plan: Plan, prompts: dict[str, Example]) -> list[list[str]]:
    """Return the prompts of each teacher."""
    assigned: list[list[str]] = [[] for _ in plan.shares]
    weights = [weight for weight, _ in plan.shares]
    rules = [None if rule is None else re.compile(rule) for _, rule in plan.shares]
    for key, example in prompts.items():
        if plan.combine in ("agreement", "judge"):
            chosen: Sequence[int] = range(len(plan.shares))
        elif plan.combine == "route":
            question = example.prompt[-1].content
            chosen = [n for n, rule in enumerate(rules) if rule is None or rule.search(question)][:1]
        else:
            chosen = [_drawn(weights, key, plan.seed)]
        for number in chosen:
            assigned[number].append(key)
    return assigned


def _drawn(weights: Sequence[float], key: str, seed: int) -> int:
    """Draw by weight, from the prompt's own hash: the same whatever other prompts there are."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    at = int.from_bytes(digest[:8], "big") / 2**64 * sum(weights)
    for number, weight in enumerate(weights):
        at -= weight
        if at < 0:
            return number
    return len(weights) - 1


def _ask(
    teacher: Teacher,
    questions: dict[str, Question],
    plan: Plan,
    limits: Limits,
    ledger: Ledger,
    replies: dict[str, list[Reply]],
    progress: Progress,
) -> tuple[Account, Limits]:
    """Add the teacher's replies; return its account, and what may still be spent."""
    given: list[Reply] = []
    if questions:
        for sample in range(plan.samples):
            asking = Asking(plan.temperature, plan.max_new_tokens, plan.seed, sample)
            unique = list({question.key: question for question in questions.values()}.values())
            found = teacher.answer(unique, asking, ledger, limits, progress)
            for key, question in questions.items():
                replies[key].append(found[question.key])
            given += found.values()
            limits = limits.after(found.values())
    return _account(teacher.name, given, ledger.recorded), limits


def _account(name: str, given: Sequence[Reply], new: int) -> Account:
    costs = [reply.cost for reply in given if reply.cost is not None]
    prompt_tokens, new_tokens = sum(reply.prompt_tokens for reply in given), sum(reply.new_tokens for reply in given)
    return Account(name, len(given), new, prompt_tokens, new_tokens, sum(costs) if costs else None)


def _good(
    plan: Plan, example: Example, replies: Sequence[Reply], validate: Validate | None, tally: _Tally
) -> list[Example]:
    """Return the example with each answer that may be kept, the one that most agree on first; else count why."""
    good: list[str] = []
    faults: list[tuple[str, str]] = []
    for reply in replies:
        answer = plan.learn(reply.text)
        fault = _fault(reply, answer, example, validate)
        if fault is None:
            good.append(answer)
        else:
            faults.append((fault, reply.text))
    if not good:
        tally.drop(faults[0][0], example, faults[0][1])
        return []
    counts = collections.Counter(plan.same(answer) for answer in good)
    votes = counts.most_common(1)[0][1]
    if plan.combine != "judge" and len(replies) > 1 and votes / len(replies) < plan.min_agreement:
        tally.drop("the answers disagree", example, good[0])
        return []
    first = {said: next(answer for answer in good if plan.same(answer) == said) for said, _ in counts.most_common()}
    return [example.answered(answer) for answer in first.values()]


def _best(
    judge: Judge, candidates: Sequence[Sequence[Example]], limits: Limits, tally: _Tally, progress: Progress
) -> tuple[list[Example], Verdict]:
    """Return the best rated answer to each prompt; of equals the one that more agree on, then the first.

    Where there is one answer alone, nobody is asked.
    """
    verdict = judge.rate([one for good in candidates if len(good) > 1 for one in good], limits, progress=progress)
    ratings, kept = iter(verdict.ratings), []
    for good in candidates:
        rated = [(next(ratings) if len(good) > 1 else HIGHEST, one) for one in good]
        best = max((rating for rating, _ in rated if rating is not None), default=None)
        if best is not None:
            kept.append(next(one for rating, one in rated if rating == best))
        elif good:
            tally.drop("the judge gave no rating", good[0], good[0].completion or "")
    return kept, verdict


def _fault(reply: Reply, answer: str, example: Example, validate: Validate | None) -> str | None:
    if reply.fault is not None:
        return reply.fault
    if not reply.finished:
        return "not finished within max_new_tokens"
    if not answer.strip():
        return "empty answer"
    return validate(example.answered(answer)) if validate is not None else None


class _Tally:
    def __init__(self) -> None:
        self._counts: dict[str, list[Any]] = {}

    def drop(self, reason: str, example: Example, answer: str = "") -> None:
        prompt = example.prompt[-1].content if example.prompt else example.text or ""
        shown = f"{prompt[:200]!r} -> {answer[:200]!r}" if answer else repr(prompt[:200])
        self._counts.setdefault(reason, [0, shown])[0] += 1

    def result(self) -> tuple[Dropped, ...]:
        return tuple(Dropped(reason, count, shown) for reason, (count, shown) in sorted(self._counts.items()))

    def summary(self) -> str:
        return "; ".join(f"{entry.count} {entry.reason} ({entry.example})" for entry in self.result()) or "no prompt"
