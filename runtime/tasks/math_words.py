"""Math word problems: the last number counts, with the reasoning before it or without.

Gold answers end in ``#### 72``, as in GSM8K (Cobbe et al., 2021).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import ClassVar, Final

from edgestill.dataset import Example, Message, Row, string_of
from edgestill.errors import DataError, InputError
from edgestill.figure import Figure
from edgestill.runtime.tasks import GenerationTask, References, register

MARK: Final = "####"
_NUMBER: Final = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+")
_CALCULATOR: Final = re.compile(r"<<[^<>]*>>")
_ANNOUNCED: Final = re.compile(r"(?:####|\\boxed\{|answer\s*(?:is|:|=))", re.IGNORECASE)
_MAX_DIGITS: Final = 64
_THINK: Final = f"Think step by step, then write {MARK} and the number."
_SAY: Final = f"Write {MARK} and the number."


def final_number(text: str) -> Decimal | None:
    """Return the number that an answer ends in, or None.

    That is the first number after the last ``####``, ``\\boxed{`` or ``answer is``; without any of these the
    last number of the text. Dollar signs and thousands' commas are no part of it; 18.00 equals 18.
    """
    marks = list(_ANNOUNCED.finditer(text))
    numbers = _NUMBER.findall(text[marks[-1].end() :])[:1] if marks else _NUMBER.findall(text)[-1:]
    if not numbers:
        return None
    digits = numbers[0].replace(",", "").replace("$", "")
    if len(digits) > _MAX_DIGITS:
        return None
    try:
        return Decimal(digits)
    except InvalidOperation:
        return None


@register
@dataclass(frozen=True)
class MathTask(GenerationTask):
    """Accuracy of the final number; ``chain_of_thought`` (an option) has the reasoning written out before it."""

    chain_of_thought: bool = True
    name: ClassVar[str] = "math"
    primary_metric: ClassVar[str] = "accuracy"
    fields: ClassVar[tuple[str, ...]] = ("question", "answer")

    def configured(self, options: Mapping[str, object]) -> MathTask:
        """Return the task with ``chain_of_thought`` set."""
        unknown = options.keys() - {"chain_of_thought"}
        value = options.get("chain_of_thought", True)
        if unknown or not isinstance(value, bool):
            raise InputError(f"task 'math' has one option, chain_of_thought: true or false, found {dict(options)!r}")
        return MathTask(value)

    def build(self, row: Row, source: str) -> Example:
        """Ask the question; the answer is GSM8K's without its calculator marks, or its last line alone."""
        question, answer = string_of(row, "question", source), string_of(row, "answer", source)
        how = _THINK if self.chain_of_thought else _SAY
        number = final_number(answer)
        if number is None:
            raise DataError(f"{source}: no number in the answer {answer[:80]!r}")
        reasoned = _CALCULATOR.sub("", answer).strip()
        if not self.chain_of_thought or MARK not in reasoned:
            last = f"{MARK} {answer.rsplit(MARK, 1)[-1].strip() if MARK in answer else number}"
            reasoned = f"{reasoned}\n{last}" if self.chain_of_thought else last
        return Example((Message("user", f"{question}\n{how}"), Message("assistant", reasoned)), None, source)

    def gold(self, example: Example) -> References:
        """Return the gold answer. Raises DataError when there is no number in it."""
        golds = super().gold(example)
        if final_number(golds[0]) is None:
            raise DataError(f"{example.source}: no number in the answer {golds[0][:80]!r}")
        return golds

    def fault(self, answer: str, example: Example) -> str | None:
        """Refuse what has no number; with a gold answer beside the prompt, see the answer-check filter."""
        return None if final_number(answer) is not None else "no final number"

    def same(self, answer: str) -> str:
        """Return the final number: different ways to it say the same."""
        number = final_number(answer)
        return answer if number is None else str(number.normalize())

    def score(self, predictions: Sequence[str], golds: Sequence[References]) -> dict[str, Figure]:
        """Return ``accuracy`` of the final number, and ``has_number``."""
        n = len(predictions)
        hits = round(sum(self.score_rows(predictions, golds)))
        found = sum(final_number(text) is not None for text in predictions)
        return {
            "accuracy": Figure.proportion(hits, n, "equal final number"),
            "has_number": Figure.proportion(found, n, "answers with a number"),
        }

    def score_rows(self, predictions: Sequence[str], golds: Sequence[References]) -> list[float]:
        """Return 1 for each equal final number, else 0."""
        scores = []
        for text, gold in zip(predictions, golds, strict=True):
            found = final_number(text)
            scores.append(float(found is not None and found == final_number(gold[0])))
        return scores
