"""The process that a benchmark measures: opens one model, runs, prints one JSON line per finished repetition.

Started by :mod:`edgestill.runtime.bench` (see :mod:`edgestill.runtime.worker`). Memory is read between
repetitions, never inside a timed section.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.artifact import read_json_object
from edgestill.dataset import Message
from edgestill.errors import InputError
from edgestill.runtime.engine import DescribedEngine
from edgestill.runtime.engine_options import EngineOptions
from edgestill.runtime.memory import read_memory
from edgestill.runtime.model_source import Kind, ModelSource, locate_model
from edgestill.runtime.moments import IMPORTED, LOADED, START, TOKENIZER, WARM, MemoryLog
from edgestill.runtime.repetition_watch import RepetitionWatch
from edgestill.runtime.stopping import median_known, settled
from edgestill.runtime.worker import Emit, end_turn, serve_request
from edgestill.storage import sha256_json

if TYPE_CHECKING:
    from edgestill.runtime.session import Generation, Session

MOST_WARM_UPS: Final = 20
_PSS_INTERVAL: Final = 0.25  # seconds
_REST: Final = 0.01  # seconds: the other process's pool of threads spins on for some milliseconds before it sleeps
_PACKAGES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "transformers": ("torch", "transformers"),
    "gguf": ("llama_cpp",),
    "onnx": ("onnxruntime",),
}

PROMPT_TEXT: Final = (
    "The lighthouse keeper climbed the stairs every evening before dark. He carried a small lamp, a book "
    "about the weather and a cup of tea that was always too hot. From the top he could see the harbour, "
    "the market and the road that led over the hills to the next town. When the fog came in he counted "
    "the seconds between two sounds of the horn, wrote the number down and waited for the ships to answer. "
)
"""What the benchmark's prompt is cut from, repeated as often as needed."""


def serve(request: Mapping[str, Any], emit: Emit) -> None:
    """Open the model and run the request's repetitions (see :func:`edgestill.runtime.bench.bench_model`)."""
    started = time.perf_counter()
    from edgestill.runtime.session import Session, read_tokenizer

    source = locate_model(str(request["model"]))
    import_seconds = time.perf_counter() - started
    log = MemoryLog(source, _PACKAGES[source.kind], wanted=bool(request.get("ledger")))
    log.take(START)
    started = time.perf_counter()
    import_packages(source)
    import_seconds += time.perf_counter() - started
    before = read_memory()
    log.take(IMPORTED)
    started = time.perf_counter()
    tokenizer = read_tokenizer(source)
    load_seconds = time.perf_counter() - started
    if tokenizer is not None:
        log.take(TOKENIZER)
    started = time.perf_counter()
    session = Session.open(
        source,
        engine=request["engine"],
        threads=request["threads"],
        context_length=request["context_length"],
        options=EngineOptions(**request.get("options", {}), trace=log.wanted),
        tokenizer=tokenizer,
    )
    load_seconds += time.perf_counter() - started
    try:
        engine = session.engine
        log.take(LOADED, engine)
        emit(
            {
                "event": "loaded",
                "import_seconds": import_seconds,
                "load_seconds": load_seconds,
                "engine": engine.name,
                "threads": engine.threads,
                "context_length": engine.context_length,
                "weights_bytes": engine.weights_bytes,
                "engine_build": engine.describe().model_dump() if isinstance(engine, DescribedEngine) else None,
                "kv_precision": getattr(engine, "kv_precision", None),
                "settings": dict(getattr(engine, "settings", {})),
                "pss_before": before.pss,
                "pss": read_memory().pss,
            }
        )
        others = _OtherProcesses()
        next_turn = _turns(request, emit, others)
        next_turn()
        prompts, new_tokens, ignore_eos = _workload(request, session, emit)
        watch = RepetitionWatch(float(request.get("gate_seconds", 0.0)), _busy_seconds)
        before_each = _context(request, session)
        warm: list[float] = []
        while len(warm) < int(request["warmup"]) or _still_warming(request, warm):
            times = _answer(session, before_each, prompts[len(warm) % len(prompts)], new_tokens, ignore_eos)
            warm.append(float(times["answer_seconds"]))
            emit({"event": "warm", "times": times, "pss": read_memory().pss})
            next_turn()
        log.take(WARM, engine)
        others.begin()
        pss, sampled = read_memory().pss, time.perf_counter()
        begun, answered = sampled, list[float]()
        for prompt in _rounds(prompts, request, answered, begun):
            watch.before()
            times = _answer(session, before_each, prompt, new_tokens, ignore_eos)
            met = watch.after()
            answered.append(float(times["answer_seconds"]))
            # Reading PSS walks the page tables and leaves cold caches to the next answer: not too often.
            if time.perf_counter() - sampled > _PSS_INTERVAL:
                pss, sampled = read_memory().pss, time.perf_counter()
            emit({"event": "repetition", "times": times, "pss": pss, "met": met})
            next_turn()
        cores, memory = others.cores(), read_memory()
        held = log.close(engine)
        if request["phases"]:
            emit({"event": "phases", "samples": _phases(session, before_each, prompts[0], new_tokens)})
        emit(
            {
                "event": "finished",
                "pss": memory.pss,
                "peak_rss": memory.peak_rss,
                "other_cores": cores,
                "memory": held,
            }
        )
    finally:
        session.close()


def _turns(request: Mapping[str, Any], emit: Emit, others: _OtherProcesses) -> Callable[[], None]:
    """Return what ends a turn: nothing where the request doesn't want it done by turns."""

    def next_turn() -> None:
        if request.get("in_turn"):
            others.pause()  # the one whose turn it is isn't another load
            end_turn(emit)
            time.sleep(_REST)
            others.go_on()

    return next_turn


