"""Metrics of the tasks against references written again here, scipy, and a real model's known bits per byte."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edgestill.dataset import Example, Message, read_examples
from edgestill.errors import DataError, UnsupportedError
from edgestill.figure import Figure
from edgestill.runtime.intervals import (
    bootstrap_interval,
    paired_difference,
    paired_ratio,
    quantile_figure,
    quantile_ranks,
)
from edgestill.runtime.tasks import GenerationTask, LikelihoodTask, get_task, task_names
from edgestill.runtime.tasks.classification import macro_f1
from edgestill.runtime.tasks.json_action import canonical, parse_object
from edgestill.runtime.tasks.text import text_nats, token_nats, windows

BOS = 256
ALL = ("classification", "conversation", "json", "math", "nli", "qa", "summarization", "text")


class BigramEngine:
    """Logits depend on the last token only: log P(next | last) from a fixed table, plus a constant per row."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        raw = np.random.default_rng(7).normal(size=(257, 257)).astype(np.float32) * 3
        self.table = raw + np.arange(257, dtype=np.float32)[:, None] / 10
        self.longest = 0

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        assert len(token_ids) <= self.context_length
        self.longest = max(self.longest, len(token_ids))
        return self.table[np.asarray(token_ids)]


class ByteTokenizer:
    """One token a byte; ``adds_bos`` puts token 256 before a text."""

    def __init__(
        self, *, adds_bos: bool = True, bos_id: int | None = BOS, eos_ids: frozenset[int] = frozenset()
    ) -> None:
        self.adds_bos, self.bos_id, self.eos_ids, self.vocab_size = adds_bos, bos_id, eos_ids, 257

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        return [*([BOS] if add_special and self.adds_bos else []), *text.encode()]


def bigram_session(context_length: int = 64, **tokenizer: Any) -> Any:
    return SimpleNamespace(
        engine=BigramEngine(context_length), tokenizer=ByteTokenizer(**tokenizer), reset=lambda: None
    )


def text(value: str) -> Example:
    return Example(text=value, source="here:1")


def bigram_nats(table: np.ndarray, ids: list[int]) -> float:
    logs = scipy.special.log_softmax(table.astype(np.float64), axis=1)
    return -sum(logs[a, b] for a, b in itertools.pairwise(ids))


# registry


def test_every_task_file_registers_itself() -> None:
    assert task_names() == ALL
    assert isinstance(get_task("json"), GenerationTask)
    assert isinstance(get_task("text"), LikelihoodTask)


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match=f"'jsonn' is not one of {', '.join(ALL)}"):
        get_task("jsonn")


def test_a_row_without_an_answer_is_named() -> None:
    with pytest.raises(DataError, match=r"d\.jsonl:3"):
        get_task("classification").gold(Example((Message("user", "hi"),), source="d.jsonl:3"))


# json


@pytest.mark.parametrize(
    "refused",
    [
        "",
        "[1]",
        "1",
        'x {"a": 1}',
        '{"a": 1} x',
        '{"a": 1, "a": 1}',
        '{"a": {"b": 1, "b": 2}}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1',
        "{'a': 1}",
        '{"a": ' * 20000,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": "' + "x" * 70000 + '"}',
        '{"a": "line\nbreak"}',
    ],
    ids=lambda value: value[:16],
)
def test_what_is_not_one_strict_json_object_is_invalid(refused: str) -> None:
    assert parse_object(refused) is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4))
def test_spacing_and_key_order_do_not_matter(value: dict[str, object]) -> None:
    turned = dict(reversed(list(value.items())))
    parsed = parse_object("\n " + json.dumps(turned, indent=3) + " ")
    assert parsed is not None
    assert canonical(parsed) == canonical(parse_object(json.dumps(value)))


def test_true_is_not_one_and_thirty_is_thirty_point_zero() -> None:
    assert canonical({"v": True}) != canonical({"v": 1})
    assert canonical({"v": 30.0}) == canonical({"v": 30})
    assert canonical({"v": "30"}) != canonical({"v": 30})


def test_json_scores_count_whole_objects_actions_and_slots() -> None:
    gold = '{"action": "dim", "room": "hall", "value": 30}'
    predictions = [
        '{"value": 30, "room": "hall", "action": "dim"}',  # exact
        '{"action": "dim", "room": "den", "value": 30}',  # one slot wrong
        '{"action": "open", "room": "hall", "value": 30, "time": "8"}',  # action wrong, one slot too many
        "no idea",
    ]
    scores = get_task("json").score(predictions, [(gold,)] * 4)  # type: ignore[attr-defined]
    assert scores["accuracy"].value == 0.25
    assert scores["valid_json"].value == 0.75
    assert scores["action_accuracy"].value == 0.5
    true_positive, false_positive, false_negative = 2 + 1 + 2, 1 + 1, 1 + 2
    expected = 2 * true_positive / (2 * true_positive + false_positive + false_negative)
    assert scores["slot_f1"].value == pytest.approx(expected)
    assert scores["slot_f1"].ci95 is not None


