"""A worker's own end: what it says of itself reaches whoever started it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgestill.errors import StageError
from edgestill.runtime.worker import run_in_worker

SHORT_OF_MEMORY = """
import sys
from edgestill.runtime.worker import serve_request

def serve(request, emit):
    raise MemoryError("for an array of 9 GB")

sys.exit(serve_request(serve))
"""


def test_a_worker_that_gets_no_memory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "short_worker.py").write_text(SHORT_OF_MEMORY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(StageError, match=r"out of memory: the worker got none when it asked \(for an array of 9 GB\)"):
        run_in_worker("short_worker", {}, lambda event: None, what="a test", reached=lambda: "nothing")
