"""Bench a model in a fresh process: load, warm up, repeat; medians with intervals, every sample kept."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgestill.bench_results import BenchRecord, EngineBuild, Latency, MemoryLedger, Roofline
from edgestill.dataset import Message
from edgestill.errors import InputError
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress
from edgestill.runtime.bench_more import measure_more
from edgestill.runtime.bench_options import DEFAULT_OPTIONS, BenchOptions, options_json
from edgestill.runtime.bench_process import WorkerRun, turns_of_bench
from edgestill.runtime.engine_options import KV_BYTES
from edgestill.runtime.heat_record import heat_record
from edgestill.runtime.intervals import mean_figure, outliers, quantile_figure, quantile_ranks, tail_figure
from edgestill.runtime.ledger import memory_ledger
from edgestill.runtime.model_source import ModelSource, locate_model
from edgestill.runtime.moments import moments_of
from edgestill.runtime.phases import phases_record
from edgestill.runtime.roofline import prompt_ceiling, roofline
from edgestill.turns import finish

WIDE_SPREAD: Final = 0.10
"""Above this interquartile range over median, a record warns that its times are unsteady."""

BUSY_CORES: Final = 0.25
"""Above this many cores kept busy by other processes, a record warns."""

_MEANS: Final = {
    "ttft_seconds": "seconds",
    "prefill_tokens_per_second": "tokens/s",
    "decode_tokens_per_second": "tokens/s",
    "answer_seconds": "seconds",
}

Prompt = Sequence[int] | Sequence[Message]


@dataclass(frozen=True)
class AnswerBench:
    """Whole answers to given prompts: ``answer_seconds`` and ``new_tokens`` per answer, ``raw`` samples in order."""

    model: str
    engine: str
    threads: int
    answer_seconds: Figure
    ttft_seconds: Figure
    new_tokens: Figure
    warnings: tuple[str, ...]
    raw: dict[str, list[float]]


class BenchInterrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a model: ``record`` is of the repetitions that had finished."""

    def __init__(self, record: BenchRecord) -> None:
        super().__init__()
        self.record = record


def bench_model(
    model: str | Path,
    options: BenchOptions = DEFAULT_OPTIONS,
    *,
    keep_finished: bool = False,
    progress: Progress = SILENT,
) -> BenchRecord:
    """Measure one model on a prompt of ``prompt_tokens`` ids and ``new_tokens`` greedy tokens, eos ignored.

    Raises StageError when the worker dies (the signal and the number of finished repetitions are named)
    or runs past ``timeout_seconds``, and the worker's own error when the model can't be opened. With
    ``keep_finished``, repetitions that had finished become the record, and its ``failure`` says how it ended; after
    Ctrl-C the record comes inside of :class:`BenchInterrupted`.
    """
    return finish(bench_turns(model, options, in_turn=False, keep_finished=keep_finished, progress=progress))


