"""Evaluation over a session that answers from a table, and over a real model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgestill.dataset import Example, Message
from edgestill.errors import ContextFullError, DataError
from edgestill.runtime.evaluate import Prediction, evaluate, read_predictions, write_predictions
from edgestill.runtime.tasks import get_task


class TableSession:
    """Answers each user message from a table; one token a character."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.options: list[Any] = []
        self.tokenizer = SimpleNamespace(encode=lambda text, add_special=True: [ord(c) for c in text])

    def generate(self, prompt: tuple[Message, ...], options: Any) -> Any:
        self.options.append(options)
        text = self.answers[prompt[-1].content]
        ids = tuple(ord(c) for c in text)
        return SimpleNamespace(text=text, token_ids=ids, prompt_tokens=len(prompt[-1].content), finish_reason="stop")


def row(question: str, answer: str) -> Example:
    return Example((Message("user", question), Message("assistant", answer)), source=f"t.jsonl:{question}")


ROWS = [row("a", "card"), row("b", "loan"), row("c", "card")]


def test_answers_are_scored_and_kept_in_order(tmp_path: Path) -> None:
    session: Any = TableSession({"a": "card", "b": " loan", "c": "mortgage"})
    result = evaluate(session, get_task("classification"), ROWS, model_name="m")
    assert result.record.model == "m"
    assert result.record.metrics["accuracy"].value == pytest.approx(2 / 3)
    assert result.record.metrics["answer_seconds"].n == 3
    assert result.record.metrics["new_tokens"].value == pytest.approx((4 + 5 + 8) / 3)
    assert [(p.text, p.gold, p.new_tokens) for p in result.predictions] == [
        ("card", ("card",), 4),
        (" loan", ("loan",), 5),
        ("mortgage", ("card",), 8),
    ]
    write_predictions(tmp_path / "p.jsonl", result.predictions)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == ["t.jsonl:a", "t.jsonl:b", "t.jsonl:c"]


def test_there_is_room_for_the_longest_gold_answer_and_more() -> None:
    session: Any = TableSession({"a": "card", "b": "loan"})
    evaluate(session, get_task("classification"), [row("a", "x" * 40), row("b", "y")], model_name="m")
    assert {options.max_new_tokens for options in session.options} == {40 + 10 + 8}


def test_a_limit_stops_reading_examples() -> None:
    session: Any = TableSession({"a": "card", "b": "loan"})
    assert len(evaluate(session, get_task("classification"), iter(ROWS), model_name="m", limit=2).predictions) == 2


def test_a_prompt_that_does_not_fit_names_its_row() -> None:
    class Full(TableSession):
        def generate(self, prompt: tuple[Message, ...], options: Any) -> Any:
            raise ContextFullError("the prompt has 900 tokens")

    with pytest.raises(ContextFullError, match=r"t\.jsonl:a: the prompt has 900 tokens"):
        evaluate(Full({}), get_task("classification"), ROWS, model_name="m")  # type: ignore[arg-type]


def test_no_examples_is_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="no examples"):
        evaluate(TableSession({}), get_task("classification"), [], model_name="m")  # type: ignore[arg-type]


def test_a_real_session_answers_and_scores_text(tiny_checkpoint: Path) -> None:
    from edgestill.runtime.session import Session

    session = Session.open(tiny_checkpoint, engine="torch", threads=1)
    try:
        answered = evaluate(session, get_task("json"), [row("dim", '{"action": "dim"}')], model_name="tiny")
        scored = evaluate(session, get_task("text"), [Example(text="dim the lights " * 200)], model_name="tiny")
    finally:
        session.close()
    assert answered.record.metrics["accuracy"].value == 0
    assert answered.predictions[0].prompt_tokens > 0
    assert 1 < (scored.record.metrics["bits_per_byte"].value or 0) < 50
    assert scored.predictions == ()


def test_predictions_with_unicode_line_separators_come_back(tmp_path: Path) -> None:
    rows = [Prediction(f"row {n}", f"a\u2028b\u0085{n}", ("gold\u2029", "other"), 0.5, 3, 2, "stop") for n in range(2)]
    write_predictions(tmp_path / "p.jsonl", rows)
    assert read_predictions(tmp_path / "p.jsonl") == rows
