"""Flash attention where it pays: who gets it by default, what it is asked for, and that answers don't hang on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgestill.artifact import Checkpoint
from edgestill.errors import InputError, ModelFileError
from edgestill.export import export_checkpoint
from edgestill.runtime.engine_options import EngineOptions, KvPrecision
from edgestill.runtime.llama_attention import choose, longest_piece
from edgestill.runtime.prefix_state import write_prefix_state
from edgestill.runtime.session import Session


@pytest.mark.parametrize(
    ("precision", "context", "asked", "machine", "expected"),
    [
        ("f16", 256, None, "x86_64", True),
        ("f16", 257, None, "x86_64", False),
        ("f16", 4096, None, "AMD64", False),
        ("f16", 4096, None, "aarch64", True),
        ("f16", 4096, True, "x86_64", True),
        ("f16", 64, False, "aarch64", False),
        ("f32", 64, None, "aarch64", False),
        ("f32", 64, True, "x86_64", True),
        ("q8_0", 4096, None, "x86_64", True),
        ("q4_0", 64, True, "x86_64", True),
    ],
)
def test_who_gets_flash_attention(
    precision: KvPrecision, context: int, asked: bool | None, machine: str, expected: bool
) -> None:
    assert choose(precision, context, asked, machine) is expected


def test_a_quantised_cache_can_t_do_without() -> None:
    with pytest.raises(InputError, match="a KV cache in q8_0 wants flash attention"):
        choose("q8_0", 64, False)


@pytest.mark.parametrize(("heads", "context"), [(9, 2048), (32, 4096), (32, 131072), (1, 64), (12, 1024)])
def test_the_matrix_of_scores_stays_small(heads: int, context: int) -> None:
    piece = longest_piece(heads, context)
    assert 32 <= piece <= 256
    assert piece == 32 or piece * heads * context * 4 <= 32 << 20
    assert piece == 256 or (piece + 32) * heads * context * 4 > 32 << 20
    assert longest_piece(0, context) == context


def test_answers_are_the_same_with_and_without_and_states_aren_t_mixed_up(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp")
    model = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path).model_path
    ids = [5 + number * 7 % 40 for number in range(60)]
    logits = {}
    for asked in (True, False):
        with Session.open(model, threads=1, options=EngineOptions(flash_attention=asked)) as session:
            engine = session.engine
            logits[asked] = engine.logits(ids)
            assert getattr(engine, "settings", {})["flash_attention"] is asked
            assert engine.describe().settings["flash_attention"] == ("on" if asked else "off")  # type: ignore[attr-defined]
            engine.append(ids[:40])
            for token in ids[40:]:
                last = np.array(engine.append([token]))
            assert np.abs(last - logits[asked][-1]).max() < 2e-3 * np.abs(last).max()
            assert session.model is not None
            write_prefix_state(tmp_path / str(asked), engine, ids[:9], model_sha256=session.model.sha256())
            session.use_prefix(tmp_path / str(asked))
    assert np.abs(logits[True] - logits[False]).max() < 2e-3 * np.abs(logits[True]).max()
    assert (logits[True].argmax(-1) == logits[False].argmax(-1)).all()
    with (
        Session.open(model, threads=1, options=EngineOptions(flash_attention=False)) as session,
        pytest.raises(ModelFileError, match="values transposed"),
    ):
        session.use_prefix(tmp_path / "True")
