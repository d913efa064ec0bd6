"""A judge: what it says is read with suspicion; it chooses between answers, drops bad ones, and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edgestill.dataset import Example, Message
from edgestill.distill.answers import Plan, answer_prompts
from edgestill.distill.curate import Context, curate
from edgestill.distill.judge import Judge, rating_in
from edgestill.distill.ledger import Asking, Ledger, Question, Reply
from edgestill.distill.teachers import Limits
from edgestill.errors import DataError, InputError
from edgestill.filters import JudgeFilter
from edgestill.progress import Progress


@dataclass
class Said:
    """A teacher of fixed answers: by the text of the last message, each costs 1."""

    name: str
    answers: dict[str, str]
    paid: bool = False
    asked: list[str] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return self.name

    def answer(
        self, questions: Sequence[Question], asking: Asking, ledger: Ledger, limits: Limits, progress: Progress
    ) -> dict[str, Reply]:
        self.spent.append(limits.spent)
        keys = {Ledger.key(self.identity, question, asking): question for question in questions}
        found = ledger.find(keys)
        new = {}
        for key in keys.keys() - found.keys():
            shown = keys[key].messages[-1].content
            self.asked.append(shown)
            text = next((said for part, said in self.answers.items() if part in shown), "")
            new[key] = Reply(text, True, 1, 1, 1.0)
        ledger.record(self.identity, new)
        return {keys[key].key: reply for key, reply in {**found, **new}.items()}


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Correct and short.\nRating: 9", 9),
        ("**Rating:** 7/10", 7),
        ("Rating: [[8]]", 8),
        ("It deserves a rating of 3 at first sight.\n\nRating: 6.5", 6.5),
        ("Score = 10", 10),
        (" 4 ", 4),
        ("4/10.", 4),
        ("Rating (1-10): 8", 8),
        ("On a scale from 1 to 10:\nRating: 7 out of 10", 7),
        ("Rating out of 10: 8", 8),
        ("Rating: 3\nA grade 10 pupil would do better.", 3),
        ("Rating: 1-10", None),
        ("Rating: 0", None),
        ("Rating: 11", None),
        ("Rating: 95%", None),
        ("The answer has 3 errors.", None),
        ("Rating: good", None),
        ("", None),
    ],
)
def test_a_rating_is_read_or_there_is_none(text: str, rating: float | None) -> None:
    assert rating_in(text) == rating


def asked(*prompts: str) -> list[Example]:
    return [Example((Message("user", prompt),)) for prompt in prompts]


def judge(ratings: dict[str, str], folder: Path) -> Judge:
    return Judge(Said("judge", ratings), local_ledger=folder / "judge.sqlite")


def test_the_best_rated_answer_is_kept_and_one_alone_is_not_judged(tmp_path: Path) -> None:
    one = Said("one", {"a": "poor", "b": "same", "c": "strange", "d": "first"})
    two = Said("two", {"a": "rich", "b": "same", "c": "odd", "d": "second"})
    bench = judge({"poor": "Rating: 2", "rich": "Rating: 9", "first": "Rating: 5", "second": "Rating: 5"}, tmp_path)
    plan = Plan(combine="judge", shares=((1.0, None), (1.0, None)), judge=bench)
    result = answer_prompts([one, two], asked("a", "b", "c", "d"), tmp_path / "answers.jsonl", plan)
    kept = {example.prompt[0].content: example.completion for example in result.examples}
    assert kept == {"a": "rich", "b": "same", "d": "first"}  # of equals the first; c has no rating
    assert [(drop.reason, drop.count) for drop in result.dropped] == [("the judge gave no rating", 1)]
    teacher = bench.teacher
    assert isinstance(teacher, Said)
    assert len(teacher.asked) == 6
    assert not any("same" in question for question in teacher.asked)
    assert [(account.teacher, account.answers, account.cost) for account in result.accounts] == [
        ("one", 4, 4.0),
        ("two", 4, 4.0),
        ("judge (judge)", 6, 6.0),
    ]
    # What the others cost is gone from the purse when the next is asked.
    assert (one.spent, two.spent, teacher.spent) == ([0.0], [4.0], [8.0])


def test_what_was_judged_is_not_judged_again(tmp_path: Path) -> None:
    bench = judge({"x": "Rating: 8"}, tmp_path)
    rows = [example.answered("x") for example in asked("a", "b")]
    first = bench.rate(rows, Limits())
    again = bench.rate(rows, Limits())
    assert first.ratings == again.ratings == (8, 8)
    assert (first.new, again.new) == (2, 0)


def test_the_filter_drops_what_is_rated_low_or_not_at_all(tmp_path: Path) -> None:
    rows = [example.answered(said) for example, said in zip(asked("a", "b", "c"), ("good", "bad", "odd"), strict=True)]
    ratings = {"good": 8.0, "bad": 3.0, "odd": None}
    context = Context(rating=lambda row: ratings[row.completion or ""])
    result = curate(rows, tmp_path / "rows.jsonl", [JudgeFilter()], context)
    assert result.kept == 1
    assert {(drop.filter, drop.reason) for drop in result.dropped} == {
        ("judge", "rated below 7"),
        ("judge", "the judge gave no rating"),
    }
    with pytest.raises(InputError, match="needs ratings"):
        curate(rows, tmp_path / "rows.jsonl", [JudgeFilter()], Context())
    with pytest.raises(DataError, match="none of 3 rows is left"):
        curate(rows, tmp_path / "none.jsonl", [JudgeFilter(min_rating=9)], context)


def test_a_row_without_an_answer_isnt_judged(tmp_path: Path) -> None:
    result = curate(asked("a"), tmp_path / "rows.jsonl", [JudgeFilter()], Context(rating=lambda row: None))
    assert result.kept == 1


def test_a_rating_that_was_cut_is_none(tmp_path: Path) -> None:
    class Cut(Said):
        def answer(self, *given: Any, **named: Any) -> dict[str, Reply]:
            found = super().answer(*given, **named)
            return {key: replace(reply, finished=False) for key, reply in found.items()}

    bench = Judge(Cut("judge", {"x": "Rating: 1"}), local_ledger=tmp_path / "judge.sqlite")
    assert bench.rate([asked("a")[0].answered("x")], Limits()).ratings == (None,)


def test_what_was_paid_for_before_costs_nothing_again(tmp_path: Path) -> None:
    bench = judge({"x": "Rating: 8"}, tmp_path)
    first = bench.rate([asked("a")[0].answered("x")], Limits())
    again = bench.rate([row.answered("x") for row in asked("a", "b")], Limits(), paid=frozenset(first.replies))
    assert (first.cost, again.cost) == (1.0, 1.0)
    assert again.ratings == (8, 8)
    # Killed and run again: what this rating cost counts still.
    assert bench.rate([asked("b")[0].answered("x")], Limits()).cost == 1.0
