"""The json task: answers are one JSON object, an ``action`` and its slots.

``accuracy`` is the exact match of whole objects, whatever the order of keys and the spacing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.dataset import Example
from edgestill.errors import DataError
from edgestill.figure import Figure
from edgestill.runtime.intervals import bootstrap_interval
from edgestill.runtime.tasks import GenerationTask, References, register

ACTION_KEY: Final = "action"
_MAX_CHARACTERS: Final = 1 << 16


def parse_object(text: str) -> dict[str, object] | None:
    """Return the JSON object that ``text`` is (white space around it aside), or None.

    Strict: text before or after the object, a key given twice, NaN, Infinity, a number too large for
    a float, and texts of more than 65,536 characters are all refused.
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    try:
        value = json.loads(text.strip(), object_pairs_hook=_unique_keys, parse_constant=_refuse, parse_float=_finite)
        return value if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None


def canonical(value: object) -> str:
    """Return a JSON value as text: sorted keys, no spaces, 30.0 written as 30."""
    return json.dumps(_plain_numbers(value), sort_keys=True, separators=(",", ":"))


@register
class JsonTask(GenerationTask):
    """Exact match of a JSON object; also validity, the action alone, and F1 over the slots."""

    name = "json"
    primary_metric = "accuracy"

    def gold(self, example: Example) -> References:
        """Return the gold object's text. Raises DataError when it isn't one JSON object."""
        golds = super().gold(example)
        if parse_object(golds[0]) is None:
            raise DataError(f"{example.source}: the answer {golds[0][:80]!r} is not one JSON object")
        return golds

    def fault(self, answer: str, example: Example) -> str | None:
        """Refuse what isn't one JSON object."""
        return None if parse_object(answer) is not None else "not one JSON object"

    def same(self, answer: str) -> str:
        """Return the canonical object."""
        value = parse_object(answer)
        return answer if value is None else canonical(value)

    def score(self, predictions: Sequence[str], golds: Sequence[References]) -> dict[str, Figure]:
        """Return ``accuracy``, ``valid_json``, ``action_accuracy`` and ``slot_f1``.

        ``action_accuracy`` counts the examples whose gold has an action. ``slot_f1`` is micro F1 over
        (key, value) pairs of all other keys; a prediction that isn't an object has none.
        Raises DataError for a gold that isn't a JSON object.
        """
        pairs = [(parse_object(text), _gold_object(gold[0])) for text, gold in zip(predictions, golds, strict=True)]
        n = len(pairs)
        exact = sum(_exact(found, gold) for found, gold in pairs)
        valid = sum(found is not None for found, _ in pairs)
        acting = [(found, gold) for found, gold in pairs if ACTION_KEY in gold]
        actions = sum(_same_action(found, gold) for found, gold in acting)
        return {
            "accuracy": Figure.proportion(exact, n, "exact match of the canonical JSON object"),
            "valid_json": Figure.proportion(valid, n, "answers that are one JSON object"),
            "action_accuracy": Figure.proportion(actions, len(acting), "equal 'action'"),
            "slot_f1": _slot_f1(pairs),
        }

    def score_rows(self, predictions: Sequence[str], golds: Sequence[References]) -> list[float]:
        """Return 1 for each exact match, else 0."""
        pairs = zip(predictions, golds, strict=True)
        return [float(_exact(parse_object(text), _gold_object(gold[0]))) for text, gold in pairs]


def _exact(found: dict[str, object] | None, gold: dict[str, object]) -> bool:
    return found is not None and canonical(found) == canonical(gold)


def _slot_f1(pairs: Sequence[tuple[dict[str, object] | None, dict[str, object]]]) -> Figure:
    source = "micro F1 over (slot, value) pairs; percentile bootstrap over examples"
    counts = np.array([_slot_counts(found, gold) for found, gold in pairs], dtype=np.int64).reshape(-1, 3)

    def f1(rows: NDArray[np.int64]) -> float:
        hits, predicted, expected = counts[rows].sum(axis=0)
        return float(2 * hits / (predicted + expected)) if predicted + expected else math.nan

    n = len(pairs)
    value = f1(np.arange(n))
    if math.isnan(value):
        return Figure.missing("fraction", "no slot in any gold answer or prediction")
    return Figure(value=value, unit="fraction", n=n, ci95=bootstrap_interval(n, f1), source=source)


def _slot_counts(found: dict[str, object] | None, gold: dict[str, object]) -> tuple[int, int, int]:
    predicted, expected = _slots(found or {}), _slots(gold)
    return len(predicted & expected), len(predicted), len(expected)


def _slots(value: dict[str, object]) -> set[tuple[str, str]]:
    return {(key, canonical(slot)) for key, slot in value.items() if key != ACTION_KEY}


def _same_action(found: dict[str, object] | None, gold: dict[str, object]) -> bool:
    return found is not None and ACTION_KEY in found and canonical(found[ACTION_KEY]) == canonical(gold[ACTION_KEY])


def _gold_object(text: str) -> dict[str, object]:
    value = parse_object(text)
    if value is None:
        raise DataError(f"gold answer {text[:80]!r} is not one JSON object; correct the data")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large")
    return number


def _plain_numbers(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain_numbers(item) for item in value]
    return value