@pytest.mark.parametrize("name", ["json", "classification"])
def test_the_rows_own_scores_have_the_primary_metric_as_their_mean(name: str) -> None:
    golds = [('{"action": "on"}',), ('{"action": "off"}',), ('{"action": "on"}',)]
    predictions = ['{"action": "on"}', "no idea", '{"action": "off"}']
    task = get_task(name)
    assert isinstance(task, GenerationTask)
    rows = task.score_rows(predictions, golds)
    assert rows == [1.0, 0.0, 0.0]
    assert task.statistics(predictions, golds).tolist() == [[1, 1], [0, 1], [0, 1]]
    assert task.combine(task.statistics(predictions, golds).sum(axis=0)) == pytest.approx(1 / 3)
    assert task.score(predictions, golds)[task.primary_metric].value == pytest.approx(sum(rows) / 3)


def test_answers_without_slots_have_no_slot_f1() -> None:
    scores = get_task("json").score(['{"action": "refuse"}'], [['{"action": "refuse"}']])  # type: ignore[attr-defined]
    assert scores["accuracy"].value == 1
    assert scores["slot_f1"].value is None


def test_a_gold_answer_that_is_not_json_is_an_error_of_the_data() -> None:
    row = Example((Message("user", "x"), Message("assistant", "sure!")), source="t.jsonl:9")
    with pytest.raises(DataError, match=r"t\.jsonl:9"):
        get_task("json").gold(row)


# classification


def reference_macro_f1(gold: list[int], predicted: list[int]) -> float:
    scores = []
    for label in {*gold, *predicted}:
        tp = sum(g == p == label for g, p in zip(gold, predicted, strict=True))
        fp = sum(p == label != g for g, p in zip(gold, predicted, strict=True))
        fn = sum(g == label != p for g, p in zip(gold, predicted, strict=True))
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn) if tp + fn else 0.0
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(scores) / len(scores)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_macro_f1_equals_the_definition(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = map(list, zip(*pairs, strict=True))
    assert macro_f1(np.array(gold), np.array(predicted), 6) == pytest.approx(reference_macro_f1(gold, predicted))


def test_labels_match_exactly_after_stripping() -> None:
    scores = get_task("classification").score([" card \n", "Card", "loan"], [["card"], ["card"], ["loan"]])  # type: ignore[attr-defined]
    assert scores["accuracy"].value == pytest.approx(2 / 3)
    assert scores["valid_label"].value == pytest.approx(2 / 3)
    assert scores["macro_f1"].value == pytest.approx((2 / 3 + 0 + 1) / 3)


# text


def test_bits_per_byte_is_the_code_length_over_the_bytes() -> None:
    session = bigram_session()
    texts = ["a tiny model", "naïve café", "x"]
    figures, statistics = get_task("text").measure(session, [text(value) for value in texts])  # type: ignore[attr-defined]
    assert get_task("text").combine(statistics.sum(axis=0)) == figures["bits_per_byte"].value
    nats = sum(bigram_nats(session.engine.table, [BOS, *value.encode()]) for value in texts)
    size = sum(len(value.encode()) for value in texts)
    assert figures["bits_per_byte"].value == pytest.approx(nats / math.log(2) / size, rel=1e-9)
    assert figures["perplexity"].value == pytest.approx(math.exp(nats / size), rel=1e-9)
    low, high = figures["bits_per_byte"].ci95
    assert low <= figures["bits_per_byte"].value <= high


@pytest.mark.parametrize("context", [4, 5, 16, 999])
def test_long_texts_are_scored_whole_whatever_the_window(context: int) -> None:
    session = bigram_session(context)
    value = "the cat sat on the mat and looked at the rain. " * 5
    figure = get_task("text").measure(session, [text(value)])[0]["bits_per_byte"]  # type: ignore[attr-defined]
    nats = bigram_nats(session.engine.table, [BOS, *value.encode()])
    assert figure.value == pytest.approx(nats / math.log(2) / len(value), rel=1e-9)
    assert session.engine.longest <= context


def test_without_a_bos_the_first_token_is_predicted_from_eos() -> None:
    session = bigram_session(adds_bos=False, bos_id=None, eos_ids=frozenset({10, 12}))
    figure = get_task("text").measure(session, [text("abc")])[0]["bits_per_byte"]  # type: ignore[attr-defined]
    assert figure.value == pytest.approx(bigram_nats(session.engine.table, [10, *b"abc"]) / math.log(2) / 3, rel=1e-9)


def test_a_tokenizer_with_neither_bos_nor_eos_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="neither bos nor eos"):
        get_task("text").measure(bigram_session(adds_bos=False, bos_id=None), [text("abc")])  # type: ignore[attr-defined]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 3), st.integers(2, 40))