def bench_turns(
    model: str | Path,
    options: BenchOptions,
    *,
    in_turn: bool = True,
    keep_finished: bool = False,
    progress: Progress = SILENT,
) -> Generator[None, None, BenchRecord]:
    """Do as :func:`bench_model`, a turn at a time: after loading and after each repetition the process waits.

    Its time limit goes on meanwhile.
    """
    source = locate_model(model)
    size = source.size_bytes
    run = yield from _measure(model, options, None, options.new_tokens, progress, keep_finished, in_turn)
    repetitions = len(run.times)
    gaps = [gap for times in run.times for gap in times["inter_token_seconds"]]
    prefill = [times["prompt_tokens"] / times["prefill_seconds"] for times in run.times]
    decode = [len(times["inter_token_seconds"]) / sum(times["inter_token_seconds"]) for times in run.times]
    per_repetition = f"median of {repetitions} repetitions in one fresh process after {len(run.warm)} warm-ups"
    heat = heat_record(run.times, run.met)
    pooled = f"gaps between tokens pooled over {repetitions} repetitions; the interval takes them as independent"
    raw = {
        "load_seconds": [float(run.loaded["load_seconds"])],
        "import_seconds": [float(run.loaded["import_seconds"])],
        "ttft_seconds": run.column("ttft_seconds"),
        "prefill_seconds": run.column("prefill_seconds"),
        "answer_seconds": run.column("answer_seconds"),
        "inter_token_seconds": gaps,
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
        "pss_bytes": [value for value in run.pss if value is not None],
        **_optional("pss_before_load_bytes", run.loaded["pss_before"]),
        **_optional("peak_rss_bytes", None if run.finished is None else run.finished["peak_rss"]),
        **({"warmup_answer_seconds": [float(times["answer_seconds"]) for times in run.warm]} if run.warm else {}),
        **heat.raw,
    }
    rate = Figure.median(decode, "tokens/s", f"{per_repetition}; after the first token")
    prefill_rate = Figure.median(prefill, "tokens/s", per_repetition)
    threads = int(run.loaded["threads"])
    ledger = _ledger(run)
    record = BenchRecord(
        model=str(model),
        engine=str(run.loaded["engine"]),
        threads=threads,
        prompt_tokens=run.prompt_tokens,
        depth=options.depth,
        new_tokens=options.new_tokens,
        repetitions=repetitions,
        load_seconds=_load_figure(run),
        ttft_seconds=Figure.median(raw["ttft_seconds"], "seconds", f"{per_repetition}; from token ids"),
        prefill_tokens_per_second=prefill_rate,
        decode_tokens_per_second=rate,
        inter_token_seconds=Latency(
            p50=quantile_figure(gaps, 0.5, "seconds", pooled),
            p90=tail_figure(gaps, 0.9, "seconds", pooled),
            p99=tail_figure(gaps, 0.99, "seconds", pooled),
        ),
        answer_seconds=Figure.median(raw["answer_seconds"], "seconds", per_repetition),
        peak_pss_bytes=_peak_pss(run, ledger),
        peak_rss_bytes=_peak_rss(run),
        weights_bytes=_weights(run, size),
        size_bytes=size,
        warnings=(*_warnings(run, options, gaps), *heat.warnings),
        raw=raw,
        energy_per_token=heat.energy_per_token,
        throttling=heat.throttling,
        gate=heat.gate,
        means={
            name: mean_figure(raw[name], unit, f"mean of {per_repetition.removeprefix('median of ')}")
            for name, unit in _MEANS.items()
        },
        outliers={name: places for name in _MEANS if (places := outliers(raw[name]))},
        # Not after a failure: what took the worker's memory is perhaps still there.
        roofline=_roofline(source, run, options, prefill_rate, rate)
        if options.roofline and run.failure is None
        else None,
        failure=run.failure,
        settings=dict(run.loaded.get("settings", {})),
        ledger=ledger,
        prompt_sha256=run.prompt_sha256,
        # After the run: reading the files before it would have the load find them cached.
        model_sha256=None if run.interrupted else source.sha256(),
        phases=phases_record(run.phases, gaps) if run.phases else None,
        engine_build=EngineBuild.model_validate(said) if (said := run.loaded.get("engine_build")) else None,
    )
    if run.interrupted:
        raise BenchInterrupted(record)
    if run.failure is not None:
        return record
    try:
        return record.model_copy(update=measure_more(str(model), options, progress))
    except KeyboardInterrupt:
        raise BenchInterrupted(record) from None


def bench_answers(
    model: str | Path,
    prompts: Sequence[Prompt],
    options: BenchOptions = DEFAULT_OPTIONS,
    *,
    max_new_tokens: int,
    progress: Progress = SILENT,
) -> AnswerBench:
    """Measure whole greedy answers to a task's own prompts (messages or token ids), each up to its eos.

    Every prompt is answered ``repetitions`` times from an empty KV cache; tokenising and detokenising
    count. Raises as :func:`bench_model` does, and InputError when there are no prompts.
    """
    if not prompts:
        raise InputError("no prompts to answer; give at least one")
    run = finish(_measure(model, options, prompts, max_new_tokens, progress))
    source = (
        f"{len(prompts)} prompts, {options.repetitions} times each, "
        f"in one fresh process after {options.warmup} warm-ups"
    )
    raw = {name: run.column(name) for name in ("answer_seconds", "ttft_seconds", "prompt_tokens", "new_tokens")}
    return AnswerBench(
        model=str(model),
        engine=str(run.loaded["engine"]),
        threads=int(run.loaded["threads"]),
        answer_seconds=Figure.median(raw["answer_seconds"], "seconds", f"median of {source}"),
        ttft_seconds=Figure.median(raw["ttft_seconds"], "seconds", f"median of {source}"),
        new_tokens=Figure.median(raw["new_tokens"], "tokens", f"median of {source}"),
        warnings=tuple(_machine_warnings(run)),
        raw=raw,
    )


def _measure(
    model: str | Path,
    options: BenchOptions,
    prompts: Sequence[Prompt] | None,
    new_tokens: int,
    progress: Progress,
    keep_finished: bool = False,
    in_turn: bool = False,
) -> Generator[None, None, WorkerRun]:
    request: dict[str, object] = {
        "model": str(model),
        "engine": options.engine,
        "threads": options.threads,
        "context_length": options.context_length,
        "options": options_json(options.engine_options),
        "ledger": options.ledger,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": new_tokens,
        "depth": options.depth if prompts is None else 0,
        "repetitions": options.repetitions,
        "warmup": options.warmup,
        "width": options.width,
        "max_seconds": options.max_seconds,
        "phases": options.phases and prompts is None,
        "gate_seconds": options.gate_seconds,
        "in_turn": in_turn,
        "prompts": None if prompts is None else [_prompt_json(prompt) for prompt in prompts],
    }
    rounds = options.warmup + options.repetitions * (1 if prompts is None else len(prompts))
    return turns_of_bench(
        request,
        rounds=rounds,
        timeout_seconds=options.timeout_seconds,
        keep_finished=keep_finished,
        progress=progress,
        worker=options.worker,
    )


