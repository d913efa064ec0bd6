"""The six tasks: rows as they come, and every metric against its reference implementation on the same answers."""

from __future__ import annotations

import collections
import random
import re
import string
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import sklearn.metrics
from rouge_score import rouge_scorer

from edgestill.dataset import Example, Message, read_examples
from edgestill.errors import DataError, InputError
from edgestill.runtime.tasks import GenerationTask, get_task
from edgestill.runtime.tasks.conversation import facts, mentions
from edgestill.runtime.tasks.math_words import final_number
from edgestill.runtime.tasks.nli import parse_label

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")
FILES = {  # task -> file, columns, rows, one of which
    "nli": ("conjnli/adversarial_train_15k.tsv", {"premise": "Premise", "hypothesis": "Hypothesis", "label": "Label"}),
    "qa": ("xquad-en/xquad.en.json", {}),
    "math": ("gsm8k/train.jsonl", {}),
    "summarization": ("scitldr-a/test.jsonl", {"document": "source", "summary": "target"}),
    "conversation": ("sgd/dev.text.jsonl", {}),
    "classification": ("banking77/test.csv", {"prompt": "text", "completion": "category"}),
}
ROWS = {"nli": 15_000, "qa": 1_190, "math": 7_473, "summarization": 618, "conversation": 2_098, "classification": 3_080}


def generation(name: str, **options: object) -> GenerationTask:
    task = get_task(name, options)
    assert isinstance(task, GenerationTask)
    return task


def rows_of(name: str, limit: int | None = None) -> list[Example]:
    file, columns = FILES[name]
    return list(read_examples(DATA / file, columns=columns, shape=get_task(name), limit=limit))


