"""A result without its times, for devices whose wall times mean nothing: null, and the reason beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from edgestill.devices.contract import RunResult

_OF_TIMES: Final = re.compile(r"\w+_(seconds|per_second)\b")
"""A warning on a time begins with its name."""

_TIME_UNITS: Final = ("second", "tokens/", "token/", "/s", "joule", "hertz", "/token")
_TIME_RECORDS: Final = frozenset({"roofline", "loads", "phases", "concurrent", "task_answers", "energy_per_token",
                                  "throttling", "gate"})  # fmt: skip


def without_times(result: RunResult, reason: str) -> RunResult:
    """Return the result with every figure of time or rate null and ``reason`` as its source, samples taken out too."""
    document = result.document
    if document is None:
        return replace(result, seconds=None, notes=(*result.notes, reason))
    cleaned = {name: _cleaned(value, reason) for name, value in document.items()}
    results = cleaned.get("results")
    if isinstance(results, list):
        cleaned["results"] = [_record(one, reason) if isinstance(one, dict) else one for one in results]
    # The lines held the same times: what is left of them is the document.
    return replace(result, lines=(), document=cleaned, seconds=None, notes=(*result.notes, reason))


def _record(record: Mapping[str, object], reason: str) -> dict[str, object]:
    """Return a bench's record: parts that are of times alone are gone, and it says why."""
    kept = {name: None if name in _TIME_RECORDS and name != "concurrent" else value for name, value in record.items()}
    if "concurrent" in kept:
        kept["concurrent"] = []
    for name in ("raw", "means", "outliers"):
        samples = kept.get(name)
        if isinstance(samples, dict):
            kept[name] = {key: value for key, value in samples.items() if "bytes" in key}
    warnings = kept.get("warnings")
    others = [one for one in warnings if not _OF_TIMES.match(str(one))] if isinstance(warnings, list) else []
    kept["warnings"] = [*others, f"times are left out: {reason}"]
    return kept


def _cleaned(value: object, reason: str) -> object:
    if isinstance(value, list):
        return [_cleaned(one, reason) for one in value]
    if not isinstance(value, dict):
        return value
    unit = value.get("unit")
    if isinstance(unit, str) and "value" in value:
        return _missing(value, reason) if any(part in unit for part in _TIME_UNITS) else value
    return {name: None if _bare_time(name, one) else _cleaned(one, reason) for name, one in value.items()}


def _bare_time(name: str, value: object) -> bool:
    """Tell whether a value is a time or a rate that isn't a figure, from its name."""
    return name.endswith(("_seconds", "_per_second")) and isinstance(value, (int, float, list))


def _missing(figure: Mapping[str, object], reason: str) -> dict[str, object]:
    emptied: dict[str, object] = {name: None for name in figure}
    return emptied | {"unit": figure["unit"], "n": 0, "source": reason} | (
        {"basis": figure["basis"]} if "basis" in figure else {}
    )  # fmt: skip
