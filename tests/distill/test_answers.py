from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, Message, read_examples
from edgestill.distill import ChatTokenizer, answer_prompts
from edgestill.distill.answers import Plan
from edgestill.distill.generate import generate
from edgestill.distill.ledger import Asking, Ledger, Reply
from edgestill.distill.models import load_model
from edgestill.distill.teachers import Limits, open_teacher
from edgestill.distill.teachers.transformers import CheckpointTeacher
from edgestill.errors import DataError
from edgestill.export import export_checkpoint
from edgestill.runtime.tasks import GenerationTask, get_task
from edgestill.sections import GgufTeacher

Requests = Callable[[int], list[Example]]


def test_batched_greedy_answers_equal_transformers_one_by_one(sharp_teacher: Checkpoint, requests: Requests) -> None:
    tokenizer, model = ChatTokenizer.open(sharp_teacher), load_model(sharp_teacher).eval()
    prompts = [tokenizer.prompt_ids(example) for example in requests(9)]
    assert len({len(prompt) for prompt in prompts}) > 1  # so that some are padded
    ours = generate(model, prompts, end_ids=tokenizer.end_ids, pad_id=0, max_new_tokens=12)
    for prompt, answer in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[
            0, len(prompt) :
        ]
        expected = theirs.tolist()
        assert answer.finished == (expected[-1] == 1)
        assert list(answer.ids) == (expected[:-1] if answer.finished else expected)


def local(checkpoint: Checkpoint) -> CheckpointTeacher:
    return CheckpointTeacher(checkpoint, "local")


def plan(batch_size: int = 64, **options: Any) -> Plan:
    return Plan(limits=Limits(batch_size=batch_size), **options)


