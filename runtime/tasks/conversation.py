"""Conversation: the next reply, by BLEU, by how probable the right reply is, and by the facts it must mention."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.dataset import Example
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress
from edgestill.runtime.intervals import bootstrap_interval
from edgestill.runtime.tasks import GenerationTask, References, register
from edgestill.runtime.tasks.overlap import bleu, bleu_counts, bleu_figure
from edgestill.runtime.tasks.text import MAX_WINDOW, bits_per_byte, text_nats

if TYPE_CHECKING:
    from edgestill.runtime.session import Session

_FACT: Final = re.compile(r"\d+(?:[.,:/-]\d+)*(?:\s?(?:am|pm)\b)?", re.IGNORECASE)


def facts(text: str) -> tuple[str, ...]:
    """Return the numbers, times, dates, prices and telephone numbers of a reply, each once, in order."""
    return tuple(dict.fromkeys(found.strip().lower() for found in _FACT.findall(text)))


def mentions(text: str, fact: str) -> bool:
    """Tell whether a fact stands in a text as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(fact.lower())}(?!\w)", text.lower()) is not None


@register
class ConversationTask(GenerationTask):
    """Corpus BLEU of the replies, slot accuracy, and the right replies' bits per byte."""

    name = "conversation"
    primary_metric = "bleu"

    def questions(self, example: Example) -> Sequence[Example]:
        """Return a question for each reply: the conversation up to it. A prompt without a reply is one itself."""
        turns = example.messages
        replies = [number for number, turn in enumerate(turns) if turn.role == "assistant" and number]
        if not replies:
            return (example,)
        last = {"references": example.references}
        return [Example(turns[: n + 1], None, example.source, **(last if n == len(turns) - 1 else {})) for n in replies]

    def score(self, predictions: Sequence[str], golds: Sequence[References]) -> dict[str, Figure]:
        """Return ``bleu`` and ``slot_accuracy``: of the slots of all right replies, those that answers mention.

        Slots are the numbers, times, dates and prices of the right reply.
        """
        counts = np.array(
            [
                (sum(mentions(text, fact) for fact in facts(gold[0])), len(facts(gold[0])))
                for text, gold in zip(predictions, golds, strict=True)
            ],
            np.float64,
        ).reshape(-1, 2)
        return {"bleu": bleu_figure(bleu_counts(predictions, golds)), "slot_accuracy": _slot_figure(counts)}

    def statistics(self, predictions: Sequence[str], golds: Sequence[References]) -> NDArray[np.float64]:
        """Return each reply's n-gram counts; see :func:`edgestill.runtime.tasks.overlap.bleu_counts`."""
        return bleu_counts(predictions, golds)

    def combine(self, sums: NDArray[np.float64]) -> float:
        """Return corpus BLEU as a fraction."""
        return bleu(sums)

    def measure(
        self, session: Session, examples: Sequence[Example], *, progress: Progress = SILENT
    ) -> dict[str, Figure]:
        """Return ``response_bits_per_byte``: -log2 p(right reply and its end | prompt) per UTF-8 byte of the reply."""
        from edgestill.runtime.session import render_prompt

        window = min(session.engine.context_length, MAX_WINDOW)
        end = min(session.tokenizer.eos_ids, default=None)
        rows = []
        with progress.task("scoring replies", len(examples), "replies") as task:
            for example in examples:
                before = render_prompt(session.tokenizer, example.prompt)
                reply = self.gold(example)[0]
                tokens = [int(id) for id in session.tokenizer.encode(reply, add_special=False)]
                tokens += [] if end is None else [end]
                nats = text_nats(session.engine, before, tokens, window)
                rows.append((nats, len(tokens), len(reply.encode())))
                task.advance()
        session.reset()
        counts = np.array(rows, np.float64).reshape(-1, 3)
        n = len(counts)

        def bits(picked: NDArray[np.int64]) -> float:
            return bits_per_byte(counts[picked].sum(axis=0))

        source = "-log2 p of the right replies with their end token; percentile bootstrap over examples"
        figure = Figure(
            value=bits(np.arange(n)), unit="bits/byte", n=n, ci95=bootstrap_interval(n, bits), source=source
        )
        return {"response_bits_per_byte": figure}


def _slot_figure(counts: NDArray[np.float64]) -> Figure:
    source = "slots (numbers, times, dates, prices) of the right replies that the answers mention; bootstrap"
    if not len(counts) or not counts[:, 1].sum():
        return Figure.missing("fraction", "no slot in any right reply")

    def accuracy(picked: NDArray[np.int64]) -> float:
        hits, slots = counts[picked].sum(axis=0)
        return float(hits / slots) if slots else float("nan")

    n = len(counts)
    interval = bootstrap_interval(n, accuracy)
    return Figure(value=accuracy(np.arange(n)), unit="fraction", n=n, ci95=interval, source=source)
