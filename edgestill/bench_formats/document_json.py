"""JSON: the document itself, by its published schema (``edgestill.bench/1``), with every sample."""

from __future__ import annotations

from edgestill.bench_formats import register
from edgestill.bench_results import BenchDocument


@register("json", suffixes=(".json",))
def render_json(document: BenchDocument) -> str:
    """Return the whole document; nothing is left out."""
    return document.to_json() + "\n"