def test_a_killed_run_repeats_no_finished_batch_and_ends_the_same(
    sharp_teacher: Checkpoint, requests: Requests, interrupting: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plan(4, max_new_tokens=16, temperature=0.7, seed=3)
    whole = answer_prompts([local(sharp_teacher)], requests(20), tmp_path / "whole.jsonl", asked)
    out = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_prompts([local(sharp_teacher)], requests(20), out, asked, progress=interrupting(3))
    assert not out.exists()
    calls = []
    real = generate

    def counted(model: object, prompts: list[list[int]], **rest: object) -> object:
        calls.append(len(prompts))
        return real(model, prompts, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr("edgestill.distill.generate.generate", counted)
    result = answer_prompts([local(sharp_teacher)], requests(20), out, asked)
    assert (len(calls), result.accounts[0].new) == (2, 8)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert result.examples == whole.examples
    again = answer_prompts([local(sharp_teacher)], requests(20), out, asked)
    assert (len(calls), again.accounts[0].new) == (2, 0)
    assert again.examples == whole.examples


def test_a_half_recorded_batch_is_answered_again_whole(
    sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    first = answer_prompts([local(sharp_teacher)], requests(8), out, plan(4, temperature=0.7, max_new_tokens=16))
    with sqlite3.connect(tmp_path / ".answers.sqlite") as file:
        file.execute("DELETE FROM answers WHERE key = (SELECT min(key) FROM answers)")
    second = answer_prompts([local(sharp_teacher)], requests(8), out, plan(4, temperature=0.7, max_new_tokens=16))
    assert (second.examples, second.accounts[0].new) == (first.examples, 4)


def test_other_settings_ask_again(sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    answer_prompts([local(sharp_teacher)], requests(8), out, plan(4, max_new_tokens=16))
    again = answer_prompts([local(sharp_teacher)], requests(8), out, plan(4, max_new_tokens=17))
    assert again.accounts[0].new == 8


def test_what_is_left_out_is_counted_with_a_reason_and_an_example(
    sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path
) -> None:
    examples = [*requests(10), requests(1)[0], Example((Message("user", "long " * 200),)), Example(text="no prompt")]

    def even(example: Example) -> str | None:
        return "starts with add" if example.prompt[-1].content.startswith("add") else None

    result = answer_prompts(
        [local(sharp_teacher)], examples, tmp_path / "a.jsonl", plan(max_new_tokens=24), validate=even
    )
    dropped = {entry.reason: entry for entry in result.dropped}
    assert dropped["the same prompt again"].count == 1
    assert dropped["the prompt doesn't fit the context"].count == 1
    assert dropped["no prompt to answer"].count == 1
    assert dropped["starts with add"].count == 3
    assert "'add 0 and 0' -> '{" in dropped["starts with add"].example
    assert len(result.examples) + sum(entry.count for entry in result.dropped) == len(examples)
    assert [e.messages for e in read_examples(result.path)] == [e.messages for e in result.examples]


def test_when_no_answer_is_left_the_error_says_why(
    sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"none of 4 answers.*4 not finished within max_new_tokens"):
        answer_prompts([local(sharp_teacher)], requests(4), tmp_path / "a.jsonl", plan(max_new_tokens=2))
    assert not (tmp_path / "a.jsonl").exists()


class Table:
    """A teacher that answers from a table; what isn't there it answers with its own name."""

    paid = False

    def __init__(self, name: str, answers: dict[str, str] | None = None) -> None:
        self.name = self.identity = name
        self.answers = answers or {}
        self.asked: list[str] = []

    def answer(
        self, questions: Any, asking: Asking, ledger: Ledger, limits: Limits, progress: object
    ) -> dict[str, Reply]:
        self.asked += [question.messages[-1].content for question in questions]
        given = {q.key: self.answers.get(q.messages[-1].content, self.name) for q in questions}
        return {key: Reply(text, True, 1, 1) for key, text in given.items()}


def ask(count: int) -> list[Example]:
    return [Example((Message("user", f"question {number}"),)) for number in range(count)]


def test_prompts_are_drawn_by_weight_and_stay_with_their_teacher_as_data_grow(tmp_path: Path) -> None:
    shares = ((1.0, None), (3.0, None))
    few, many = (
        answer_prompts([Table("a"), Table("b")], ask(count), tmp_path / f"{count}.jsonl", Plan(shares=shares))
        for count in (100, 1000)
    )
    assert many.examples[:100] == few.examples
    answers = [example.completion for example in many.examples]
    assert 200 < answers.count("a") < 300
    assert [account.answers for account in many.accounts] == [answers.count("a"), answers.count("b")]


def test_a_rule_routes_prompts_to_the_first_teacher_that_matches(tmp_path: Path) -> None:
    shares = ((1.0, r" 1\d$"), (1.0, r"[02468]$"))
    plan = Plan(combine="route", shares=shares)
    result = answer_prompts([Table("teens"), Table("even")], ask(20), tmp_path / "a.jsonl", plan)
    said = {example.prompt[-1].content: example.completion for example in result.examples}
    assert (said["question 12"], said["question 4"], len(said)) == ("teens", "even", 15)
    assert [(entry.reason, entry.count) for entry in result.dropped] == [("no teacher's rule matches", 5)]


def test_agreement_keeps_what_most_answers_say(tmp_path: Path) -> None:
    teachers = [
        Table("a", {"question 0": "#### 7", "question 1": "1"}),
        Table("b", {"question 0": "so 7", "question 1": "2"}),
        Table("c", {"question 0": "8", "question 1": "3"}),
    ]
    same = generation_task("math").same
    plan = Plan(combine="agreement", shares=((1.0, None),) * 3, min_agreement=0.6, same=same)
    result = answer_prompts(teachers, ask(2), tmp_path / "a.jsonl", plan)
    assert [example.completion for example in result.examples] == ["#### 7"]
    assert [(entry.reason, entry.count) for entry in result.dropped] == [("the answers disagree", 1)]


def test_what_is_asked_and_what_is_learnt_may_differ_from_prompt_and_answer(tmp_path: Path) -> None:
    task = generation_task("summarization", chain_of_density=2)
    teacher = Table("long winded. Final summary: short")
    result = answer_prompts(
        [teacher], ask(1), tmp_path / "a.jsonl", Plan(ask=task.teacher_prompt, learn=task.from_teacher)
    )
    assert "3 rounds" in teacher.asked[0]
    assert [message.content for message in result.examples[0].messages] == ["question 0", "short"]


def generation_task(name: str, **options: object) -> GenerationTask:
    task = get_task(name, options)
    assert isinstance(task, GenerationTask)
    return task


def test_a_gguf_teacher_answers_as_its_checkpoint_does(
    sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path
) -> None:
    model = export_checkpoint(sharp_teacher, "gguf", "f32", tmp_path).model_path
    teachers = [local(sharp_teacher), open_teacher(GgufTeacher(kind="gguf", model=model, threads=1))]
    answers = [
        answer_prompts([teacher], requests(12), tmp_path / f"{number}.jsonl", Plan(max_new_tokens=24)).examples
        for number, teacher in enumerate(teachers)
    ]
    assert len(answers[0]) > 6  # finished, so kept
    assert answers[1] == answers[0]
    again = answer_prompts([teachers[1]], requests(12), tmp_path / "1.jsonl", Plan(max_new_tokens=24))
    assert (again.examples, again.accounts[0].new) == (answers[0], 0)
