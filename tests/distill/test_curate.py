"""Curating: duplicates against brute force, each filter on rows that it must and mustn't drop, memory that stays."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgestill.dataset import Example, Message, read_examples
from edgestill.distill.curate import Context, Curated, curate
from edgestill.distill.curate.minhash import Hashes, Signatures, bit
from edgestill.errors import DataError
from edgestill.filters import Balance, ExactFilter, Filter, NearFilter
from edgestill.recipe import Recipe

WORDS = ("the", "a", "red", "blue", "lamp", "chair", "window", "garden", "letter", "cloud", "river", "stone", "door")


def sentences(count: int, seed: int, length: int = 30) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) + str(rng.randrange(50)) for _ in range(length)) for _ in range(count)]


def row(prompt: str, answer: str | None = None) -> Example:
    said = () if answer is None else (Message("assistant", answer),)
    return Example((Message("user", prompt), *said), None, f"rows:{prompt[:10]}")


def jaccard(a: str, b: str) -> float:
    grams = [{text.encode()[at : at + 5] for at in range(len(text.encode()) - 4)} for text in (a, b)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def curated(rows: list[Example], folder: Path, *filters: Filter, **options: Any) -> tuple[Curated, list[Example]]:
    context = options.pop("context", Context())
    result = curate(rows, folder / "out.jsonl", filters, context, **options)
    left = list(read_examples(result.path))
    assert len(left) == result.kept
    assert result.kept + sum(drop.count for drop in result.dropped) == result.read == len(rows)
    assert [path.name for path in folder.iterdir()] == ["out.jsonl"]
    return result, left


def test_signatures_estimate_jaccards_similarity(tmp_path: Path) -> None:
    rng = random.Random(3)
    base = sentences(1, 1, 60)[0].split()
    texts = []
    for changed in range(0, 60, 6):
        words = list(base)
        for at in rng.sample(range(60), changed):
            words[at] = f"other{at}"
        texts.append(" ".join(words))
    with Signatures(tmp_path) as signatures:
        minima = signatures.of(texts)
    for a, b in itertools.combinations(range(len(texts)), 2):
        estimate = float(np.mean(minima[a] == minima[b]))
        assert estimate == pytest.approx(jaccard(texts[a], texts[b]), abs=4.5 * 0.0442)


def test_near_duplicates_are_those_that_brute_force_finds(tmp_path: Path) -> None:
    rng = random.Random(4)
    texts = sentences(300, 2)
    for original in texts[:100]:
        words = original.split()
        words[rng.randrange(len(words))] = "changed"
        texts.append("  ".join(words).upper())  # case and spacing don't count
    with Signatures(tmp_path) as signatures:
        for at in range(0, 400, 64):
            signatures.add(texts[at : at + 64])
        found = signatures.near(0.8)
        assert [bit(found, number) for number in range(300)] == [False] * 300
        assert sum(bit(found, number) for number in range(300, 400)) >= 97
        assert not any(bit(signatures.near(1.0), number) for number in range(400))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [7, 64, 1 << 20])
def test_repetitions_are_found_whatever_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr("edgestill.distill.curate.minhash._PART", part)
    rng = np.random.default_rng(1)
    values = rng.integers(0, 1 << 63, 40, np.uint64)[rng.integers(0, 40, 300)]
    hashes = Hashes(tmp_path / "hashes")
    hashes.add(values[:100])
    hashes.add(values[100:])
    found = hashes.repeated()
    seen: set[int] = set()
    for number, value in enumerate(values.tolist()):
        assert bit(found, number) == (value in seen)
        seen.add(value)
    hashes.close()


def test_exact_and_near_repetitions_are_counted_with_an_example(tmp_path: Path) -> None:
    texts = sentences(20, 5)
    rows = [row(text, "yes") for text in texts] + [row(texts[3], "yes"), row(texts[4] + " indeed", "yes")]
    result, left = curated(rows, tmp_path, ExactFilter(), NearFilter(kind="near"))
    assert [(drop.filter, drop.count) for drop in result.dropped] == [("exact", 1), ("near", 1)]
    assert texts[3][:50] in result.dropped[0].example
    assert [example.messages for example in left] == [example.messages for example in rows[:20]]


def filter_of(section: dict[str, Any]) -> Filter:
    recipe = Recipe.model_validate(
        {
            "version": 1,
            "name": "x",
            "task": "json",
            "data": {"train": "x.jsonl"},
            "teachers": [{"kind": "transformers", "model": "a/b"}],
            "student": {"kind": "pruned", "layers": 1},
            "synthesize": {"filters": [section]},
        }
    )
    return recipe.synthesize.filters[0]


GERMAN = "Der Zug nach Hamburg fährt heute leider erst um acht Uhr ab"
ENGLISH = "The train to the coast is late again because of the heavy snow"
CASES: list[tuple[dict[str, Any], Example, str | None]] = [
    ({"kind": "schema"}, row("a", "b"), None),
    ({"kind": "schema"}, row("a"), "no answer"),
    ({"kind": "schema"}, row("a", "  "), "an empty message"),
    ({"kind": "schema"}, Example((Message("user", "a"), Message("user", "b"))), "don't alternate"),
    ({"kind": "schema"}, Example((Message("system", "s"), Message("user", "a"), Message("assistant", "b"))), None),
    ({"kind": "length", "min_words": 2}, row("a", "b"), "fewer than 2 words"),
    ({"kind": "length", "max_words": 2}, row("a", "b c d"), "more than 2 words"),
    ({"kind": "length", "max_prompt_words": 2}, row("a b c", "d"), "a prompt of more than 2 words"),
    ({"kind": "length", "min_words": 1, "max_words": 3}, row("a b c d e", "d"), None),
    ({"kind": "refusal"}, row("a", "I'm sorry, but I can't help with that."), "refuses"),
    ({"kind": "refusal"}, row("a", "As an AI language model, I have no opinion."), "refuses"),
    ({"kind": "refusal"}, row("a", "Unfortunately, I cannot do this."), "refuses"),
    ({"kind": "refusal"}, row("a", "I am sorry for the delay of your parcel, it comes today."), None),
    ({"kind": "refusal"}, row("a", "Say: I'm sorry, I can't come."), None),
    ({"kind": "refusal", "phrases": ["No Comment"]}, row("a", "well, no comment."), "refuses"),
    ({"kind": "truncation"}, row("a", " ".join(["word"] * 12)), "ends in the middle"),
    ({"kind": "truncation"}, row("a", " ".join(["word"] * 12) + "."), None),
    ({"kind": "truncation"}, row("a", "a label"), None),
    ({"kind": "truncation"}, row("a", "```python\nprint(1)"), "open code fence"),
    ({"kind": "language", "is": ["en"]}, row("a", GERMAN), "in de"),
    ({"kind": "language", "is": ["en"]}, row("a", ENGLISH), None),
    ({"kind": "language", "is": ["en"]}, row("a", "ja"), None),
    ({"kind": "contamination"}, row("Is THIS  a test, prompt", "x"), "a test prompt"),
    ({"kind": "contamination"}, row("is this a «test» prompt?", "x"), None),
    ({"kind": "contamination", "words": 4}, row("well is this a test then", "x"), "4 words in a row"),
    ({"kind": "contamination"}, row("is this another", "x"), None),
    ({"kind": "answer"}, row("a", "wrong"), "not right"),
]


@pytest.mark.parametrize(("section", "example", "reason"), CASES)
def test_each_filter_drops_what_it_must_and_nothing_else(
    section: dict[str, Any], example: Example, reason: str | None, tmp_path: Path
) -> None:
    def fault(example: Example) -> str | None:
        return "not right" if example.completion == "wrong" else None

    context = Context(fault, [row("is this a test prompt?", "y")])
    always = row("something else", "it stays")
    result, left = curated([always, example], tmp_path, filter_of(section), context=context)
    assert len(left) == (2 if reason is None else 1)
    assert ([] if reason is None else [reason in drop.reason for drop in result.dropped]) == [True] * len(
        result.dropped
    )


@pytest.mark.parametrize(
    ("by", "group"), [("label", lambda row: row.completion), ("length", lambda row: len(row.completion.split()))]
)
def test_balancing_cuts_large_groups_and_keeps_the_same_rows_as_data_grow(
    by: Any, group: Callable[[Example], Any], tmp_path: Path
) -> None:
    answers = ["one"] * 2000 + ["two words"] * 300 + ["more than three words"] * 100
    rows = [row(f"question {number}", answer) for number, answer in enumerate(answers)]
    result, left = curated(rows, tmp_path, balance=Balance(by=by, ratio=2.0))
    counts = {kind: sum(group(e) == kind for e in left) for kind in {group(e) for e in rows}}
    sizes = sorted(counts.values())
    assert sizes[0] == 100
    assert all(150 <= size <= 250 for size in sizes[1:])
    assert all(drop.filter == "balance" for drop in result.dropped)
    _, kept = curated(rows, tmp_path, balance=Balance(by=by, ratio=2.0))
    assert kept == left


def test_when_nothing_is_left_the_error_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 2 rows is left: 2 by schema: no answer"):
        curate([row("a"), row("b")], tmp_path / "out.jsonl", [filter_of({"kind": "schema"})], Context())
    assert not list(tmp_path.iterdir())


MEASURED = """
import resource, sys, random
from pathlib import Path
from edgestill.dataset import Example, Message
from edgestill.distill.curate import Context, curate
from edgestill.filters import ContaminationFilter, ExactFilter, NearFilter, SchemaFilter
def rows(count):
    rng = random.Random(0)
    for number in range(count):
        text = " ".join(str(rng.randrange(10**6)) for _ in range(20))
        yield Example((Message("user", text), Message("assistant", "yes")))
filters = [SchemaFilter(), ExactFilter(), ContaminationFilter(), NearFilter(kind="near")]
curate(rows(int(sys.argv[1])), Path(sys.argv[2]), filters, Context())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """The parts of a band may grow to a million entries (some 30 MB); rows themselves are never held."""
    peaks = []
    for count in (4_000, 40_000):
        command = [sys.executable, "-c", MEASURED, str(count), str(tmp_path / f"{count}.jsonl")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 12_000  # kB; the rows alone would take more than 30,000
    assert sum(1 for _ in (tmp_path / "40000.jsonl").open()) == 40_000
    json.loads((tmp_path / "4000.jsonl").read_text().splitlines()[0])
