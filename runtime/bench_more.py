"""Beside the repetitions, in processes of their own: loads, several sessions at once, the bundle's own task.

A part that fails is null or left out, with the reason; what was measured before it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgestill.bench_results import Concurrent, TaskAnswers
from edgestill.bundle import open_bundle
from edgestill.errors import EdgestillError
from edgestill.figure import Figure
from edgestill.progress import Progress
from edgestill.runtime.bench_options import BenchOptions, options_json
from edgestill.runtime.golden import GoldenPrompt, read_golden
from edgestill.runtime.load_times import load_times, no_load_times
from edgestill.runtime.model_source import MANIFEST_FILE
from edgestill.runtime.worker import Event, run_in_worker

TASK_REPETITIONS: Final = 3
_CONCURRENT_WORKER: Final = "edgestill.runtime.concurrent_worker"


def measure_more(model: str, options: BenchOptions, progress: Progress) -> dict[str, object]:
    """Return the fields of a BenchRecord that ``options`` ask for beside the repetitions."""
    found: dict[str, object] = {}
    if options.loads:
        try:
            found["loads"] = load_times(
                model,
                repetitions=options.loads,
                engine=options.engine,
                threads=options.threads,
                context_length=options.context_length,
                engine_options=options.engine_options,
                timeout_seconds=options.timeout_seconds,
                progress=progress,
            )
        except EdgestillError as error:
            found["loads"] = no_load_times(str(error))
    if options.sessions:
        found["concurrent"] = tuple(_concurrent(model, count, options, progress) for count in options.sessions)
    if options.task_prompts and (prompts := own_prompts(model)[: options.task_prompts]):
        found["task_answers"] = _task_answers(model, prompts, options, progress)
    return found


def own_prompts(model: str) -> list[GoldenPrompt]:
    """Return the golden prompts of the bundle that a MODEL argument is of; none for another kind of model."""
    folder, _, name = model.rpartition("#")
    if not name or Path(model).exists() or not (Path(folder) / MANIFEST_FILE).is_file():
        return []
    return read_golden(open_bundle(Path(folder)))


def _concurrent(model: str, count: int, options: BenchOptions, progress: Progress) -> Concurrent:
    rounds: list[Event] = []
    last: list[Event] = []

    def take(event: Event) -> None:
        (rounds if event["event"] == "round" else last).append(event)
        task.advance()

    request = {
        "model": model,
        "engine": options.engine,
        "threads": options.threads,
        "context_length": options.context_length,
        "options": options_json(options.engine_options),
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
        "repetitions": options.repetitions,
        "warmup": options.warmup,
        "sessions": count,
    }
    failure = None
    with progress.task(f"{count} sessions of {model}", options.repetitions, "rounds") as task:
        try:
            run_in_worker(
                _CONCURRENT_WORKER,
                request,
                take,
                what=f"{count} sessions of {model}",
                reached=lambda: f"{len(rounds)} finished rounds",
                timeout_seconds=options.timeout_seconds,
            )
        except EdgestillError as error:
            failure = str(error)
    answers = [float(seconds) for event in rounds for seconds in event["answers"]]
    rates = [count * options.new_tokens / float(event["seconds"]) for event in rounds]
    pss = last[-1]["pss"] if last else None
    source = f"{count} sessions at once, {len(rounds)} rounds in one fresh process"
    unknown = failure or "this platform has no /proc/self/smaps_rollup"
    return Concurrent(
        sessions=count,
        answer_seconds=Figure.median(answers, "seconds", f"median of every answer; {source}"),
        tokens_per_second=Figure.median(rates, "tokens/s", f"new tokens of all sessions by a round's time; {source}"),
        pss_bytes=Figure.missing("bytes", unknown)
        if pss is None
        else Figure(value=pss, unit="bytes", n=1, source="PSS of the process at the end"),
        raw={"answer_seconds": answers, "round_seconds": [float(event["seconds"]) for event in rounds]},
        failure=failure,
    )


def _task_answers(
    model: str, prompts: Sequence[GoldenPrompt], options: BenchOptions, progress: Progress
) -> TaskAnswers:
    from edgestill.runtime.bench import bench_answers

    few = replace(options, repetitions=TASK_REPETITIONS, width=None)
    asked = [prompt.prompt_ids if isinstance(prompt.prompt, str) else prompt.prompt for prompt in prompts]
    try:
        found = bench_answers(
            model, asked, few, max_new_tokens=max(prompt.max_new_tokens for prompt in prompts), progress=progress
        )
    except EdgestillError as error:
        missing = Figure.missing
        why = str(error)
        return TaskAnswers(
            prompts=len(prompts),
            answer_seconds=missing("seconds", why),
            ttft_seconds=missing("seconds", why),
            new_tokens=missing("tokens", why),
            raw={},
        )
    return TaskAnswers(
        prompts=len(prompts),
        answer_seconds=found.answer_seconds,
        ttft_seconds=found.ttft_seconds,
        new_tokens=found.new_tokens,
        raw=found.raw,
    )
