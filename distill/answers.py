"""The teacher answers prompts; what is empty, unfinished or refused by the task is left out and counted.

Every finished batch goes at once into a ledger beside the output, which stays there: neither a killed
run nor another call with the same prompts asks a finished batch again. Batches are fixed by the prompts
alone: the answers are those of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, write_examples
from edgestill.distill.encode import ChatTokenizer
from edgestill.errors import DataError, disk_errors
from edgestill.progress import SILENT, Progress
from edgestill.storage import sha256_json, whole_file

SCHEMA: Final = "edgestill.answers/1"

Validate = Callable[[Example], str | None]
"""Returns why an answered example is no good (one short reason, the same words each time), or None."""


@dataclass(frozen=True)
class Dropped:
    """How many answers were left out for one reason, and one of them."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class AnswersResult:
    """What the teacher answered; ``new_tokens`` and ``seconds`` are of this attempt alone."""

    path: Path
    examples: tuple[Example, ...]
    asked: int
    dropped: tuple[Dropped, ...]
    resumed: int
    new_tokens: int
    seconds: float


@dataclass(frozen=True)
class _Answer:
    text: str
    finished: bool


def answer_prompts(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    out_file: Path,
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    seed: int = 0,
    validate: Validate | None = None,
    progress: Progress = SILENT,
) -> AnswersResult:
    """Let ``checkpoint`` answer the prompts of ``examples`` (their own answers are ignored) into JSONL.

    A prompt that occurs twice is asked once. Raises DataError when no answer is left, DiskFullError.
    """
    tokenizer = ChatTokenizer.open(checkpoint)
    tally = _Tally()
    prompts: dict[str, Example] = {}
    for example in examples:
        if not example.prompt:
            tally.drop("no prompt to answer", example)
        elif prompts.setdefault(key := example.prompt_sha256(), example) is not example:
            tally.drop("the same prompt again", prompts[key])
    ids = {key: tokenizer.prompt_ids(example) for key, example in prompts.items()}
    room = _context(checkpoint) - max_new_tokens
    fitting = [key for key in prompts if 0 < len(ids[key]) <= room]
    for key in prompts.keys() - set(fitting):
        tally.drop("the prompt doesn't fit the context", prompts[key])
    fitting.sort(key=lambda key: (len(ids[key]), key))
    batches = [fitting[at : at + batch_size] for at in range(0, len(fitting), batch_size)]
    settings = [temperature, max_new_tokens, batch_size, seed, checkpoint.sha256(), sha256_json(batches)]
    ledger = out_file.with_name(f".{out_file.name}.ledger")
    with disk_errors(f"writing {ledger}"):
        answers = _read_ledger(ledger, sha256_json(settings))
        resumed = len(answers)
        started = time.monotonic()
        new_tokens = 0
        with progress.task("teacher answers", total=len(fitting), unit="answers") as task:
            model = None
            for number, batch in enumerate(batches):
                if all(key in answers for key in batch):
                    task.advance(len(batch))
                    continue
                model = model or _load(checkpoint)
                count, found = _answer(
                    model, tokenizer, {key: ids[key] for key in batch}, max_new_tokens, temperature, seed + number
                )
                _append(ledger, found)
                answers.update(found)
                new_tokens += count
                rate = new_tokens / (time.monotonic() - started)
                task.advance(len(batch), tokens_per_second=f"{rate:,.0f}")
    kept = _validated(prompts, answers, tally, validate)
    if not kept:
        raise DataError(f"none of {len(prompts)} answers of {checkpoint.path} is usable: {tally.summary()}")
    with whole_file(out_file) as partial:
        write_examples(partial, kept)
    seconds = time.monotonic() - started
    return AnswersResult(out_file, tuple(kept), len(prompts), tally.result(), resumed, new_tokens, seconds)


class _Tally:
    def __init__(self) -> None:
        self._counts: dict[str, list[Any]] = {}

    def drop(self, reason: str, example: Example, answer: str = "") -> None:
        prompt = example.prompt[-1].content if example.prompt else example.text or ""
        shown = f"{prompt[:200]!r} -> {answer[:200]!r}" if answer else repr(prompt[:200])
        self._counts.setdefault(reason, [0, shown])[0] += 1

    def result(self) -> tuple[Dropped, ...]:
        return tuple(Dropped(reason, count, shown) for reason, (count, shown) in sorted(self._counts.items()))

    def summary(self) -> str:
        return "; ".join(f"{entry.count} {entry.reason} ({entry.example})" for entry in self.result()) or "no prompt"


def _validated(
    prompts: dict[str, Example], answers: dict[str, _Answer], tally: _Tally, validate: Validate | None
) -> list[Example]:
    kept = []
    for key, example in prompts.items():
        if key not in answers:
            continue
        answer = answers[key]
        answered = example.answered(answer.text)
        if not answer.finished:
            reason: str | None = "not finished within max_new_tokens"
        elif not answer.text.strip():
            reason = "empty answer"
        else:
            reason = validate(answered) if validate is not None else None
        if reason is None:
            kept.append(answered)
        else:
            tally.drop(reason, example, answer.text)
    return kept


def _load(checkpoint: Checkpoint) -> Any:
    import torch

    from edgestill.distill.models import load_model

    return load_model(checkpoint).eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _answer(
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: dict[str, list[int]],
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> tuple[int, dict[str, _Answer]]:
    from edgestill.distill.generate import generate

    generated = generate(
        model,
        list(prompts.values()),
        end_ids=tokenizer.end_ids,
        pad_id=tokenizer.pad_id,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    found = {
        key: _Answer(tokenizer.decode(answer.ids), answer.finished)
        for key, answer in zip(prompts, generated, strict=True)
    }
    return sum(len(answer.ids) + answer.finished for answer in generated), found


def _context(checkpoint: Checkpoint) -> int:
    value = checkpoint.config().get("max_position_embeddings")
    return value if isinstance(value, int) else 1 << 30


def _read_ledger(path: Path, key: str) -> dict[str, _Answer]:
    """Return the finished answers of the same run; another run's ledger is replaced by an empty one.

    A kill may have torn the last line: reading stops there, and the file is cut to what is whole.
    """
    found: dict[str, _Answer] = {}
    whole = 0
    if path.is_file():
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                    if number == 0 and (entry["schema"], entry["key"]) != (SCHEMA, key):
                        break
                    if number:
                        found[entry["prompt"]] = _Answer(entry["answer"], entry["finished"])
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(line)
    if whole:
        os.truncate(path, whole)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schema": SCHEMA, "key": key}) + "\n", encoding="utf-8")
        found = {}
    return found


def _append(path: Path, answers: dict[str, _Answer]) -> None:
    lines = (
        json.dumps({"prompt": key, "answer": answer.text, "finished": answer.finished}, ensure_ascii=False)
        for key, answer in answers.items()
    )
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
