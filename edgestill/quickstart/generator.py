"""The quickstart's data: requests to a smart home in plain English, answered by one JSON action.

Everything follows from the split's name, the count and the seed. ``train``, ``validation`` and ``fresh``
share their phrasings and combinations and no prompt; every row of ``test`` has an unseen phrasing *and* an
unseen combination (see ``holdout``), each made of words and slots that ``train`` knows.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from edgestill.dataset import Example, Message, write_examples
from edgestill.quickstart.choice import chance, pick
from edgestill.quickstart.followups import draw_follow_up
from edgestill.quickstart.holdout import Split, is_held_out_combination, may_hold
from edgestill.quickstart.home import ACTIONS, write_answer
from edgestill.quickstart.refusals import draw_refusal
from edgestill.quickstart.requests import draw_request

_REFUSALS: Final = 0.12
_TWO_TURNS: Final = 0.2
_TRIES: Final = 50
_MAX_DRAWS_PER_ROW: Final = 200


def generate(split: Split, count: int, seed: int) -> list[Example]:
    """Return ``count`` different conversations, each ending in its gold answer.

    Raises ValueError when the split doesn't hold that many.
    """
    rng = random.Random(f"{split} {seed}")
    rows: dict[str, Example] = {}
    for _ in range(count * _MAX_DRAWS_PER_ROW):
        if len(rows) == count:
            break
        example = _draw(rng, split)
        if example is not None:
            rows.setdefault(prompt_text(example), example)
    if len(rows) < count:
        raise ValueError(f"the {split} split holds fewer than {count} rows; ask for fewer")
    return list(rows.values())


def prompt_text(example: Example) -> str:
    """Return everything before the final answer as one text, a line for each turn."""
    return "\n".join(message.content for message in example.prompt)


def write_dataset(out_dir: Path, *, train: int, validation: int, test: int, fresh: int, seed: int) -> None:
    """Write train.jsonl, validation.jsonl, test.jsonl (gold answers) and prompts.jsonl (none) into a folder."""
    write_examples(out_dir / "train.jsonl", generate("train", train, seed))
    write_examples(out_dir / "validation.jsonl", generate("validation", validation, seed))
    write_examples(out_dir / "test.jsonl", generate("test", test, seed))
    unanswered = [Example(example.prompt) for example in generate("fresh", fresh, seed)]
    write_examples(out_dir / "prompts.jsonl", unanswered)


def _draw(rng: random.Random, split: Split) -> Example | None:
    """Return a row of the split, or None where it has none of the kind that was drawn.

    The kind is drawn first and then kept: so each action has its share of every split.
    """
    action = None if chance(rng, _REFUSALS) else pick(rng, tuple(ACTIONS))
    two_turns = action is not None and chance(rng, _TWO_TURNS)
    tries = (_try(rng, split, action, two_turns) for _ in range(_TRIES))
    return next((example for example in tries if example is not None), None)


def _try(rng: random.Random, split: Split, action: str | None, two_turns: bool) -> Example | None:
    """Return a row about an action (None: to refuse), or None when what was drawn belongs to another split."""
    first = draw_refusal(rng, split) if action is None else draw_request(rng, split, action)
    if first is None:
        return None
    turns, answer = [Message("user", first.text)], first.answer
    if two_turns:
        follow_up = draw_follow_up(rng, split, first)
        if follow_up is None or (split != "test" and is_held_out_combination(first.answer)):
            return None
        turns += [Message("assistant", write_answer(answer)), Message("user", follow_up.text)]
        answer = follow_up.answer
    example = Example((*turns, Message("assistant", write_answer(answer))))
    return example if may_hold(split, answer, prompt_text(example)) else None
