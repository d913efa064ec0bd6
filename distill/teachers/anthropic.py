"""``kind: anthropic``: Anthropic's messages, by Anthropic's own client."""

from __future__ import annotations

from typing import Any, cast

from edgestill.distill.ledger import Asking, Question
from edgestill.distill.teachers import Teacher, register
from edgestill.distill.teachers.remote import Refused, Remote, Said, Unavailable, secret, translated
from edgestill.errors import MissingDependencyError
from edgestill.sections import AnthropicTeacher


@register(AnthropicTeacher)
def open_anthropic(section: AnthropicTeacher) -> Teacher:
    """Return the teacher; nothing is asked yet. Raises InputError when its key isn't in the environment."""
    try:
        import anthropic  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("kind anthropic needs anthropic: pip install 'edgestill[teachers]'") from error
    key = secret(section)
    return Remote(section, lambda: _Client(section, key))


class _Client:
    def __init__(self, section: AnthropicTeacher, key: str) -> None:
        import anthropic

        self._section = section
        self._errors = anthropic
        self._client = anthropic.AsyncAnthropic(
            api_key=key, base_url=section.base_url, timeout=section.timeout_seconds, max_retries=0
        )

    async def ask(self, question: Question, asking: Asking) -> Said:
        system = "\n\n".join(m.content for m in question.messages if m.role == "system")
        turns = cast(Any, [{"role": m.role, "content": m.content} for m in question.messages if m.role != "system"])
        rest: dict[str, Any] = {"system": system} if system else {}
        try:
            answer = await self._client.messages.create(
                model=self._section.model,
                max_tokens=asking.max_new_tokens,
                messages=turns,
                extra_body={"temperature": asking.temperature, **self._section.body},
                **rest,
            )
        except Exception as error:
            raise translated(error, self._errors, self._section) from error
        return _said(answer)

    async def close(self) -> None:
        await self._client.close()


def _said(answer: Any) -> Said:
    try:
        text = "".join(block.text for block in answer.content if block.type == "text")
        reason = answer.stop_reason
        prompt_tokens, new_tokens = int(answer.usage.input_tokens), int(answer.usage.output_tokens)
    except (AttributeError, TypeError, ValueError) as error:
        raise Unavailable("an answer without what messages promise") from error
    if reason == "refusal":
        raise Refused("refusal")
    return Said(text, reason in ("end_turn", "stop_sequence"), prompt_tokens, new_tokens)
