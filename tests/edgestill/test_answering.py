"""What a run asks of teachers and judges: nothing that the test asks, and nothing that is paid for already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgestill import answering
from edgestill.answering import answer_data, ask_test, spent_on
from edgestill.distill.judge import Judge
from edgestill.distill.ledger import Asking, Ledger, Question, Reply
from edgestill.distill.teachers import Limits
from edgestill.preparing import prepare_data
from edgestill.progress import SILENT, Progress
from edgestill.recipe import load_recipe
from edgestill.steps import Steps


@dataclass
class Said:
    """A teacher that repeats the question, or rates it; each answer costs 1."""

    name: str
    paid: bool = True
    rates: bool = False
    asked: list[Question] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return self.name

    def answer(
        self, questions: Sequence[Question], asking: Asking, ledger: Ledger, limits: Limits, progress: Progress
    ) -> dict[str, Reply]:
        self.limits.append(limits)
        keys = {Ledger.key(self.identity, question, asking): question for question in questions}
        found = ledger.find(keys)
        new = {}
        for key in keys.keys() - found.keys():
            self.asked.append(keys[key])
            text = "Rating: 9" if self.rates else f"{self.name} says {keys[key].messages[-1].content}"
            new[key] = Reply(text, True, 1, 1, 1.0)
        ledger.record(self.identity, new)
        return {keys[key].key: reply for key, reply in {**found, **new}.items()}


def conversation(*turns: str) -> str:
    roles = ("user", "assistant")
    return json.dumps({"messages": [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]}) + "\n"


def recipe_of(folder: Path, **synthesize: Any) -> Path:
    (folder / "train.jsonl").write_text(
        conversation("hello", "hi", "a train please", "where to?") + conversation("a bus please", "where to?")
    )
    (folder / "validation.jsonl").write_text(conversation("how much", "five"))
    (folder / "test.jsonl").write_text(conversation("hello", "hi", "a table please", "for whom?"))
    (folder / "recipe.yaml").write_text(
        json.dumps(
            {
                "version": 1,
                "name": "x",
                "task": "conversation",
                "data": {split: f"{split}.jsonl" for split in ("train", "validation", "test")},
                "teachers": [{"kind": "transformers", "model": name} for name in ("one", "two")],
                "student": {"kind": "pretrained", "model": "student"},
                "distill": {"losses": [{"kind": "sft"}]},
                "synthesize": {"ledger": "ledger.sqlite", **synthesize},
            }
        )
    )
    return folder / "recipe.yaml"


def test_what_the_test_asks_is_asked_of_no_teacher_though_conversations_open_alike(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_of(tmp_path))
    steps = Steps(tmp_path / "out", SILENT)
    with steps.locked():
        teachers = [Said("one"), Said("two")]
        _, facts = answer_data(steps, recipe, prepare_data(steps, recipe, SILENT), teachers, SILENT)
    asked = {question.messages[-1].content for teacher in teachers for question in teacher.asked}
    assert asked == {"a train please", "a bus please"}
    answers: Any = facts["answers"]
    assert (answers["asked"], answers["tested"]) == (2, 1)


def test_ratings_are_paid_once_and_every_teacher_finds_the_same_purse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Said("judge", rates=True)
    monkeypatch.setattr(answering, "_judge", lambda recipe, out: Judge(judge, ledger=tmp_path / "ledger.sqlite"))
    section = {"teacher": {"kind": "transformers", "model": "judge"}}
    path = recipe_of(tmp_path, combine="judge", judge=section, filters=[{"kind": "judge"}], include_gold=True)
    recipe = load_recipe(path)
    steps = Steps(tmp_path / "out", SILENT)
    teachers = [Said("one"), Said("two")]
    with steps.locked():
        data = prepare_data(steps, recipe, SILENT)
        _, facts = answer_data(steps, recipe, data, teachers, SILENT)
        # Two prompts, two answers each, all four rated; of the filter's four the two best were rated before.
        curated: Any = facts["curated"]
        assert [len(teacher.asked) for teacher in (*teachers, judge)] == [2, 2, 6]
        assert curated["judge_cost"] == 2.0
        assert spent_on(facts) == 10.0
        test, spent = data.folder / "test.jsonl", spent_on(facts)
        for teacher in teachers:
            _, cost = ask_test(steps, recipe, teacher.name, teacher, test, data.sha256["test"], spent, SILENT)
            assert teacher.limits[-1].spent == spent
            spent += cost
        assert spent == 14.0
    assert "judged" not in facts["answers"]  # type: ignore[operator]
    again = Steps(tmp_path / "out", SILENT)
    with again.locked():
        _, same = answer_data(again, recipe, prepare_data(again, recipe, SILENT), teachers, SILENT)
    assert same == facts
    assert len(judge.asked) == 6
