"""Each task's metrics against reference implementations, on the same predictions.

    python benchmarks/check_metrics.py runs/gsm8k runs/conjnli runs/xquad-en runs/scitldr runs/sgd runs/banking77

For every model of a finished run: what its report says against what scikit-learn, rouge-score, sacrebleu, or
rules written down here a second time (SQuAD's, the final number) make of ``predictions/<model>.jsonl``. Small
models may answer nothing rightly, and 0 equals 0 too easily: the same comparison runs on mixed answers (a third
right, a third cut or altered, a third the model's own). Exit status 1 when any number differs by more than 1e-9.
"""

from __future__ import annotations

import collections
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOLERANCE = 1e-9
Reference = Callable[[list[str], list[list[str]]], dict[str, float]]


def classification(texts: list[str], golds: list[list[str]]) -> dict[str, float]:
    return _labels([text.strip() for text in texts], [gold[0].strip() for gold in golds])


def nli(texts: list[str], golds: list[list[str]]) -> dict[str, float]:
    def label(text: str) -> str:
        words = re.findall(r"[a-z]+", text.lower())
        named = set()
        for word in words:
            if word in ("entail", "entails", "entailed", "entailment"):
                named.add("entailment")
            elif word in ("contradict", "contradicts", "contradicted", "contradiction", "contradictory"):
                named.add("contradiction")
            elif word == "neutral":
                named.add("neutral")
        return named.pop() if len(named) == 1 else "none"

    return _labels([label(text) for text in texts], [gold[0] for gold in golds])


def _labels(found: list[str], expected: list[str]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    names = sorted({*found, *expected})
    return {
        "accuracy": float(accuracy_score(expected, found)),
        "macro_f1": float(f1_score(expected, found, labels=names, average="macro", zero_division=0)),
    }


def qa(texts: list[str], golds: list[list[str]]) -> dict[str, float]:
    """SQuAD's rules: lower case, no punctuation, no articles; the best reference counts."""

    def words(text: str) -> list[str]:
        kept = "".join(letter for letter in text.lower() if letter not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
        # An article is a word by \w's rules: "a–b" is two words, the first an article.
        return re.sub(r"(?<!\w)(?:a|an|the)(?!\w)", " ", kept).split()

    def f1(text: str, gold: str) -> float:
        ours, theirs = words(text), words(gold)
        if not ours or not theirs:
            return float(ours == theirs)
        left = collections.Counter(theirs)
        same = 0
        for word in ours:
            if left[word] > 0:
                left[word] -= 1
                same += 1
        return 0.0 if not same else 2 * same / (len(ours) + len(theirs))

    pairs = list(zip(texts, golds, strict=True))
    return {
        "f1": sum(max(f1(text, one) for one in gold) for text, gold in pairs) / len(pairs),
        "exact_match": sum(any(words(text) == words(one) for one in gold) for text, gold in pairs) / len(pairs),
    }


def math(texts: list[str], golds: list[list[str]]) -> dict[str, float]:
    def number(text: str) -> float | None:
        at = max((match.end() for match in re.finditer(r"####|\\boxed\{|answer\s*(?:is|:|=)", text, re.I)), default=-1)
        found = re.findall(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", text[max(at, 0) :])
        if not found:
            return None
        return float((found[0] if at >= 0 else found[-1]).replace("$", "").replace(",", ""))

    hits = [
        number(text) is not None and number(text) == number(gold[0]) for text, gold in zip(texts, golds, strict=True)
    ]
    return {"accuracy": sum(hits) / len(hits)}


def summarization(texts: list[str], golds: list[list[str]]) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    values = {"bleu": _bleu(texts, golds)}
    for ours, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        scorer = RougeScorer([theirs], use_stemmer=True)
        best = [
            max(scorer.score(one, text)[theirs].fmeasure for one in gold)
            for text, gold in zip(texts, golds, strict=True)
        ]
        values[ours] = sum(best) / len(best)
    return values


def conversation(texts: list[str], golds: list[list[str]]) -> dict[str, float]:
    return {"bleu": _bleu(texts, golds)}


def _bleu(texts: list[str], golds: list[list[str]]) -> float:
    import sacrebleu

    most = max(len(gold) for gold in golds)
    # One list for each place among the references; rows with fewer have none there.
    streams = [[gold[at] if at < len(gold) else None for gold in golds] for at in range(most)]
    return sacrebleu.corpus_bleu(texts, streams).score / 100


REFERENCES: dict[str, Reference] = {
    "classification": classification,
    "nli": nli,
    "qa": qa,
    "math": math,
    "summarization": summarization,
    "conversation": conversation,
}


def mixed(texts: list[str], golds: list[list[str]]) -> list[str]:
    """Return a third right answers, a third altered ones, a third the model's own."""
    chance = random.Random(0)
    out = []
    for text, gold in zip(texts, golds, strict=True):
        kind = chance.randrange(3)
        right = chance.choice(gold)
        words = right.split()
        altered = [" ".join(words[: max(1, len(words) // 2)]), right.upper() + " !", f"The {right}", right.title(), ""]
        out.append(right if kind == 0 else chance.choice(altered) if kind == 1 else text)
    return out


def main() -> int:
    from edgestill.runtime.tasks import GenerationTask, get_task

    worst = 0.0
    for folder in map(Path, sys.argv[1:]):
        report = json.loads((folder / "report.json").read_text())
        task = get_task(report["task"])
        assert isinstance(task, GenerationTask)
        for model in report["models"]:
            path = folder / "predictions" / f"{model['name']}.jsonl"
            if not path.is_file():
                continue
            rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().split("\n") if line]
            texts, golds = [row["text"] for row in rows], [list(row["gold"]) for row in rows]
            reported = {name: figure["value"] for name, figure in model["metrics"].items()}
            other = mixed(texts, golds)
            ours = {name: figure.value for name, figure in task.score(other, golds).items()}
            for what, mine, theirs in (
                ("reported", reported, REFERENCES[report["task"]](texts, golds)),
                ("mixed", ours, REFERENCES[report["task"]](other, golds)),
            ):
                off = max(abs(mine[name] - value) for name, value in theirs.items())
                worst = max(worst, off)
                shown = "  ".join(f"{name} {mine[name]:.4f} = {value:.4f}" for name, value in theirs.items())
                print(f"{report['name']:10} {model['name']:20} {what:8} n={len(rows):5}  {shown}  off by {off:.1e}")
    print(f"largest difference {worst:.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