def spoilt(text: str, rng: random.Random, others: Sequence[str]) -> str:
    """An answer like a model's: right, another row's, cut short, with words lost, in other case, or empty."""
    words = text.split()
    return rng.choice(
        [
            text,
            text.upper(),
            rng.choice(others),
            " ".join(words[: len(words) // 2]),
            " ".join(word for word in words if rng.random() < 0.8),
            "The " + text + " !",
            "",
        ]
    )


def answers(name: str, count: int = 400) -> tuple[list[str], list[Sequence[str]]]:
    rng = random.Random(name)
    task = generation(name)
    golds = [task.gold(row) for row in rows_of(name)][:count]
    others = [gold[0] for gold in golds]
    return [spoilt(gold[0], rng, others) for gold in golds], golds


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_every_row_of_the_real_data_is_read_and_can_be_scored(name: str) -> None:
    rows = rows_of(name)
    assert len(rows) == ROWS[name]
    task = generation(name)
    for row in rows:
        if name != "conversation" or row.completion is not None:
            task.check(row)
    assert sum(row.completion is not None for row in rows) > 0.95 * len(rows)
    perfect = [task.gold(row)[0] for row in rows[:50] if row.completion is not None]
    figure = task.score(perfect, [(gold,) for gold in perfect])[task.primary_metric]
    assert figure.value == pytest.approx(1.0)


@needs_data
@pytest.mark.parametrize("name", ["nli", "classification"])
def test_accuracy_and_macro_f1_equal_scikit_learn(name: str) -> None:
    predictions, golds = answers(name)
    scores = generation(name).score(predictions, golds)
    found = [parse_label(text) or "none" for text in predictions] if name == "nli" else [t.strip() for t in predictions]
    gold = [text[0] for text in golds]
    assert scores["accuracy"].value == pytest.approx(sklearn.metrics.accuracy_score(gold, found), abs=1e-12)
    reference = sklearn.metrics.f1_score(gold, found, average="macro", zero_division=0)
    assert scores["macro_f1"].value == pytest.approx(reference, abs=1e-12)


def squad_words(text: str) -> list[str]:
    """SQuAD's normalisation, written again from its description."""
    lowered = "".join(character for character in text.lower() if character not in string.punctuation)
    return [word for word in re.sub(r"\b(a|an|the)\b", " ", lowered).split() if word]


def squad(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    exact = f1 = 0.0
    ours = squad_words(prediction)
    for reference in references:
        theirs = squad_words(reference)
        exact = max(exact, float(ours == theirs))
        shared = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
        if not ours or not theirs:
            f1 = max(f1, float(ours == theirs))
        elif shared:
            p, r = shared / len(ours), shared / len(theirs)
            f1 = max(f1, 2 * p * r / (p + r))
    return exact, f1


@needs_data
def test_exact_match_and_f1_follow_squads_rules() -> None:
    predictions, golds = answers("qa")
    golds = [(*gold, "an extra, second answer") for gold in golds]
    scores = generation("qa").score(predictions, golds)
    reference = np.array([squad(text, gold) for text, gold in zip(predictions, golds, strict=True)]).mean(axis=0)
    assert 0.2 < reference[0] < reference[1] < 0.9
    assert [scores["exact_match"].value, scores["f1"].value] == pytest.approx(list(reference), abs=1e-12)


@needs_data
def test_rouge_equals_rouge_score_and_bleu_equals_sacrebleu() -> None:
    predictions, golds = answers("summarization", 200)
    scores = generation("summarization").score(predictions, golds)
    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = rouge_scorer.RougeScorer(list(kinds.values()), use_stemmer=True)
    for ours, theirs in kinds.items():
        expected = [
            max(scorer.score(reference, text)[theirs].fmeasure for reference in gold)
            for text, gold in zip(predictions, golds, strict=True)
        ]
        assert scores[ours].value == pytest.approx(np.mean(expected), abs=1e-12)
    assert max(len(gold) for gold in golds) > 1


@needs_data
@pytest.mark.parametrize("name", ["summarization", "conversation"])
def test_corpus_bleu_and_its_sums_equal_sacrebleu(name: str) -> None:
    if name == "conversation":
        task = generation(name)
        golds: list[Sequence[str]] = [task.gold(row) for row in rows_of(name, 300) if row.completion is not None]
        rng = random.Random(1)
        predictions = [spoilt(gold[0], rng, [g[0] for g in golds]) for gold in golds]
    else:
        predictions, golds = answers(name, 200)
    most = max(len(gold) for gold in golds)
    streams = [[gold[n] if n < len(gold) else None for gold in golds] for n in range(most)]
    reference: Any = sacrebleu.corpus_bleu(predictions, streams)
    figure = generation(name).score(predictions, golds)["bleu"]
    assert figure.value == pytest.approx(reference.score / 100, abs=1e-9)
    assert figure.ci95 is not None
    assert figure.ci95[0] < figure.value < figure.ci95[1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("... 24 clips altogether.\n#### 72", "72"),
        ("#### 1,234,567.50", "1234567.5"),
        ("#### $18.00", "18"),
        ("#### -3", "-3"),
        ("So the answer is 7. Check: 3 + 4 = 7, not 8", "7"),
        (r"Hence \boxed{42}.", "42"),
        ("first 5, then 6", "6"),
        ("#### 5 apples, of 20", "5"),
        ("no number", None),
        ("####", None),
        ("9" * 100, None),
    ],
)
def test_the_final_number_is_found(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


@needs_data
def test_math_with_and_without_reasoning_asks_and_teaches_accordingly() -> None:
    file = DATA / FILES["math"][0]
    long, short = (
        next(read_examples(file, shape=generation("math", chain_of_thought=thinks))) for thinks in (True, False)
    )
    assert long.completion is not None
    assert "<<" not in long.completion
    assert long.completion.endswith("48+24 = 72 clips altogether in April and May.\n#### 72")
    assert short.completion == "#### 72"
    assert "step by step" in long.prompt[-1].content
    assert "step by step" not in short.prompt[-1].content
    assert generation("math").score([long.completion, "#### 71"], [("#### 72.0",)] * 2)["accuracy"].value == 0.5


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("entailment", "entailment"),
        ("Neutral.", "neutral"),
        ("The premise contradicts it", "contradiction"),
        ("It is entailed", "entailment"),
        ("neutral or contradiction", None),
        ("maybe", None),
        ("contra", None),
    ],
)
def test_a_label_is_read_out_of_an_answer(answer: str, label: str | None) -> None:
    assert parse_label(answer) == label


def test_numbered_labels_are_snlis(tmp_path: Path) -> None:
    path = tmp_path / "nli.jsonl"
    path.write_text(
        '{"premise": "a", "hypothesis": "b", "label": 2}\n{"premise": "a", "hypothesis": "b", "label": -1}\n'
    )
    reader = read_examples(path, shape=get_task("nli"))
    assert next(reader).completion == "contradiction"
    with pytest.raises(DataError, match=r"nli\.jsonl:2: label -1"):
        next(reader)


def test_an_unanswerable_question_has_a_word_for_it(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_text('{"context": "c", "question": "q", "answers": []}\n')
    (row,) = read_examples(path, shape=get_task("qa"))
    assert row.completion == "unanswerable"
    assert generation("qa").score(["unanswerable", "c"], [("unanswerable",)] * 2)["f1"].value == 0.5


def test_chain_of_density_asks_the_teacher_and_teaches_the_last_summary() -> None:
    plain, dense = generation("summarization"), generation("summarization", chain_of_density=3)
    row = Example((Message("user", "Summarize:\na long text"), Message("assistant", "short")))
    assert plain.teacher_prompt(row) == plain.prompt(row) == dense.prompt(row)
    assert "4 rounds" in dense.teacher_prompt(row)[-1].content
    answer = "Round 1: x\nRound 4: dense\nFinal summary: **dense**\n"
    assert (dense.from_teacher(answer), plain.from_teacher("x")) == ("dense", "x")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("math", {"chain_of_thought": 1}),
        ("math", {"cot": True}),
        ("summarization", {"chain_of_density": 99}),
        ("qa", {"a": 1}),
    ],
)
def test_a_wrong_option_is_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=name):
        get_task(name, options)


def test_slots_are_the_facts_of_the_right_reply() -> None:
    reply = "Booked for 11:30 am on 3/14, table for 2, call 408-971-8523 or pay $15."
    assert facts(reply) == ("11:30 am", "3/14", "2", "408-971-8523", "15")
    assert mentions("at 11:30 AM", "11:30 am")
    assert not mentions("at 12", "2")
    scores = generation("conversation").score(["a table for 2 at 11:30 am", "hello"], [(reply,), ("hello",)])
    assert scores["slot_accuracy"].value == pytest.approx(2 / 5)
