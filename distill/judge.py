"""A judge: a teacher that says how good an answer is, from 1 to 10.

Each answer is shown alone, so that neither the order of answers nor their number plays a part (Zheng et al.,
2023, "Judging LLM-as-a-judge", single answer grading). What a judge says goes into the ledger like every answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgestill.dataset import Example, Message
from edgestill.distill.ledger import Asking, Ledger, Question, Reply, default_ledger
from edgestill.distill.teachers import Limits, Teacher
from edgestill.progress import SILENT, Progress

LOWEST: Final = 1.0
HIGHEST: Final = 10.0
INSTRUCTIONS: Final = (
    "You grade answers. Read the conversation and the answer to its last message, then say how correct, complete "
    "and helpful the answer is, however long it is. Write one sentence of explanation, and as the last line "
    "'Rating: N', where N is a whole number from 1 (useless or wrong) to 10 (nothing could be better)."
)
_NUMBER: Final = r"(\d+(?:\.\d+)?)(?!\d)(?!\s*%)"
_LINE: Final = re.compile(
    rf"^\W*(?:(?:final|overall|my)\s+)*(?:rating|score|grade)\b(?:\s+is\b)?[^\w\n]{{0,12}}{_NUMBER}",
    re.IGNORECASE | re.MULTILINE,
)
_NAMED: Final = re.compile(rf"(?:rating|score|grade)\b\W{{0,8}}(?:of\s+|is\s+)?{_NUMBER}", re.IGNORECASE)
_SCALE: Final = re.compile(
    r"[(\[]?\s*(?:(?:on\s+)?a\s+scale\s+)?(?:\b(?:of|from)\s+)?\b1\s*(?:-|–|to|\.\.)\s*10\b(?!\.\d)\s*[)\]]?"
    r"|[(\[]?\s*\bout\s+of\s+10\b\s*[)\]]?",
    re.IGNORECASE,
)
_BARE: Final = re.compile(r"\W*(\d+(?:\.\d+)?)\s*(?:/\s*10)?\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """The rating of each answer, None where the judge gave none; all it said, and how much of that is ``new``.

    ``replies`` are by the question's key; ``cost`` is that of those which weren't paid for before.
    """

    ratings: tuple[float | None, ...]
    replies: Mapping[str, Reply]
    new: int
    cost: float


@dataclass(frozen=True)
class Judge:
    """Who judges, and how: ``instructions`` end with the line 'Rating: N', N from 1 to 10."""

    teacher: Teacher
    instructions: str = INSTRUCTIONS
    max_new_tokens: int = 256
    ledger: Path | None = None
    """The file of paid answers (None: the user's own, for all recipes)."""
    local_ledger: Path | None = None
    """The file of a local judge's answers (None: the same)."""

    def rate(
        self,
        examples: Sequence[Example],
        limits: Limits,
        *,
        paid: Collection[str] = (),
        progress: Progress = SILENT,
    ) -> Verdict:
        """Rate each example's answer; ``paid`` are questions whose replies ``limits`` count as spent already.

        Raises StageError when the judge can't be reached, or would cost more than ``limits`` allow.
        """
        questions = [Question.of(self._asked(example)) for example in examples]
        unique = list({question.key: question for question in questions}.values())
        file = (None if self.teacher.paid else self.local_ledger) or self.ledger or default_ledger()
        asking = Asking(0.0, self.max_new_tokens, 0)
        before = [question for question in unique if question.key in paid]
        after = [question for question in unique if question.key not in paid]
        with Ledger(file) as book:
            found = self.teacher.answer(before, asking, book, limits, progress) if before else {}
            new = self.teacher.answer(after, asking, book, limits, progress) if after else {}
            found = {**found, **new}
            return Verdict(
                tuple(_rating(found[question.key]) for question in questions),
                found,
                book.recorded,
                sum(reply.cost or 0.0 for reply in new.values()),
            )

    def _asked(self, example: Example) -> tuple[Message, ...]:
        turns = "\n\n".join(f"[{message.role}]\n{message.content}" for message in example.prompt)
        asked = f"The conversation:\n\n{turns}\n\nThe answer:\n\n[assistant]\n{example.completion}"
        return Message("system", self.instructions), Message("user", asked)


def _rating(reply: Reply) -> float | None:
    """Return the rating of a reply that is whole: what was cut may say 1 of 10."""
    return rating_in(reply.text) if reply.finished and reply.fault is None else None


def rating_in(text: str) -> float | None:
    """Return the rating that a judge gives, from 1 to 10; None where it gives none.

    That is the last line 'Rating: N', else the last rating in a sentence, else the number that is all it says.
    """
    text = _SCALE.sub("", text)
    named = _LINE.findall(text) or _NAMED.findall(text)
    bare = _BARE.fullmatch(text)
    if named:
        value = float(named[-1])
    elif bare is not None:
        value = float(bare.group(1))
    else:
        return None
    return value if LOWEST <= value <= HIGHEST else None
