"""What the test split has that no other split has: combinations and phrasings held back by their hash.

The rule looks at the text alone, so it is the same for every seed and size, and a test recomputes it
from the rows. A combination is a whole answer, action and every slot; pairs of slots are too few to hold
back: no other split would know a mode of the alarm that only the test has. A phrasing is a core (see
``phrasings``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from edgestill.quickstart.choice import stable_share
from edgestill.quickstart.home import Answer, write_answer

Split = Literal["train", "validation", "test", "fresh"]

# Chosen so that each action has both held-out and kept phrasings and combinations, and each word is kept.
_PHRASING_SALT: Final = 789
_COMBINATION_SALT: Final = 1632
HELD_OUT_COMBINATIONS: Final = 0.15
HELD_OUT_PHRASINGS: Final = 0.2
# Which share of the prompts may go to which split; test needs none, its phrasings are its own.
_PROMPT_SHARES: Final[dict[Split, tuple[float, float]]] = {
    "train": (0.0, 0.45),
    "validation": (0.45, 0.5),
    "fresh": (0.5, 1.0),
    "test": (0.0, 1.0),
}


def phrasings_for(split: Split, cores: Sequence[str]) -> tuple[str, ...]:
    """Return the cores that a split may use: the held-out ones for test, the others elsewhere."""
    return tuple(core for core in cores if is_held_out_phrasing(core) == (split == "test"))


def is_held_out_phrasing(core: str) -> bool:
    """Tell whether a core belongs to the test split."""
    return stable_share(f"phrasing {_PHRASING_SALT} {core}") < HELD_OUT_PHRASINGS


def is_held_out_combination(answer: Answer) -> bool:
    """Tell whether an answer's combination belongs to the test split."""
    return stable_share(f"combination {_COMBINATION_SALT} {write_answer(answer)}") < HELD_OUT_COMBINATIONS


def may_hold(split: Split, answer: Answer, prompt: str) -> bool:
    """Tell whether a row belongs to a split, by its answer's combination and the hash of its prompt."""
    low, high = _PROMPT_SHARES[split]
    return is_held_out_combination(answer) == (split == "test") and low <= stable_share(f"prompt {prompt}") < high
