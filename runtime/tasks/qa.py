"""Extractive question answering: the answer is a span of a given text.

Metrics are those of SQuAD (Rajpurkar et al., 2016; with unanswerable questions: 2018): answers are compared
without case, punctuation, articles and superfluous space; each counts by its best reference.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from edgestill.dataset import Example, Message, Row, string_of
from edgestill.errors import DataError
from edgestill.figure import Figure
from edgestill.runtime.intervals import bootstrap_interval
from edgestill.runtime.tasks import GenerationTask, References, register

UNANSWERABLE: Final = "unanswerable"
"""What is answered where the text has no answer (SQuAD 2's empty list of answers)."""

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Return an answer as SQuAD compares it: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """Return 1 when the normalised answers are equal, else 0."""
    return float(normalized(prediction) == normalized(gold))


def token_f1(prediction: str, gold: str) -> float:
    """Return the F1 of the two bags of words; an empty one agrees with an empty one alone."""
    ours, theirs = normalized(prediction).split(), normalized(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


@register
class QaTask(GenerationTask):
    """Exact match and token F1 by SQuAD's rules."""

    name = "qa"
    primary_metric = "f1"
    fields = ("context", "question")

    def build(self, row: Row, source: str) -> Example:
        """Show the text, then the question; the answers are ``answers`` (SQuAD's or plain strings) or ``answer``."""
        context, question = string_of(row, "context", source), string_of(row, "question", source)
        messages = [Message("user", f"{context}\n\nQuestion: {question}")]
        answers = _answers(row, source)
        if answers:
            messages.append(Message("assistant", answers[0]))
        return Example(tuple(messages), None, source, references=answers[1:])

    def fault(self, answer: str, example: Example) -> str | None:
        """Refuse what isn't a span of the text that was shown."""
        shown = example.prompt[-1].content if example.prompt else ""
        if normalized(answer) == UNANSWERABLE or normalized(answer) in normalized(shown):
            return None
        return "not in the text"

    def same(self, answer: str) -> str:
        """Return the answer as SQuAD compares it."""
        return normalized(answer)

    def score(self, predictions: Sequence[str], golds: Sequence[References]) -> dict[str, Figure]:
        """Return ``f1`` and ``exact_match``, each the mean over examples of the best over references."""
        rows = {
            "f1": self.score_rows(predictions, golds),
            "exact_match": [
                max(exact_match(text, reference) for reference in gold)
                for text, gold in zip(predictions, golds, strict=True)
            ],
        }
        return {name: mean_figure(values, f"SQuAD's {name}, best reference") for name, values in rows.items()}

    def score_rows(self, predictions: Sequence[str], golds: Sequence[References]) -> list[float]:
        """Return each answer's token F1 with its best reference."""
        pairs = zip(predictions, golds, strict=True)
        return [max(token_f1(text, reference) for reference in gold) for text, gold in pairs]


def mean_figure(values: Sequence[float], source: str) -> Figure:
    """Return the mean of values between 0 and 1, with a bootstrap interval over the examples."""
    if not values:
        return Figure.missing("fraction", source)
    rows = np.asarray(values, np.float64)
    interval = bootstrap_interval(len(rows), lambda picked: float(rows[picked].mean()))
    source = f"{source}; percentile bootstrap over examples"
    return Figure(value=float(rows.mean()), unit="fraction", n=len(rows), ci95=interval, source=source)


def _answers(row: Row, source: str) -> tuple[str, ...]:
    """Return the different answers of a row, in order; ``unanswerable`` for an empty list of them."""
    value = row.get("answers", row.get("answer"))
    if value is None:
        return ()
    if isinstance(value, dict):  # the columns of Hugging Face's squad: {"text": [...], "answer_start": [...]}
        value = value.get("text")
    values = value if isinstance(value, list) else [value]
    texts = [entry.get("text") if isinstance(entry, dict) else entry for entry in values]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{source}: 'answers' must be texts, or objects with a 'text'")
    return tuple(dict.fromkeys(str(text) for text in texts)) or (UNANSWERABLE,)
