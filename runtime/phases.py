"""The parts of an answer, each by itself: tokenising, the engine alone, choosing a token, writing it as text.

Measured after the repetitions, in the same process, on the same prompt and the tokens of its own answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from edgestill.bench_results import Phases
from edgestill.figure import Figure
from edgestill.runtime.sampling import Sampler, Sampling
from edgestill.runtime.tokenizer import StreamDecoder

if TYPE_CHECKING:
    from edgestill.runtime.session import Session

PASSES: Final = 7
SAMPLED: Final = Sampling(temperature=0.8, top_k=40, seed=0)
_DRAWS: Final = 50
_WHAT: Final[Mapping[str, str]] = {
    "tokenisation": "the whole prompt, text to ids",
    "engine_prefill": "the whole prompt, ids to logits",
    "engine_decode": "a token, the engine alone",
    "greedy": "a token chosen greedily",
    "top_k": "a token drawn from the 40 most likely at temperature 0.8",
    "detokenisation": "a token, id to text, streamed",
}


def measure_phases(
    session: Session, text: str, prompt: Sequence[int], answer: Sequence[int], before: Sequence[int] = ()
) -> dict[str, list[float]]:
    """Return samples in seconds, one a pass: ``tokenisation``, ``engine_prefill`` and ``engine_decode`` (a token),
    ``greedy`` and ``top_k`` (a token), ``detokenisation`` (a token).

    ``text`` is what ``prompt`` was encoded from, ``answer`` the ids that the session gave for it (at least two), with
    ``before`` in the context, which isn't timed. The engine's passes run the same ids, and nothing else: no choice of
    tokens, no text. The KV cache is empty after.
    """
    engine = session.engine
    session.reset()
    found: dict[str, list[float]] = {
        name: [] for name in ("tokenisation", "engine_prefill", "engine_decode", "greedy", "top_k", "detokenisation")
    }
    greedy, drawing = Sampler(Sampling()), Sampler(SAMPLED)
    for _ in range(PASSES):
        found["tokenisation"].append(_seconds(lambda: session.tokenizer.encode(text)))
        if before:
            engine.append(before)
        started = time.perf_counter()
        logits = engine.append(prompt)
        found["engine_prefill"].append(time.perf_counter() - started)
        append = engine.append
        started = time.perf_counter()
        for token in answer[:-1]:
            append((token,))
        found["engine_decode"].append((time.perf_counter() - started) / (len(answer) - 1))
        scores = np.array(logits)
        for name, sampler in (("greedy", greedy), ("top_k", drawing)):
            history = [*before, *prompt]
            pick = sampler.pick
            found[name].append(_seconds(lambda: [pick(scores, history) for _ in range(_DRAWS)]) / _DRAWS)  # noqa: B023
        decoder = StreamDecoder(session.tokenizer)
        push = decoder.push
        found["detokenisation"].append(_seconds(lambda: [push(token) for token in answer]) / len(answer))  # noqa: B023
        engine.rewind(0)
    session.reset()
    return found


def phases_record(samples: Mapping[str, Sequence[float]], gaps: Sequence[float]) -> Phases:
    """Return the figures: medians of ``samples`` (see :func:`measure_phases`), beside the ``gaps`` between tokens of
    whole answers, in seconds."""
    passes = f"median of {PASSES} passes after the repetitions"
    of = {name: Figure.median(values, "seconds", f"{passes}; {_WHAT[name]}") for name, values in samples.items()}
    session = Figure.median(gaps, "seconds", "median gap between tokens of the repetitions, end to end")
    engine = of["engine_decode"].value
    overhead = Figure.missing("fraction", "not measured")
    if engine is not None and session.value:
        overhead = Figure(
            value=1 - engine / session.value,
            unit="fraction",
            n=PASSES,
            basis="derived",
            source="1 - engine_decode / session_decode; below 0 where the passes after the repetitions, with Python "
            "between their tokens, were slower",
        )
    return Phases(
        tokenisation=of["tokenisation"],
        engine_prefill=of["engine_prefill"],
        engine_decode=of["engine_decode"],
        session_decode=session,
        session_overhead=overhead,
        greedy=of["greedy"],
        top_k=of["top_k"],
        detokenisation=of["detokenisation"],
        raw={name: list(values) for name, values in samples.items()},
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
