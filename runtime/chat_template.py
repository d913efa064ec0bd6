"""Rendering a conversation into the text that a model was trained on, by its jinja chat template.

A template comes with the model, from outside: it runs in jinja's immutable sandbox, with limits on its
length and on what it writes. The filters and functions are those that Hugging Face's templates may use.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from edgestill.dataset import Message
from edgestill.errors import InputError

MAX_TEMPLATE_CHARACTERS: Final = 1 << 20
MAX_RENDERED_CHARACTERS: Final = 16 << 20


def render(
    template: str | None,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    bos_token: str | None = None,
    eos_token: str | None = None,
    variables: Mapping[str, object] | None = None,
) -> str:
    """Return ``messages`` as one text, equal to transformers' ``apply_chat_template``.

    ``variables`` are further names that the template reads (``enable_thinking``). Without a template
    (None) the contents stand one after another, each on its own line, and ``add_generation_prompt`` ends
    the last line. Raises InputError when the template is damaged, refuses the messages or runs away.
    """
    if not messages:
        raise InputError("a conversation needs at least one message")
    if template is None:
        return "\n".join(message.content for message in messages) + ("\n" if add_generation_prompt else "")
    names: dict[str, object] = {"tools": None, "documents": None, **(variables or {})}
    if bos_token is not None:
        names["bos_token"] = bos_token
    if eos_token is not None:
        names["eos_token"] = eos_token
    names["messages"] = [{"role": message.role, "content": message.content} for message in messages]
    names["add_generation_prompt"] = add_generation_prompt
    compiled = _compiled(template)
    pieces: list[str] = []
    size = 0
    try:
        for piece in compiled.generate(names):
            size += len(piece)
            if size > MAX_RENDERED_CHARACTERS:
                raise InputError(
                    f"the chat template wrote more than {MAX_RENDERED_CHARACTERS} characters; shorten the input"
                )
            pieces.append(piece)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, OverflowError) as error:
        raise InputError(f"the chat template refuses these messages: {error}") from error
    return "".join(pieces)


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise InputError(
            f"the chat template has {len(template)} characters; at most {MAX_TEMPLATE_CHARACTERS} are read"
        )
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(template)
    except (jinja2.TemplateError, RecursionError) as error:
        raise InputError(f"the chat template is not readable: {error}") from error


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what the assistant wrote, for training; its content is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 (jinja declares it as a plain class attribute)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