def _prompt_json(prompt: Prompt) -> list[object]:
    return [{"role": part.role, "content": part.content} if isinstance(part, Message) else int(part) for part in prompt]


def _load_figure(run: WorkerRun) -> Figure:
    return Figure(
        value=float(run.loaded["load_seconds"]),
        unit="seconds",
        n=1,
        source="Session.open in a fresh process, Python imports left out, files cached by the system or not as found",
    )


def _peak_pss(run: WorkerRun, ledger: MemoryLedger | None) -> Figure:
    samples = [value for value in run.pss if value is not None]
    if not samples:
        return Figure.missing("bytes", "this platform has no /proc/self/smaps_rollup")
    source = "largest PSS of the process, read after load, warm-ups, repetitions (0.25 s apart) and at the end"
    seen = Figure(value=max(samples), unit="bytes", n=len(samples), source=source)
    # What a load needed for a moment lies between the samples; the ledger finds it by the kernel's high-water mark.
    if ledger is not None and (ledger.peak_pss_bytes.value or 0) > max(samples):
        return ledger.peak_pss_bytes
    return seen


def _ledger(run: WorkerRun) -> MemoryLedger | None:
    memory = None if run.finished is None else run.finished.get("memory")
    return None if memory is None else memory_ledger(*moments_of(memory), str(run.loaded["engine"]))


def _roofline(
    source: ModelSource, run: WorkerRun, options: BenchOptions, prefill: Figure, decode: Figure
) -> Roofline | None:
    threads = int(run.loaded["threads"])
    found = roofline(
        source,
        decode,
        threads=threads,
        # The mean over the answer: the cache grows by one a token.
        positions=options.depth + run.prompt_tokens + options.new_tokens / 2,
        kv_bytes=KV_BYTES.get(str(run.loaded.get("kv_precision")), KV_BYTES["f16"]),
    )
    if found is None:
        return None
    prompt = prompt_ceiling(source, prefill, threads=threads, tokens=run.prompt_tokens, depth=options.depth)
    return found.model_copy(update={"prompt": prompt})


def _peak_rss(run: WorkerRun) -> Figure:
    if run.finished is None:
        return Figure.missing("bytes", "the process ended before it could be asked")
    peak = run.finished["peak_rss"]
    if peak is None:
        return Figure.missing("bytes", "this platform counts no peak resident set size")
    return Figure(value=peak, unit="bytes", n=1, source="the kernel's high-water mark (VmHWM or ru_maxrss)")


def _weights(run: WorkerRun, size: int) -> Figure:
    counted = run.loaded["weights_bytes"]
    if counted is None:
        return Figure(value=size, unit="bytes", n=1, basis="derived", source="size of the model's files")
    return Figure(value=counted, unit="bytes", n=1, source="bytes of weights as the engine reports them")


def _warnings(run: WorkerRun, options: BenchOptions, gaps: Sequence[float]) -> Iterator[str]:
    if run.prompt_tokens < options.prompt_tokens:
        yield (
            f"prompt shortened from {options.prompt_tokens} to {run.prompt_tokens} tokens: "
            f"the context holds {run.loaded['context_length']}"
        )
    for name in ("ttft_seconds", "answer_seconds"):
        first, middle, third = np.quantile(run.column(name), (0.25, 0.5, 0.75))
        if (spread := float((third - first) / middle)) > WIDE_SPREAD:
            yield f"{name} is unsteady: interquartile range is {spread:.0%} of the median of {len(run.times)}"
    if len(run.times) < 6:
        yield f"{len(run.times)} repetitions are too few for 95% intervals of the medians; at least 6 are needed"
    if quantile_ranks(len(gaps), 0.9) is None:
        yield f"{len(gaps)} gaps between tokens are too few for p90; at least 36 are needed"
    if far := outliers(run.column("answer_seconds")):
        yield f"{len(far)} of {len(run.times)} repetitions lie far from the others; they count all the same"
    yield from _machine_warnings(run)


def _machine_warnings(run: WorkerRun) -> Iterator[str]:
    others = None if run.finished is None else run.finished["other_cores"]
    if others is not None and others > BUSY_CORES:
        yield f"other processes kept {others:.1f} cores busy while this was measured"


def _optional(name: str, value: float | None) -> dict[str, list[float]]:
    return {} if value is None else {name: [value]}
