"""Summarization: a document to a few sentences, by ROUGE and BLEU.

With ``chain_of_density`` the teacher is asked to rewrite its summary that many times, each denser at the
same length (Adams et al., 2023, "From Sparse to Dense"); the student learns the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from edgestill.dataset import Example, Message, Row
from edgestill.errors import DataError, InputError
from edgestill.figure import Figure
from edgestill.runtime.tasks import GenerationTask, References, register
from edgestill.runtime.tasks.overlap import bleu_counts, bleu_figure, rouge_rows
from edgestill.runtime.tasks.qa import mean_figure

LAST: Final = "Final summary:"
_MAX_ROUNDS: Final = 10


@register
@dataclass(frozen=True)
class SummarizationTask(GenerationTask):
    """ROUGE-1, ROUGE-2, ROUGE-L (F1, stemmed, best reference) and corpus BLEU."""

    chain_of_density: int = 0
    name: ClassVar[str] = "summarization"
    primary_metric: ClassVar[str] = "rouge_l"
    fields: ClassVar[tuple[str, ...]] = ("document",)

    def configured(self, options: Mapping[str, object]) -> SummarizationTask:
        """Return the task with ``chain_of_density`` set."""
        unknown = options.keys() - {"chain_of_density"}
        rounds = options.get("chain_of_density", 0)
        if unknown or type(rounds) is not int or not 0 <= rounds <= _MAX_ROUNDS:
            raise InputError(
                f"task 'summarization' has one option, chain_of_density: 0 to {_MAX_ROUNDS}, found {dict(options)!r}"
            )
        return SummarizationTask(rounds)

    def build(self, row: Row, source: str) -> Example:
        """Show the document (a text, or a list of sentences); ``summary`` is a text, or several right ones."""
        shown = " ".join(_texts(row, "document", source))
        messages = [Message("user", f"Summarize:\n{shown}")]
        summaries = _texts(row, "summary", source) if row.get("summary") is not None else []
        if summaries:
            messages.append(Message("assistant", summaries[0]))
        return Example(tuple(messages), None, source, references=tuple(summaries[1:]))

    def teacher_prompt(self, example: Example) -> Sequence[Message]:
        """Add the chain of density to the last message."""
        if not self.chain_of_density:
            return example.prompt
        *before, last = example.prompt
        asked = (
            f"{last.content}\n\nWork in {self.chain_of_density + 1} rounds. First write a short summary. In each "
            "further round name one to three entities of the text that your summary lacks, and write it again at the "
            f"same length so that it also has them. Then write '{LAST}' and the last summary again, nothing after it."
        )
        return (*before, Message(last.role, asked))

    def from_teacher(self, answer: str) -> str:
        """Return what stands after the last ``Final summary:``."""
        return answer.rsplit(LAST, 1)[-1].strip(" \n*") if self.chain_of_density else answer

    def score(self, predictions: Sequence[str], golds: Sequence[References]) -> dict[str, Figure]:
        """Return ``rouge_l``, ``rouge_1``, ``rouge_2`` and ``bleu``."""
        rows = rouge_rows(predictions, golds)
        figures = {
            name: mean_figure(rows[name], f"rouge-score, F1, stemmed, best reference: {name}")
            for name in ("rouge_l", "rouge_1", "rouge_2")
        }
        return {**figures, "bleu": bleu_figure(bleu_counts(predictions, golds))}

    def score_rows(self, predictions: Sequence[str], golds: Sequence[References]) -> list[float]:
        """Return each answer's ROUGE-L with its best reference."""
        return rouge_rows(predictions, golds)["rouge_l"]


def _texts(row: Row, key: str, source: str) -> list[str]:
    value = row[key]
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(text, str) and text.strip() for text in values):
        raise DataError(f"{source}: {key!r} must be a text or a list of texts, none of them empty")
    return [str(text).strip() for text in values]
