"""``kind: transformers``: a local checkpoint, in batches that the questions alone determine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example
from edgestill.distill.encode import ChatTokenizer
from edgestill.distill.ledger import Asking, Ledger, Question, Reply
from edgestill.distill.teacher import load_teacher
from edgestill.distill.teachers import Limits, Teacher, register
from edgestill.progress import Progress
from edgestill.sections import TransformersTeacher
from edgestill.storage import sha256_json

TOO_LONG = "the prompt doesn't fit the context"


@register(TransformersTeacher)
def open_transformers(section: TransformersTeacher) -> Teacher:
    """Return the teacher; the weights are loaded when there is something to ask."""
    checkpoint = load_teacher(section.model)
    return CheckpointTeacher(checkpoint, section.name or checkpoint.path.name)


class CheckpointTeacher:
    """A checkpoint on torch; see :class:`edgestill.distill.teachers.Teacher`.

    Batches are fixed by the questions, in order of length: a batch that a kill left half-recorded is
    answered again whole, so that the answers are those of an undisturbed run.
    """

    paid = False

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.name = name
        self.identity = checkpoint.sha256()
        self._checkpoint = checkpoint

    def answer(
        self, questions: Sequence[Question], asking: Asking, ledger: Ledger, limits: Limits, progress: Progress
    ) -> dict[str, Reply]:
        tokenizer = ChatTokenizer.open(self._checkpoint)
        ids = {question.key: tokenizer.prompt_ids(Example(question.messages)) for question in questions}
        room = _context(self._checkpoint) - asking.max_new_tokens
        replies = {key: Reply("", False, 0, 0, None, TOO_LONG) for key in ids if not 0 < len(ids[key]) <= room}
        fitting = sorted((question for question in questions if question.key not in replies), key=_by_length(ids))
        batches = [fitting[at : at + limits.batch_size] for at in range(0, len(fitting), limits.batch_size)]
        started, new_tokens, model = time.monotonic(), 0, None
        with progress.task("teacher answers", total=len(fitting), unit="answers") as task:
            for number, batch in enumerate(batches):
                company = sha256_json([question.key for question in batch])
                keys = {Ledger.key(self.identity, question, asking, company): question for question in batch}
                found = ledger.find(keys)
                if len(found) < len(batch):
                    model = model or _load(self._checkpoint)
                    seed = asking.seed + asking.sample * 1_000_003 + number
                    found = _answer(model, tokenizer, {key: ids[q.key] for key, q in keys.items()}, asking, seed)
                    ledger.record(self.identity, found)
                    new_tokens += sum(reply.new_tokens for reply in found.values())
                replies.update({keys[key].key: reply for key, reply in found.items()})
                rate = new_tokens / (time.monotonic() - started)
                task.advance(len(batch), **({"tokens_per_second": f"{rate:,.0f}"} if new_tokens else {}))
        return replies


def _by_length(ids: dict[str, list[int]]) -> Any:
    return lambda question: (len(ids[question.key]), question.key)


def _load(checkpoint: Checkpoint) -> Any:
    import torch

    from edgestill.distill.models import load_model

    return load_model(checkpoint).eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _answer(
    model: Any, tokenizer: ChatTokenizer, prompts: dict[str, list[int]], asking: Asking, seed: int
) -> dict[str, Reply]:
    from edgestill.distill.generate import generate

    generated = generate(
        model,
        list(prompts.values()),
        end_ids=tokenizer.end_ids,
        pad_id=tokenizer.pad_id,
        max_new_tokens=asking.max_new_tokens,
        temperature=asking.temperature,
        seed=seed,
    )
    return {
        key: Reply(tokenizer.decode(said.ids), said.finished, len(prompts[key]), len(said.ids) + said.finished)
        for key, said in zip(prompts, generated, strict=True)
    }


def _context(checkpoint: Checkpoint) -> int:
    value = checkpoint.config().get("max_position_embeddings")
    return value if isinstance(value, int) else 1 << 30
