"""``kind: gguf``: a local file, one question after the other, through the runtime that apps embed."""

from __future__ import annotations

from collections.abc import Sequence

from edgestill.distill.ledger import Asking, Ledger, Question, Reply
from edgestill.distill.teachers import Limits, Teacher, register
from edgestill.errors import ContextFullError
from edgestill.progress import Progress
from edgestill.sections import GgufTeacher
from edgestill.storage import sha256_file


@register(GgufTeacher)
def open_gguf(section: GgufTeacher) -> Teacher:
    """Return the teacher; the file is loaded when there is something to ask."""
    return _GgufTeacher(section)


class _GgufTeacher:
    paid = False

    def __init__(self, section: GgufTeacher) -> None:
        self.name = section.name or section.model.stem
        self.identity = sha256_file(section.model)
        self._section = section

    def answer(
        self, questions: Sequence[Question], asking: Asking, ledger: Ledger, limits: Limits, progress: Progress
    ) -> dict[str, Reply]:
        from edgestill.runtime.sampling import Sampling
        from edgestill.runtime.session import GenerationOptions, Session

        keys = {Ledger.key(self.identity, question, asking): question for question in questions}
        found = ledger.find(keys)
        replies = {keys[key].key: reply for key, reply in found.items()}
        todo = {key: question for key, question in keys.items() if key not in found}
        if not todo:
            return replies
        section = self._section
        known = f" ({len(found):,} known)" if found else ""
        with (
            Session.open(section.model, threads=section.threads, context_length=section.context) as session,
            progress.task(f"{self.name} answers{known}", total=len(todo), unit="answers") as task,
        ):
            for key, question in todo.items():
                # The seed is the question's own: an answer doesn't depend on which others were asked before.
                seed = (asking.seed + asking.sample * 1009 + int(question.key[:8], 16)) % (1 << 31)
                options = GenerationOptions(
                    max_new_tokens=asking.max_new_tokens, sampling=Sampling(temperature=asking.temperature, seed=seed)
                )
                try:
                    said = session.generate(question.messages, options)
                    ended = said.finish_reason == "eos"  # not "length", nor cancelled
                    reply = Reply(said.text, ended, said.prompt_tokens, len(said.token_ids))
                except ContextFullError:
                    reply = Reply("", False, 0, 0, None, "the prompt doesn't fit the context")
                ledger.record(self.identity, {key: reply})
                replies[question.key] = reply
                task.advance(1)
        return replies
