from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, Message, read_examples
from edgestill.distill import ChatTokenizer, answer_prompts
from edgestill.distill.generate import generate
from edgestill.distill.models import load_model
from edgestill.errors import DataError

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


def test_a_killed_run_repeats_no_finished_batch_and_ends_the_same(
    sharp_teacher: Checkpoint, requests: Requests, interrupting: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_new_tokens": 16, "batch_size": 4, "temperature": 0.7, "seed": 3}
    whole = answer_prompts(sharp_teacher, requests(20), tmp_path / "whole.jsonl", **options)
    out = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_prompts(sharp_teacher, requests(20), out, progress=interrupting(3), **options)
    assert not out.exists()
    ledger = tmp_path / ".answers.jsonl.ledger"
    ledger.write_bytes(ledger.read_bytes()[:-9])  # the kill tore the last line
    calls = []
    real = generate

    def counted(model: object, prompts: list[list[int]], **rest: object) -> object:
        calls.append(len(prompts))
        return real(model, prompts, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr("edgestill.distill.generate.generate", counted)
    result = answer_prompts(sharp_teacher, requests(20), out, **options)
    assert (len(calls), result.resumed) == (3, 11)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert result.examples == whole.examples
    again = answer_prompts(sharp_teacher, requests(20), out, **options)
    assert (len(calls), again.resumed) == (3, 20)


def test_other_settings_ignore_an_old_ledger(
    sharp_teacher: Checkpoint, requests: Requests, interrupting: type, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_prompts(sharp_teacher, requests(8), out, max_new_tokens=16, batch_size=4, progress=interrupting(1))
    assert answer_prompts(sharp_teacher, requests(8), out, max_new_tokens=17, batch_size=4).resumed == 0


def test_what_is_left_out_is_counted_with_a_reason_and_an_example(
    sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path
) -> None:
    examples = [*requests(10), requests(1)[0], Example((Message("user", "long " * 200),)), Example(text="no prompt")]

    def even(example: Example) -> str | None:
        return "starts with add" if example.prompt[-1].content.startswith("add") else None

    result = answer_prompts(sharp_teacher, examples, tmp_path / "a.jsonl", max_new_tokens=24, validate=even)
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
        answer_prompts(sharp_teacher, requests(4), tmp_path / "a.jsonl", max_new_tokens=2)
    assert not (tmp_path / "a.jsonl").exists()
