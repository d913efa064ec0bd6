"""BLEU and ROUGE by their reference implementations (sacrebleu, rouge-score), as figures with intervals."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import MissingDependencyError
from edgestill.figure import Figure
from edgestill.runtime.intervals import bootstrap_interval

ROUGE: Final = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
_ORDERS: Final = 4


def rouge_rows(predictions: Sequence[str], golds: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Return ROUGE F1 of each answer with its best reference, stemmed: ``rouge_1``, ``rouge_2``, ``rouge_l``."""
    scorer = _rouge()
    rows: dict[str, list[float]] = {name: [] for name in ROUGE}
    for text, gold in zip(predictions, golds, strict=True):
        scores = scorer.score_multi(list(gold), text)
        for name, theirs in ROUGE.items():
            rows[name].append(float(scores[theirs].fmeasure))
    return rows


def bleu_counts(predictions: Sequence[str], golds: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Return what BLEU is computed from, for each answer ``[answers, 10]``.

    Columns: matching n-grams of order 1 to 4, all n-grams of order 1 to 4, tokens of the answer, tokens of
    the closest reference; by sacrebleu's tokenizer ``13a``.
    """
    metric = _bleu()
    rows = []
    for text, gold in zip(predictions, golds, strict=True):
        score = metric.corpus_score([text], [[reference] for reference in gold])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, np.float64).reshape(-1, 2 * _ORDERS + 2)


def bleu(sums: NDArray[np.float64]) -> float:
    """Return BLEU as a fraction from summed counts; the same number as sacrebleu's over the whole corpus."""
    counts = [int(value) for value in sums]
    score = type(_bleu()).compute_bleu(
        counts[:_ORDERS],
        counts[_ORDERS : 2 * _ORDERS],
        counts[-2],
        counts[-1],
        smooth_method="exp",
        effective_order=False,
        max_ngram_order=_ORDERS,
    )
    return float(score.score) / 100


def bleu_figure(counts: NDArray[np.float64]) -> Figure:
    """Return corpus BLEU with a bootstrap interval over the answers."""
    source = "sacrebleu, tokenizer 13a, exponential smoothing; percentile bootstrap over examples"
    n = len(counts)
    if not n:
        return Figure.missing("fraction", source)
    interval = bootstrap_interval(n, lambda picked: bleu(counts[picked].sum(axis=0)))
    return Figure(value=bleu(counts.sum(axis=0)), unit="fraction", n=n, ci95=interval, source=source)


@functools.cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingDependencyError("ROUGE needs rouge-score: pip install 'edgestill[metrics]'") from error
    return RougeScorer(list(ROUGE.values()), use_stemmer=True)


@functools.cache
def _bleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingDependencyError("BLEU needs sacrebleu: pip install 'edgestill[metrics]'") from error
    return BLEU()
