"""Loads, cold and warm: real ones in processes of their own, and those that weren't cold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgestill.artifact import Checkpoint
from edgestill.errors import ModelFileError
from edgestill.export.gguf import export_gguf
from edgestill.runtime.load_times import load_times, summarise


@pytest.mark.skipif(sys.platform != "linux", reason="the page cache is Linux's")
def test_each_load_is_timed_in_a_process_of_its_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = export_gguf(Checkpoint.open(tiny_checkpoint), "f16", tmp_path).model_path
    found = load_times(str(model), repetitions=2)
    assert found.warm_seconds.n == 2
    for name in ("cold_load_seconds", "cold_first_token_seconds", "warm_load_seconds", "warm_first_token_seconds"):
        assert len(found.raw[name]) == 2
        assert min(found.raw[name]) > 0
    if found.cold_seconds.value is None:
        assert "stayed in the page cache" in found.cold_seconds.source  # a file system that lives in memory
    else:
        assert found.cold_seconds.n == 2


def event(share: float | None) -> dict[str, object]:
    return {"event": "finished", "load_seconds": 1.5, "first_token_seconds": 0.5, "cached_share": share}


def test_a_cold_load_that_was_not_one_is_null() -> None:
    assert summarise([event(0.0), event(0.01)], [event(1.0)]).cold_seconds.value == 1.5
    left = summarise([event(0.0), event(0.5)], [event(1.0)])
    assert left.cold_seconds.value is None
    assert left.cold_first_token_seconds.value is None
    assert "50% of the files stayed" in left.cold_seconds.source
    assert left.warm_seconds.value == 1.5
    assert "doesn't say" in summarise([event(None)], []).cold_seconds.source


def test_a_model_that_does_not_load_is_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=r"a\.gguf"):
        load_times(str(tmp_path / "a.gguf"), repetitions=1)
