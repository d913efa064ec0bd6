"""Markdown: a table as GitHub shows it, with everything that is to be known of it below."""

from __future__ import annotations

import re

from edgestill.bench_formats import render
from edgestill.bench_results import BenchDocument


def test_every_model_is_a_row_of_the_table(document: BenchDocument) -> None:
    lines = render(document, "markdown").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert {len(re.split(r"(?<!\\)\|", line)) for line in table} == {12}
    assert "| 500 ms (400 to 600 ms) |" in table[2]
    assert "llama.cpp, 2 threads" in table[2]
    assert r"other\|model | onnxruntime, 2 threads, **failed** after 6 repetitions" in table[3]
    assert r"| =broken.gguf | **failed** | — |" in table[4]


def test_failures_warnings_and_the_environment_are_told(document: BenchDocument) -> None:
    text = render(document, "markdown")
    assert r"- **other\|model failed**: killed by SIGKILL" in text
    assert "- **=broken.gguf failed**: not a model" in text
    assert r"- m.gguf: a\_b is unsteady" in text
    last = text.splitlines()[-1]
    for part in ("Some CPU", "2 cores", "governor performance", "CPU quota 1.5 cores", "memory limit 512 MB", "pinned"):
        assert part in last
    assert "commit 0123456789ab with changes" in last
    assert last.endswith("2026-01-31T12:00:00Z.")
