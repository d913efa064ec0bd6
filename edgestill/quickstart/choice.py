"""Choosing at random so that one seed gives one data set, on every machine and Python version.

Only ``random.Random.random`` is drawn from: its sequence is fixed by Python's documentation, while the
ways in which ``choice``, ``sample`` and ``shuffle`` use it are not.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """Return one of the options, each as likely as the others."""
    return options[int(rng.random() * len(options))]


def chance(rng: random.Random, probability: float) -> bool:
    """Return True with the given probability."""
    return rng.random() < probability


def stable_share(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone (from its sha256)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
