"""Natural language inference: does a premise entail a hypothesis, contradict it, or neither?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from edgestill.dataset import Example, Message, Row, string_of
from edgestill.errors import DataError
from edgestill.figure import Figure
from edgestill.runtime.tasks import GenerationTask, References, register
from edgestill.runtime.tasks.classification import macro_f1_figure

LABELS: Final = ("entailment", "neutral", "contradiction")
"""In the order of their numbers in SNLI and MultiNLI."""

_WORD: Final = re.compile(r"\b(entail(?:ment|ed|s)?|neutral|contradict(?:ion|ed|s|ory)?)\b", re.IGNORECASE)


def parse_label(text: str) -> str | None:
    """Return the label that an answer names, or None when it names none or several.

    ``Entailment.``, ``the answer is neutral`` and ``contradicts`` count; an answer that weighs two labels
    against each other is no answer.
    """
    found = {next(label for label in LABELS if label[:6] == word.lower()[:6]) for word in _WORD.findall(text)}
    return found.pop() if len(found) == 1 else None


@register
class NliTask(GenerationTask):
    """Accuracy and macro F1 over three labels."""

    name = "nli"
    primary_metric = "accuracy"
    fields = ("premise", "hypothesis")

    def build(self, row: Row, source: str) -> Example:
        """Ask for one of three words; ``label`` is such a word, or 0, 1, 2 as in SNLI."""
        premise, hypothesis = string_of(row, "premise", source), string_of(row, "hypothesis", source)
        asked = f"Premise: {premise}\nHypothesis: {hypothesis}\nEntailment, neutral or contradiction?"
        messages = [Message("user", asked)]
        if row.get("label") is not None:
            messages.append(Message("assistant", _label(row["label"], source)))
        return Example(tuple(messages), None, source)

    def gold(self, example: Example) -> References:
        """Return the gold label. Raises DataError when it is none of the three."""
        golds = super().gold(example)
        return (_label(golds[0], example.source),)

    def from_teacher(self, answer: str) -> str:
        """Return the bare label that an answer names."""
        return parse_label(answer) or answer

    def fault(self, answer: str, example: Example) -> str | None:
        """Refuse what isn't one label."""
        return None if parse_label(answer) is not None else "not one of the labels"

    def same(self, answer: str) -> str:
        """Return the label."""
        return parse_label(answer) or answer

    def score(self, predictions: Sequence[str], golds: Sequence[References]) -> dict[str, Figure]:
        """Return ``accuracy``, ``macro_f1`` and ``valid_label`` over the labels that answers name."""
        found = [parse_label(text) or "none" for text in predictions]
        n = len(found)
        hits = round(sum(self.score_rows(predictions, golds)))
        return {
            "accuracy": Figure.proportion(hits, n, "equal label"),
            "macro_f1": macro_f1_figure(found, [gold[0] for gold in golds]),
            "valid_label": Figure.proportion(n - found.count("none"), n, "answers that name one label"),
        }

    def score_rows(self, predictions: Sequence[str], golds: Sequence[References]) -> list[float]:
        """Return 1 for each right label, else 0."""
        return [float(parse_label(text) == gold[0]) for text, gold in zip(predictions, golds, strict=True)]


def _label(value: object, source: str) -> str:
    if isinstance(value, str) and value.strip() in ("0", "1", "2"):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(LABELS):
        return LABELS[value]
    if isinstance(value, str) and value.strip().lower() in LABELS:
        return value.strip().lower()
    raise DataError(f"{source}: label {value!r} is not one of {', '.join(LABELS)}, nor 0, 1, 2")
