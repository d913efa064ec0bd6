"""The classification task: the answer is one label, written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgestill.figure import Figure
from edgestill.runtime.intervals import bootstrap_interval
from edgestill.runtime.tasks import GenerationTask, References, register


def macro_f1(gold: NDArray[np.int64], predicted: NDArray[np.int64], labels: int) -> float:
    """Return the unweighted mean of F1 over the labels that appear in gold or prediction.

    ``gold`` and ``predicted`` are int64 label numbers ``[n]`` below ``labels``. The same number as
    scikit-learn's ``f1_score(average="macro")``: a label that is never predicted rightly counts 0.
    """
    hits = np.bincount(gold[gold == predicted], minlength=labels)
    appearances = np.bincount(gold, minlength=labels) + np.bincount(predicted, minlength=labels)
    present = appearances > 0
    return float(np.mean(2 * hits[present] / appearances[present]))


@register
class ClassificationTask(GenerationTask):
    """Exact match of the label, white space around it aside."""

    name = "classification"
    primary_metric = "accuracy"

    def score(self, predictions: Sequence[str], golds: Sequence[References]) -> dict[str, Figure]:
        """Return ``accuracy``, ``macro_f1`` and ``valid_label``; the valid labels are those of ``golds``.

        A prediction that is no valid label is, for ``macro_f1``, a label of its own with F1 0.
        """
        found = [text.strip() for text in predictions]
        expected = [gold[0].strip() for gold in golds]
        n = len(expected)
        hits = round(sum(self.score_rows(predictions, golds)))
        valid = set(expected)
        return {
            "accuracy": Figure.proportion(hits, n, "exact match of the label"),
            "macro_f1": macro_f1_figure(found, expected),
            "valid_label": Figure.proportion(sum(text in valid for text in found), n, "answers that are a label"),
        }

    def score_rows(self, predictions: Sequence[str], golds: Sequence[References]) -> list[float]:
        """Return 1 for each right label, else 0."""
        return [float(text.strip() == gold[0].strip()) for text, gold in zip(predictions, golds, strict=True)]


def macro_f1_figure(found: Sequence[str], expected: Sequence[str]) -> Figure:
    """Return macro F1 over label texts; a prediction that is no valid label is a label of its own with F1 0."""
    n = len(expected)
    if n == 0:
        return Figure.missing("fraction", "no examples")
    number = {label: index for index, label in enumerate(sorted({*found, *expected}))}
    gold = np.array([number[label] for label in expected], dtype=np.int64)
    predicted = np.array([number[label] for label in found], dtype=np.int64)

    def over(rows: NDArray[np.int64]) -> float:
        return macro_f1(gold[rows], predicted[rows], len(number))

    return Figure(
        value=macro_f1(gold, predicted, len(number)),
        unit="fraction",
        n=n,
        ci95=bootstrap_interval(n, over),
        source="mean F1 over the labels in gold or prediction; percentile bootstrap over examples",
    )
