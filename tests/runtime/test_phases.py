"""The parts of an answer: what is measured, on which tokens, and that the session is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgestill.runtime.phases import PASSES, measure_phases, phases_record
from edgestill.runtime.session import GenerationOptions, Session


def test_every_part_is_measured_and_the_session_answers_as_before(tiny_checkpoint: Path) -> None:
    options = GenerationOptions(max_new_tokens=6, ignore_eos=True)
    with Session.open(tiny_checkpoint) as session:
        text = "dim the hall"
        ids = session.prompt_ids(text)
        answer = session.generate(ids, options).token_ids
        samples = measure_phases(session, text, ids, answer)
        assert session.engine.position == 0
        assert session.generate(ids, options).token_ids == answer
    assert {name: len(values) for name, values in samples.items()} == dict.fromkeys(
        ("tokenisation", "engine_prefill", "engine_decode", "greedy", "top_k", "detokenisation"), PASSES
    )
    assert min(min(values) for values in samples.values()) > 0


class Counting:
    """An engine that keeps what it was given."""

    def __init__(self, engine: object) -> None:
        self.engine = engine
        self.given: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.engine, name)

    def append(self, ids: list[int]) -> object:
        self.given.append(tuple(ids))
        return self.engine.append(ids)  # type: ignore[attr-defined]


def test_the_engine_runs_the_answers_own_tokens(tiny_checkpoint: Path) -> None:
    with Session.open(tiny_checkpoint) as session:
        counting = Counting(session.engine)
        session.engine = counting  # type: ignore[assignment]
        measure_phases(session, "dim", [5, 6, 7], [8, 9, 10])
        assert counting.given == [(5, 6, 7), (8,), (9,)] * PASSES
        counting.given.clear()
        measure_phases(session, "dim", [5, 6, 7], [8, 9], before=[3, 4])
        assert counting.given == [(3, 4), (5, 6, 7), (8,)] * PASSES


def test_the_record_says_what_is_the_sessions_own() -> None:
    names = ("tokenisation", "engine_prefill", "engine_decode", "greedy", "top_k", "detokenisation")
    record = phases_record({name: [0.09] * 7 for name in names}, [0.1] * 9)
    assert record.session_overhead.value == pytest.approx(0.1)
    assert record.session_overhead.basis == "derived"
    assert (record.session_decode.value, record.session_decode.n) == (0.1, 9)
    assert record.raw["greedy"] == [0.09] * 7
