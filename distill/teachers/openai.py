"""``kind: openai``: any server that speaks OpenAI's chat completions, by OpenAI's own client."""

from __future__ import annotations

from typing import Any, cast

from edgestill.distill.ledger import Asking, Question
from edgestill.distill.teachers import Teacher, register
from edgestill.distill.teachers.remote import Refused, Remote, Said, Unavailable, secret, translated
from edgestill.errors import InputError, MissingDependencyError
from edgestill.sections import OpenAITeacher


@register(OpenAITeacher)
def open_openai(section: OpenAITeacher) -> Teacher:
    """Return the teacher; nothing is asked yet. Raises InputError when its key isn't in the environment."""
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("kind openai needs openai: pip install 'edgestill[teachers]'") from error
    key = secret(section)
    return Remote(section, lambda: _Client(section, key))


class _Client:
    def __init__(self, section: OpenAITeacher, key: str) -> None:
        import openai

        self._section = section
        self._errors = openai
        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=section.base_url, timeout=section.timeout_seconds, max_retries=0
        )
        self._limit = "max_completion_tokens" if "max_completion_tokens" in section.body else "max_tokens"

    async def ask(self, question: Question, asking: Asking) -> Said:
        wanted: dict[str, Any] = {self._limit: asking.max_new_tokens, "temperature": asking.temperature}
        if asking.temperature:
            wanted["seed"] = asking.seed * 1009 + asking.sample
        messages = cast(Any, [{"role": m.role, "content": m.content} for m in question.messages])
        try:
            # extra_body alone: the client's own types don't know every server's names.
            raw = await self._client.chat.completions.create(
                model=self._section.model, messages=messages, extra_body={**wanted, **self._section.body}
            )
        except Exception as error:
            raise self._translated(error) from error
        return _said(raw)

    def _translated(self, error: Exception) -> Exception:
        section = self._section
        if isinstance(error, self._errors.RateLimitError) and error.code == "insufficient_quota":
            return InputError(f"{section.model}: the account has no quota left (insufficient_quota)")
        if isinstance(error, self._errors.BadRequestError):
            if self._limit == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit = "max_completion_tokens"  # the name that newer models want
                return Unavailable("max_tokens has another name here")
            if "model" in str(error.param) or error.code == "model_not_found":
                return InputError(f"{section.model}: {section.base_url} doesn't have this model (400)")
        return translated(error, self._errors, section)

    async def close(self) -> None:
        await self._client.close()


def _said(completion: Any) -> Said:
    """Read an answer with suspicion: a server may leave out what the protocol promises."""
    try:
        choice = completion.choices[0]
        reason = choice.finish_reason
        text = choice.message.content or ""
        usage = completion.usage
        prompt_tokens, new_tokens = (int(usage.prompt_tokens), int(usage.completion_tokens)) if usage else (0, 0)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise Unavailable("an answer without what chat completions promise") from error
    if reason == "content_filter":
        raise Refused("content_filter")
    return Said(text, reason in ("stop", "end_turn", "eos"), prompt_tokens, new_tokens)
