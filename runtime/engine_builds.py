"""Reading what the engines' libraries say of how they were built."""

from __future__ import annotations

import re

_SWITCH = re.compile(r"(\w+) = (\d+)")
_COMMIT = re.compile(r"git-commit-id=([0-9a-f]{7,40})\b")


def llama_features(system_info: str) -> tuple[str, ...]:
    """Return what a llama.cpp build uses, from ``llama_print_system_info``: ``CPU : AVX2 = 1 | FMA = 1 |``."""
    return tuple(name.lower() for name, value in _SWITCH.findall(system_info) if value != "0")


def onnxruntime_commit(build_info: str) -> str | None:
    """Return the commit in onnxruntime's ``get_build_info()``; None when it names none."""
    found = _COMMIT.search(build_info)
    return None if found is None else found[1]
