"""The compiled loop of a greedy answer: the tokens of the loop in Python, and what ends it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgestill.runtime.engines.llama_cpp
from edgestill.artifact import Checkpoint
from edgestill.errors import ContextFullError, StageError
from edgestill.export import export_checkpoint
from edgestill.runtime import GenerationOptions, Session
from edgestill.runtime.engines.llama_cpp import LlamaCppEngine
from edgestill.runtime.token_loop import Decoded, TokenLoop, token_loop_library

FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, llama_cpp.llama_batch)
LONG = GenerationOptions(max_new_tokens=100, ignore_eos=True)


class MadeUpModel:
    """What llama_decode is to the loop: after each token the next row of logits, a code of its own at last."""

    def __init__(self, rows: np.ndarray, code: int = 7) -> None:
        self.rows = np.ascontiguousarray(rows, np.float32)
        self.computed: list[int] = []
        self.code = code
        self._logits = np.empty(self.rows.shape[1], np.float32)
        self._token = (ctypes.c_int32 * 1)()
        self._one = llama_cpp.llama_batch(n_tokens=1, token=self._token)
        library = token_loop_library(ctypes.sizeof(llama_cpp.llama_batch))
        assert library is not None, "the loop isn't compiled; see docs/install.md"
        self._function = FUNCTION(self._decode)
        self.loop = TokenLoop(library, self._function, 0, self._one, self.rows.shape[1])

    def _decode(self, _context: object, one: Any) -> int:
        if len(self.computed) == len(self.rows):
            return self.code
        assert one.n_tokens == 1
        self._logits[:] = self.rows[len(self.computed)]
        self.computed.append(one.token[0])
        return 0

    def decode(self, first: int, count: int, ends: tuple[int, ...] = (), cancelled: bytearray | None = None) -> Decoded:
        self._token[0] = first
        return self.loop.decode(self._logits.ctypes.data, count, ends, cancelled or bytearray(1))


@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=300),
    tie=st.floats(width=32),
    places=st.lists(st.integers(0, 299), max_size=4),
)
def test_the_likeliest_is_numpys(values: list[float], tie: float, places: list[int]) -> None:
    row = np.array(values, np.float32)
    row[[place for place in places if place < len(row)]] = tie
    decoded = MadeUpModel(row[None]).decode(3, 1)
    best = int(row.argmax())
    assert decoded.not_numbers == bool(np.isnan(row[best]))
    assert decoded.tokens == ([] if decoded.not_numbers else [best])
    assert len(decoded.seconds) == len(decoded.tokens)


def test_each_token_is_computed_after_the_one_before() -> None:
    model = MadeUpModel(np.eye(5)[[2, 4, 1]])
    decoded = model.decode(3, 3)
    assert decoded.tokens == [2, 4, 1]
    assert model.computed == [3, 2, 4]
    assert decoded.code == 0
    assert all(seconds >= 0 for seconds in decoded.seconds)


def test_what_ends_the_loop() -> None:
    rows = np.eye(5)[[2, 4, 1]]
    assert MadeUpModel(rows).decode(3, 3, ends=(1, 4)).tokens == [2, 4]
    assert MadeUpModel(rows).decode(3, 3, cancelled=bytearray(b"\1")).tokens == [2]
    failed = MadeUpModel(rows, code=-3).decode(3, 5)
    assert (failed.tokens, failed.code) == ([2, 4, 1], -3)
    damaged = rows.copy()
    damaged[1, 3] = np.nan
    cut = MadeUpModel(damaged).decode(3, 3)
    assert (cut.tokens, cut.code, cut.not_numbers) == ([2], 0, True)


def test_it_comes_back_now_and_then_and_is_taken_up_again() -> None:
    model = MadeUpModel(np.eye(400))
    model.loop._loop.longest = 0.0
    assert model.decode(399, 400).tokens == [0]
    model.loop._loop.longest = 60.0
    assert model.decode(0, 400).tokens == list(range(1, 257))  # its room for tokens


def test_a_batch_of_another_size_is_not_given_to_it() -> None:
    assert token_loop_library(ctypes.sizeof(llama_cpp.llama_batch) + 8) is None


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint(
        Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path_factory.mktemp("gguf")
    ).model_path


@pytest.fixture
def open_pair(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[Session, Session]]]:
    """Open a session with the compiled loop, and one that goes from token to token in Python."""
    opened: list[Session] = []

    def pair() -> tuple[Session, Session]:
        opened.append(Session.open(model, threads=1))
        with monkeypatch.context() as without:
            without.setattr(edgestill.runtime.engines.llama_cpp, "token_loop_library", lambda _bytes: None)
            opened.append(Session.open(model, threads=1))
        return opened[-2], opened[-1]

    yield pair
    for session in opened:
        session.close()


def test_answers_are_those_of_the_loop_in_python(open_pair: Callable[[], tuple[Session, Session]]) -> None:
    compiled, python = open_pair()
    prompts = ["dim the lights", "", "dim the lights", "dim the heating, please, in every room of the house", [5]]
    for prompt in (prompt or [9, 8, 7] for prompt in prompts):
        one, other = compiled.generate(prompt, LONG), python.generate(prompt, LONG)
        assert compiled.engine.decodes_greedily  # type: ignore[attr-defined]
        assert not python.engine.decodes_greedily  # type: ignore[attr-defined]
        assert (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)
        assert one.statistics.reused_tokens == other.statistics.reused_tokens
        assert compiled.engine.position == python.engine.position
        assert len(one.statistics.token_seconds) == 99
        assert min(one.statistics.token_seconds) > 0
        assert sum(one.statistics.token_seconds) + one.statistics.ttft_seconds <= one.statistics.total_seconds
    ends = frozenset({one.token_ids[40]})
    compiled.tokenizer.eos_ids = python.tokenizer.eos_ids = ends
    stopped, stopped_too = (session.generate([5]) for session in (compiled, python))
    assert stopped.token_ids == stopped_too.token_ids == one.token_ids[: one.token_ids.index(*ends) + 1]
    assert stopped.finish_reason == stopped_too.finish_reason == "eos"
    assert stopped.text == stopped_too.text


def test_a_full_context_ends_the_answer_by_length(open_pair: Callable[[], tuple[Session, Session]]) -> None:
    everything = GenerationOptions(max_new_tokens=10_000, ignore_eos=True)
    one, other = (session.generate([5, 6], everything) for session in open_pair())
    assert one.token_ids == other.token_ids
    assert one.finish_reason == other.finish_reason == "length"
    assert len(one.token_ids) == 255


def test_other_threads_cancel_an_answer(open_pair: Callable[[], tuple[Session, Session]]) -> None:
    session, _ = open_pair()
    engine = session.engine
    assert isinstance(engine, LlamaCppEngine)
    entered, real = threading.Event(), engine._loop.decode

    def decode(*arguments: Any) -> Decoded:
        entered.set()
        result: Decoded = real(*arguments)
        return result

    engine._loop.decode = decode
    engine._loop._loop.longest = 60.0
    answers: list[str] = []
    for _ in range(20):
        entered.clear()
        thread = threading.Thread(target=lambda: answers.append(session.generate([5, 6], LONG).finish_reason))
        thread.start()
        entered.wait(30)
        session.cancel()
        thread.join(30)
        session.reset()
    assert len(answers) == 20
    assert set(answers) <= {"cancelled", "length"}
    assert "cancelled" in answers
    assert session.generate([5, 6], LONG).finish_reason == "length"


def test_many_outputs_in_between_do_not_mislead_it(
    open_pair: Callable[[], tuple[Session, Session]], model: Path
) -> None:
    compiled, python = open_pair()
    wanted = python.generate([5, 6], LONG).token_ids
    for ids in ([1], list(range(1, 200)), [1, 2, 3]):
        compiled.logits(ids)
        assert compiled.generate([5, 6], LONG).token_ids == wanted
        row = np.array(compiled.read([5, 6, 7, *ids[:3]]))
        fresh = Session.open(model, threads=1)
        assert np.array_equal(row, fresh.read([5, 6, 7, *ids[:3]]))
        fresh.close()


@pytest.mark.parametrize("which", [0, 1])
def test_an_answer_that_is_interrupted_leaves_a_session_that_answers_rightly(
    open_pair: Callable[[], tuple[Session, Session]], which: int
) -> None:
    session, other = open_pair()[:: 1 - 2 * which]
    engine = session.engine
    assert isinstance(engine, LlamaCppEngine)
    loop, compute = engine._loop, engine._compute

    def decode(*arguments: Any) -> None:
        loop.decode(*arguments)
        raise KeyboardInterrupt

    def compute_one(context: Any, batch: Any) -> int:
        code = compute(context, batch)
        if batch.n_tokens == 1:
            raise KeyboardInterrupt
        return code

    with pytest.MonkeyPatch.context() as patch:
        if which == 0:
            patch.setattr(engine, "_loop", SimpleNamespace(decode=decode))
        else:
            patch.setattr(engine, "_compute", compute_one)
        with pytest.raises(KeyboardInterrupt):
            session.generate([5, 6], LONG)
    longer = [5, 6, 7]  # what it shares is all that the session knows of
    assert session.generate(longer, LONG).token_ids == other.generate(longer, LONG).token_ids


def test_a_closed_model_and_a_full_context_are_errors(open_pair: Callable[[], tuple[Session, Session]]) -> None:
    session, _ = open_pair()
    session.generate([5], LONG)
    engine = session.engine
    assert isinstance(engine, LlamaCppEngine)
    engine.append([1] * (256 - engine.position))
    with pytest.raises(ContextFullError):
        engine.decode_greedily(1, 1, (), bytearray(1))
    engine.rewind(10)
    session.close()
    assert not engine.decodes_greedily
    with pytest.raises(StageError, match="closed"):
        engine.append([1])
    with pytest.raises(StageError, match="closed"):
        session.generate("dim", LONG)
