"""``edgestill chat``: talk to a model, streamed; one question with --prompt, else a conversation."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgestill.cli import console


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
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Room for so many tokens (default: 4096).")] = None,
) -> None:
    """Talk to a model. In a conversation, an empty line or Ctrl-D ends it."""
    from edgestill.dataset import Message
    from edgestill.runtime.sampling import Sampling
    from edgestill.runtime.session import GenerationOptions, Session

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    options = GenerationOptions(max_new_tokens=max_new_tokens, sampling=sampling)
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
            if prompt is not None:
                return
            history.append(Message("assistant", answer))


def _ask() -> str:
    sys.stderr.write("> ")
    sys.stderr.flush()
    return sys.stdin.readline().strip()