def test_windows_score_each_token_once_with_half_a_window_of_context(total: int, first: int, window: int) -> None:
    first = min(first, window)
    scored: list[int] = []
    for start, fresh, end in windows(total, first, window):
        assert end - 1 - start <= window
        assert start < fresh < end
        assert start == 0 or fresh - start >= window // 2
        scored += range(fresh, end)
    assert scored == list(range(first, total))


def test_token_nats_survive_large_logits_and_many_rows() -> None:
    generator = np.random.default_rng(0)
    logits = (generator.normal(size=(150, 11)) * 500).astype(np.float32)
    targets = generator.integers(11, size=150)
    expected = -scipy.special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(150), targets].sum()
    assert token_nats(logits, targets) == pytest.approx(expected, rel=1e-12)


def test_a_conversation_is_refused_by_the_text_task() -> None:
    row = Example((Message("user", "hi"),), source="c.jsonl:2")
    with pytest.raises(DataError, match=r"c\.jsonl:2"):
        get_task("text").measure(bigram_session(), [row])  # type: ignore[attr-defined]


def test_a_real_model_has_its_known_bits_per_byte(shared_data: Path) -> None:
    """1.076 is the value recorded with the model: the first 200 stories, each cut at the context."""
    from edgestill.runtime.session import Session

    stories = shared_data / "tinystories-text" / "tinystories_sample.txt"
    session = Session.open(shared_data / "stories260K-hf", engine="torch", threads=1)
    try:
        nats, size = 0.0, 0
        for example in itertools.islice(read_examples(stories), 200):
            ids = session.tokenizer.encode(example.text or "", add_special=True)[:513]
            nats += text_nats(session.engine, ids[:1], ids[1:], 512)
            size += len(session.tokenizer.decode(ids).encode())
    finally:
        session.close()
    assert nats / math.log(2) / size == pytest.approx(1.076, abs=5e-4)


# intervals


@pytest.mark.parametrize("quantile", [0.5, 0.9])
@pytest.mark.parametrize("n", [1, 5, 6, 10, 35, 36, 63, 640])
def test_quantile_ranks_are_the_tightest_with_equal_binomial_tails(n: int, quantile: float) -> None:
    binomial = scipy.stats.binom(n, quantile)
    lower = [k for k in range(n) if binomial.cdf(k) <= 0.025]
    upper = [k for k in range(n) if binomial.sf(k) <= 0.025]
    expected = (max(lower), min(upper)) if lower and upper else None
    assert quantile_ranks(n, quantile) == expected


@pytest.mark.parametrize("n", [5, 6, 11, 100])
def test_the_median_has_the_interval_of_figure_median(n: int) -> None:
    samples = list(np.random.default_rng(n).normal(size=n))
    ours, theirs = quantile_figure(samples, 0.5, "seconds", "s"), Figure.median(samples, "seconds", "s")
    assert ours.value == pytest.approx(theirs.value)
    assert ours.ci95 == theirs.ci95


def test_the_bootstrap_agrees_with_scipy_and_repeats_itself() -> None:
    samples = np.random.default_rng(3).exponential(size=80)

    def mean(rows: np.ndarray) -> float:
        return float(samples[rows].mean())

    ours = bootstrap_interval(80, mean, resamples=4000)
    reference = scipy.stats.bootstrap(
        (samples,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours == pytest.approx((reference.low, reference.high), rel=0.03)
    assert ours == bootstrap_interval(80, mean, resamples=4000)
    assert bootstrap_interval(1, mean) is None


def test_paired_intervals_agree_with_scipy_and_are_narrower_than_unpaired_ones() -> None:
    random = np.random.default_rng(5)
    theirs = (random.random(400) < 0.8).astype(float)
    ours = np.where(random.random(400) < 0.06, 1.0, theirs)  # right wherever the other is, and on a few more rows
    means = [np.stack([rows, np.ones(400)], axis=1) for rows in (ours, theirs)]
    difference = paired_difference(*means, get_task("json").combine, "fraction", "test")
    reference = scipy.stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert difference.value == pytest.approx(ours.mean() - theirs.mean())
    assert difference.ci95 == pytest.approx((reference.low, reference.high), abs=2e-3)
    ratio = paired_ratio(*means, get_task("json").combine, "test")
    inverse = paired_ratio(*means, get_task("json").combine, "test", inverse=True)
    assert inverse.value == pytest.approx(1 / ratio.value)
    assert ratio.value == pytest.approx(ours.mean() / theirs.mean())
    assert ratio.ci95 is not None
    assert difference.ci95 is not None
    assert 1.0 <= ratio.ci95[0] <= ratio.value <= ratio.ci95[1] <= 1 + 2 * difference.ci95[1]


def test_a_ratio_to_nothing_has_no_value() -> None:
    ours, theirs = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    assert paired_ratio(ours, theirs, get_task("json").combine, "test").value is None
