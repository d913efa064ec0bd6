"""``edgestill chat``: talk to a model, streamed; one question with --prompt, else a conversation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgestill.cli import console

if TYPE_CHECKING:
    from edgestill.runtime.session import Generation


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("chat")(chat)


def chat(
    model: Annotated[str, typer.Argument(help="Hugging Face folder, .gguf file, ONNX folder or BUNDLE#artifact-name.")],
    prompt: Annotated[str | None, typer.Option(help="Ask this one question and exit.")] = None,
    system: Annotated[
        str | None, typer.Option(help="System message (default: the one that the bundle carries).")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="0: off.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    seed: Annotated[int | None, typer.Option()] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="Answer in JSON that satisfies the schema in this file.")
    ] = None,
    grammar: Annotated[Path | None, typer.Option(help="Answer in this grammar: GBNF, or Lark in a .lark file.")] = None,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Room for so many tokens (default: 4096).")] = None,
) -> None:
    """Talk to a model. In a conversation, an empty line or Ctrl-D ends it."""
    from edgestill.dataset import Message
    from edgestill.errors import InputError
    from edgestill.runtime.constraint import Constraint, read_grammar, read_json_schema
    from edgestill.runtime.sampling import Sampling
    from edgestill.runtime.session import GenerationOptions, Session

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    constraint: Constraint | None = None
    if json_schema is not None and grammar is not None:
        raise InputError("--json-schema and --grammar can't both hold an answer; give one of them")
    if json_schema is not None:
        constraint = read_json_schema(json_schema)
    elif grammar is not None:
        constraint = read_grammar(grammar)
    options = GenerationOptions(max_new_tokens=max_new_tokens, sampling=sampling, constraint=constraint)
    with Session.open(model, threads=threads, context_length=context) as session:
        if session.prefix_misfit is not None:
            console.say(f"the system prompt's state isn't used: {session.prefix_misfit}")
        if system is None and session.prefix is not None:
            system = session.prefix.system
        history = [Message("system", system)] if system is not None else []
        while True:
            asked = prompt if prompt is not None else _ask()
            if not asked:
                return
            history.append(Message("user", asked))
            answer = ""
            for chunk in session.stream(history, options):
                answer += chunk.text
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
            sys.stdout.write("\n")
            _report(session.last)
            if prompt is not None:
                return
            history.append(Message("assistant", answer))


def _report(answer: Generation | None) -> None:
    """Say on stderr when an answer doesn't satisfy its constraint, or who else than the engine enforced it."""
    outcome = answer.constraint if answer is not None else None
    if outcome is not None and outcome.note is not None:
        sys.stderr.write(f"enforced by {outcome.enforced_by}: {outcome.note}\n")
    if outcome is not None and answer is not None and not outcome.complete:
        sys.stderr.write(f"the answer was cut ({answer.finish_reason}) before it satisfied the constraint\n")


def _ask() -> str:
    sys.stderr.write("> ")
    sys.stderr.flush()
    return sys.stdin.readline().strip()