def _still_warming(request: Mapping[str, Any], warm: Sequence[float]) -> bool:
    """Return whether more warm-ups than the asked are wanted: where repetitions end by width, until they are steady."""
    if request["width"] is None or not request["warmup"]:
        return False
    return len(warm) < MOST_WARM_UPS and sum(warm) < float(request["max_seconds"]) / 4 and not settled(warm)


def _rounds(prompts: list[Any], request: Mapping[str, Any], answered: Sequence[float], begun: float) -> Iterator[Any]:
    """Yield prompts: ``repetitions`` of each, then more until the median answer is known or the time is over."""
    yield from prompts * int(request["repetitions"])
    if request["width"] is None:
        return
    while not median_known(answered, float(request["width"])):
        if time.perf_counter() - begun + answered[-1] > float(request["max_seconds"]):
            return
        yield from prompts


def _phases(session: Session, before: list[int], prompt: Any, new_tokens: int) -> dict[str, list[float]]:
    from edgestill.runtime.phases import measure_phases
    from edgestill.runtime.session import GenerationOptions

    session.reset()
    answer = session.generate([*before, *prompt], GenerationOptions(max_new_tokens=new_tokens, ignore_eos=True))
    return measure_phases(session, session.tokenizer.decode(prompt), prompt, answer.token_ids, before)


def prompt_ids(session: Session, count: int) -> list[int]:
    """Return ``count`` token ids of :data:`PROMPT_TEXT`, after whatever the tokenizer puts before a text."""
    repeated, longest = PROMPT_TEXT, 0
    while True:
        ids = [int(token) for token in session.tokenizer.encode(repeated, add_special=True)]
        if len(ids) > count:
            return ids[:count]
        if len(ids) <= longest:
            raise InputError(f"the tokenizer cuts texts at {longest} tokens; a prompt of {count} can't be made")
        repeated, longest = repeated + repeated, len(ids)


def _workload(request: Mapping[str, Any], session: Session, emit: Emit) -> tuple[list[Any], int, bool]:
    """Return the prompts of one round, the most new tokens per answer, and whether eos is ignored."""
    new_tokens = int(request["new_tokens"])
    if request["prompts"] is not None:
        return [_prompt(value) for value in request["prompts"]], new_tokens, False
    context = session.engine.context_length
    depth = int(request["depth"])
    count = min(int(request["prompt_tokens"]), context - new_tokens - depth)
    if count < 1:
        deep = f" after {depth}" if depth else ""
        raise InputError(
            f"{new_tokens} new tokens{deep} leave no room for a prompt in a context of {context}; ask for fewer"
        )
    ids = prompt_ids(session, count)
    emit({"event": "prompt", "tokens": count, "sha256": sha256_json(ids)})
    return [ids], new_tokens, True


def _prompt(value: Sequence[Any]) -> list[int] | list[Message]:
    if value and isinstance(value[0], dict):
        return [Message(turn["role"], turn["content"]) for turn in value]
    return [int(token) for token in value]


def _context(request: Mapping[str, Any], session: Session) -> list[int]:
    """Return the ids that are in the KV cache before each prompt: ``depth`` of the prompt's text."""
    return prompt_ids(session, int(request["depth"])) if request["depth"] else []


def _answer(session: Session, before: list[int], prompt: Any, new_tokens: int, ignore_eos: bool) -> dict[str, Any]:
    """Generate one greedy answer from a KV cache that holds ``before``; return its times in seconds."""
    from edgestill.runtime.session import GenerationOptions

    if before:
        session.read(before)  # all but its last token is there since the repetition before
        prompt = [*before, *prompt]
    else:
        session.reset()
    options = GenerationOptions(max_new_tokens=new_tokens, ignore_eos=ignore_eos)
    started = time.perf_counter()
    answer: Generation = session.generate(prompt, options)
    seconds = time.perf_counter() - started
    statistics = answer.statistics
    return {
        "answer_seconds": seconds,
        "prompt_tokens": statistics.prompt_tokens - statistics.reused_tokens,
        "new_tokens": statistics.new_tokens,
        "ttft_seconds": statistics.ttft_seconds,
        "prefill_seconds": statistics.prefill_seconds,
        "inter_token_seconds": [float(gap) for gap in statistics.token_seconds],
    }


class _OtherProcesses:
    """Counts the cores that other processes keep busy, from the kernel's CPU time, pauses left out."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._seconds = self._others = 0.0
        self.go_on()

    def go_on(self) -> None:
        """Count on after a pause."""
        self._started = time.perf_counter()
        self._busy, self._own = _busy_seconds(), time.process_time()

    def pause(self) -> None:
        """Leave out what comes until ``go_on``."""
        busy, own = _busy_seconds(), time.process_time()
        self._seconds += time.perf_counter() - self._started
        if busy is not None and self._busy is not None:
            self._others += (busy - self._busy) - (own - self._own)

    def cores(self) -> float | None:
        """Return the mean number of cores kept busy by others; None where the kernel doesn't count."""
        self.pause()
        self.go_on()
        return None if self._busy is None else max(0.0, self._others) / self._seconds


def _busy_seconds() -> float | None:
    """Return the CPU seconds that this machine was busy since it started (Linux: /proc/stat)."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, steal = (int(word) for word in file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def import_packages(source: ModelSource) -> None:
    """Import what the model's engine imports, so that loading is timed without it.

    What isn't installed is left to the engine, whose error says what to do.
    """
    modules = list(_PACKAGES[source.kind])
    if source.kind == "transformers":
        model_type = str(read_json_object(source.path / "config.json").get("model_type"))
        if model_type.isidentifier():
            modules.append(f"transformers.models.{model_type}.modeling_{model_type}")
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


if __name__ == "__main__":
    sys.exit(serve_request(serve))
