"""Golden answers: prompts with the exact greedy token ids that each artifact must produce.

One JSON object a line: ``{"prompt": messages or text, "prompt_ids": [...], "max_new_tokens": n,
"token_ids": {"onnx-int4": [...], ...}}``. Prompts are stored as token ids, so that a tokenizer that changed is
caught too: the prompt's text is encoded again and compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgestill.bundle import GOLDEN_FILE, Bundle
from edgestill.dataset import Message
from edgestill.errors import BundleError, GateError
from edgestill.progress import SILENT, Progress
from edgestill.runtime.session import GenerationOptions, Session

GoldenInput = str | tuple[Message, ...]
"""A raw text, or messages for the chat template."""


@dataclass(frozen=True)
class GoldenPrompt:
    """One line of golden.jsonl."""

    prompt: GoldenInput
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    token_ids: dict[str, tuple[int, ...]]


def make_golden(
    models: Mapping[str, Path],
    prompts: Sequence[GoldenInput],
    max_new_tokens: int,
    *,
    progress: Progress = SILENT,
) -> str:
    """Answer ``prompts`` greedily with every model (artifact name -> path) and return golden.jsonl's text."""
    rows: list[dict[str, object]] = []
    answers: list[dict[str, list[int]]] = [{} for _ in prompts]
    ids: list[list[int]] = []
    options = GenerationOptions(max_new_tokens=max_new_tokens)
    with progress.task("golden answers", len(models) * len(prompts), "prompts") as task:
        for name, path in models.items():
            with Session.open(path) as session:
                for number, prompt in enumerate(prompts):
                    prompt_ids = session.prompt_ids(prompt)
                    if number == len(ids):
                        ids.append(prompt_ids)
                    elif prompt_ids != ids[number]:
                        raise GateError(f"{name}: tokenises golden prompt {number + 1} differently from the others")
                    session.reset()
                    answers[number][name] = list(session.generate(prompt_ids, options).token_ids)
                    task.advance()
    for prompt, prompt_ids, answer in zip(prompts, ids, answers, strict=True):
        rows.append(
            {
                "prompt": prompt if isinstance(prompt, str) else [asdict(message) for message in prompt],
                "prompt_ids": prompt_ids,
                "max_new_tokens": max_new_tokens,
                "token_ids": answer,
            }
        )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_golden(bundle: Bundle) -> list[GoldenPrompt]:
    """Read a bundle's golden.jsonl. Raises BundleError that names the line."""
    path = bundle.folder / GOLDEN_FILE
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
        try:
            row = json.loads(line)
            prompts.append(
                GoldenPrompt(
                    _input(row["prompt"]),
                    tuple(int(i) for i in row["prompt_ids"]),
                    int(row["max_new_tokens"]),
                    {str(name): tuple(int(i) for i in ids) for name, ids in row["token_ids"].items()},
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BundleError(f"{path}:{number}: not a golden answer ({error})") from error
    return prompts


def replay_golden(bundle: Bundle, names: Sequence[str] | None = None, *, progress: Progress = SILENT) -> int:
    """Generate every golden answer again on each artifact; return how many answers were compared.

    Raises GateError that names the artifact, the prompt and the first token that differs.
    """
    prompts = read_golden(bundle)
    chosen = [artifact.name for artifact in bundle.manifest.artifacts] if names is None else list(names)
    compared = 0
    with progress.task("replaying golden answers", len(chosen) * len(prompts), "answers") as task:
        for name in chosen:
            with Session.open(bundle.artifact_folder(name)) as session:
                for number, prompt in enumerate(prompts, 1):
                    _replay(session, name, number, prompt)
                    compared += 1
                    task.advance()
    return compared


def _input(value: object) -> GoldenInput:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise TypeError("prompt must be a text or a list of messages")
    return tuple(Message(message["role"], str(message["content"])) for message in value)


def _replay(session: Session, name: str, number: int, prompt: GoldenPrompt) -> None:
    expected = prompt.token_ids.get(name)
    if expected is None:
        raise GateError(f"{name}: golden prompt {number} has no answer for it")
    if tuple(session.prompt_ids(prompt.prompt)) != prompt.prompt_ids:
        raise GateError(f"{name}: golden prompt {number} is tokenised differently from when it was packed")
    session.reset()
    options = GenerationOptions(max_new_tokens=prompt.max_new_tokens)
    got = session.generate(list(prompt.prompt_ids), options).token_ids
    if tuple(got) != expected:
        pairs = enumerate(zip(got, expected, strict=False))
        at = next((index for index, (a, b) in pairs if a != b), min(len(got), len(expected)))
        raise GateError(
            f"{name}: golden answer {number} differs at token {at}: {got[at : at + 3]} not {expected[at : at + 3]}"
        )
