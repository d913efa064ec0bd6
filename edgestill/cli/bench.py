"""``edgestill bench``: load time, latency, rates and memory of a model, in a fresh process."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgestill.cli import console, fleet, memory
from edgestill.cli.interrupt import forget_interrupt
from edgestill.cli.numbers import counts, fraction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgestill.bench_results import BenchDocument, BenchRecord


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    context: typer.Context,
    models: Annotated[
        list[str], typer.Argument(help="A model, BUNDLE#artifact-name, or a bundle (all its artifacts).")
    ],
    device: Annotated[
        list[str] | None,
        typer.Option(help="Measure a bundle on a device, at the same time on each of several; not here."),
    ] = None,
    prompt_tokens: Annotated[str, typer.Option(help="Tokens of the prompt; several: 128,512.")] = "128",
    new_tokens: Annotated[str, typer.Option(help="Tokens to generate; several: 16,64.")] = "64",
    depth: Annotated[str, typer.Option(help="Tokens in the context before the prompt; several: 0,1024.")] = "0",
    threads: Annotated[
        str | None, typer.Option(help="Threads (default: the cores this process may use); several: 1,2.")
    ] = None,
    repetitions: Annotated[int, typer.Option(min=3, help="Counted repetitions, at least.")] = 10,
    width: Annotated[
        str, typer.Option(help="Repeat until the median answer is known to this on either side; 0: don't.")
    ] = "5%",
    max_seconds: Annotated[float, typer.Option(min=1, help="Longest time for the repetitions of one model.")] = 30.0,
    loads: Annotated[int, typer.Option(min=0, help="Loads timed, cold and warm, a process each.")] = 3,
    sessions: Annotated[
        str | None, typer.Option(help="Sessions that answer at the same time, measured too; several: 2,4.")
    ] = None,
    task_prompts: Annotated[int, typer.Option(min=0, help="Golden prompts of a bundle that are answered whole.")] = 5,
    engine: Annotated[str | None, typer.Option(help="torch, onnxruntime or llama.cpp (default: by file).")] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="table, json, markdown, csv, llama-bench or pyperf: of what is printed; with --out, of the file.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the result into this file too, after each model; .json, .md or .csv, or --format."),
    ] = None,
    gate_seconds: Annotated[
        float, typer.Option(min=0, help="Longest wait for the device to cool before a repetition; 0: none.")
    ] = 20.0,
    mmap: Annotated[
        bool, typer.Option("--mmap/--no-mmap", help="Weights mapped from the file, or read into memory (llama.cpp).")
    ] = True,
    kv_precision: Annotated[
        str | None, typer.Option(help="KV cache in f32, f16, q8_0 or q4_0 (llama.cpp; default: by file).")
    ] = None,
    flash_attention: Annotated[
        bool | None,
        typer.Option(
            "--flash-attention/--no-flash-attention",
            help="Attention without a matrix of all scores (llama.cpp; default: by processor and context).",
        ),
    ] = None,
    huge_pages: Annotated[
        bool, typer.Option("--huge-pages/--no-huge-pages", help="Loaded weights in huge pages (onnxruntime).")
    ] = True,
    arena: Annotated[
        bool, typer.Option("--arena/--no-arena", help="The engine's arena for its buffers (onnxruntime).")
    ] = True,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Print what the peak PSS consists of, line by line.")
    ] = False,
    runner: Annotated[
        Path | None,
        typer.Option(help="edgestill-run, or its folder; with several devices for those whose table names none."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of each on a device: 8, for differences between builds to show.")
    ] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a job on a device may take.")] = 1800.0,
    fit_check: Annotated[
        bool, typer.Option("--fit-check/--no-fit-check", help="Send a device only what fits into its memory.")
    ] = True,
    store: Annotated[
        Path | None, typer.Option(help="Keep the devices' results in this store (default: the user's own).")
    ] = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Keep the devices' results in no store.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Measure on the devices only what isn't in --out yet.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure models one after the other, each in its own process; with --device a bundle on devices, all at once.

    A model or device that fails doesn't stop the others: what had finished is kept, and the exit status is 1.
    """
    from edgestill.bench_formats import render, write_document
    from edgestill.bundle import MANIFEST_FILE, open_bundle
    from edgestill.errors import StageError
    from edgestill.runtime.bench_models import bench_models
    from edgestill.runtime.bench_options import BenchOptions
    from edgestill.runtime.engine_options import EngineOptions, kv_precision_named
    from edgestill.runtime.engines import engine_name
    from edgestill.runtime.model_source import locate_model

    printed, written = _formats(form, out, as_json)
    if device:
        fleet.refuse_local_options(context)
        fleet.bench_on_devices(
            fleet.FleetAsked(
                models=models,
                devices=device,
                prompt_tokens=prompt_tokens,
                new_tokens=new_tokens,
                threads=threads,
                repetitions=repetitions,
                processes=processes,
                mmap=mmap,
                kv_precision=kv_precision,
                runner=runner,
                timeout=timeout,
                fit_check=fit_check,
                store=store,
                no_store=no_store,
                resume=resume,
                printed=printed,
                out=out,
                written=written,
            )
        )
        return
    fleet.refuse_device_options(context)
    names: list[str] = []
    for model in models:
        if "#" not in model and (Path(model) / MANIFEST_FILE).is_file():
            names.extend(f"{model}#{artifact.name}" for artifact in open_bundle(Path(model)).manifest.artifacts)
        else:
            names.append(model)
    grid = itertools.product(
        counts("--threads", threads, 1) if threads is not None else [None],
        counts("--depth", depth, 0),
        counts("--prompt-tokens", prompt_tokens, 1),
        counts("--new-tokens", new_tokens, 2),
    )
    engine_options = EngineOptions(
        mmap=mmap,
        kv_precision=kv_precision_named(kv_precision),
        flash_attention=flash_attention,
        huge_pages=huge_pages,
        arena=arena,
    )
    half_width = None if width == "0" else fraction("--width", width)
    variants = [
        BenchOptions(
            prompt_tokens=of_prompt,
            new_tokens=of_answer,
            depth=of_context,
            repetitions=repetitions,
            width=half_width,
            max_seconds=max_seconds,
            loads=loads if number == 0 else 0,  # how long a model loads doesn't hang on the prompt
            sessions=tuple(counts("--sessions", sessions, 1)) if sessions is not None else (),
            task_prompts=task_prompts if number == 0 else 0,
            phases=True,
            threads=count,
            engine=None if engine is None else engine_name(engine),
            roofline=True,
            gate_seconds=gate_seconds,
            engine_options=engine_options,
            ledger=True,
        )
        for number, (count, of_context, of_prompt, of_answer) in enumerate(grid)
    ]
    for name in names:
        locate_model(name)  # a misspelt one is found before the first runs
    cases = [(name, options) for name in names for options in variants]
    document: BenchDocument | None = None
    unwritten: StageError | None = None
    interrupted = False

    def keep(so_far: BenchDocument) -> None:
        nonlocal document, unwritten
        document, unwritten = so_far, None
        if out is not None:
            try:
                write_document(so_far, out, written)
            except StageError as error:  # the next model is measured all the same: the result is printed too
                unwritten = error

    with console.open_progress() as progress:
        try:
            bench_models(cases, finished=keep, progress=progress)
        except KeyboardInterrupt:
            forget_interrupt()
            interrupted = True
    if document is not None:
        if printed == "table":
            _print(document, ledger)
        else:
            console.print_json(render(document, printed))
    failed = [] if document is None else _failures(document)
    if unwritten is not None:
        failed.append(str(unwritten))
    if interrupted:
        console.say("; ".join(["stopped; what had finished is in the result", *failed]))
        raise typer.Exit(130)
    if failed:
        raise StageError("; ".join(failed))


def _formats(form: str | None, out: Path | None, as_json: bool) -> tuple[str, str]:
    """Return the format that is printed and the one that is written. Raises InputError."""
    from edgestill.bench_formats import format_names, format_of
    from edgestill.errors import InputError

    if form not in (None, *(known := ("table", *format_names()))):
        raise InputError(f"--format {form!r} is unknown; choose one of {', '.join(known)}")
    if out is None:
        if as_json and form not in (None, "json"):
            raise InputError(f"--json and --format {form}: give one of them, or --out FILE for the other")
        return "json" if as_json else form or "table", ""
    if out.is_dir():
        raise InputError(f"--out {out}: this is a folder; give a file's name")
    return "json" if as_json else "table", format_of(out) if form is None or form == "table" else form


def _failures(document: BenchDocument) -> list[str]:
    told = [(record.model, record.failure) for record in document.results if record.failure]
    told += [(failure.model, failure.error) for failure in document.failures]
    return [why if model in why else f"{model}: {why}" for model, why in told]


def _print(document: BenchDocument, ledger: bool) -> None:
    head = ["model", "engine", "size", "load", "TTFT", "prefill", "decode", "token p50", "token p90", "peak PSS"]
    rows = [
        [
            record.model,
            f"{record.engine}, {record.threads} threads",
            console.size(record.size_bytes),
            *map(console.figure, record.main_figures.values()),
        ]
        for record in document.results
    ]
    rows += [[failure.model, "failed", *["—"] * (len(head) - 2)] for failure in document.failures]
    console.print_table(head, rows)
    for why in _failures(document):
        console.print_line(f"failed: {why}")
    for record in document.results:
        if record.ledger is not None:
            (memory.print_ledger if ledger else memory.say_ledger)(record.model, record.ledger)
        if (limit := record.roofline) is not None:
            share = limit.share_of_ceiling
            reached = f"{share.value:.0%} of what memory allows" if share.value is not None else share.source
            read = console.figure(limit.bytes_per_token)
            console.say(f"{record.model}: {read} read for each token decoded; {reached}")
            if (prompt := limit.prompt) is not None and (share := prompt.share_of_float32_rate).value is not None:
                millions = (prompt.operations_per_token.value or 0.0) / 1e6
                console.say(
                    f"{record.model}: {millions:,.3g} million operations for each token of a prompt, "
                    f"{share.value:.0%} of this device's float32 rate"
                )
        for line in _parts(record):
            console.say(f"{record.model}: {line}")
        if (energy := record.energy_per_token) is not None and energy.value is not None:
            console.say(f"{record.model}: {console.figure(energy)} ({energy.source})")
        for warning in record.warnings:
            console.say(f"{record.model}: {warning}")


def _parts(record: BenchRecord) -> Iterator[str]:
    """Yield lines on loads and phases."""
    if (loads := record.loads) is not None:
        cold = console.figure(loads.cold_seconds), console.figure(loads.cold_first_token_seconds)
        warm = console.figure(loads.warm_seconds), console.figure(loads.warm_first_token_seconds)
        if loads.cold_seconds.value is None:
            yield f"cold load not measured: {loads.cold_seconds.source}"
        else:
            yield f"cold load {cold[0]}, first token {cold[1]}; warm {warm[0]} and {warm[1]}"
    if (phases := record.phases) is not None:
        each = (phases.engine_decode, phases.greedy, phases.detokenisation)
        engine, greedy, text = (console.figure(part) for part in each)
        yield (
            f"a token: {engine} in the engine, {greedy} to choose it, {text} to write it; "
            f"tokenising the prompt {console.figure(phases.tokenisation)}"
        )
    for one in record.concurrent:
        rate, answer = console.figure(one.tokens_per_second), console.figure(one.answer_seconds)
        yield one.failure or f"{one.sessions} sessions at once: {rate} together, an answer in {answer}"
    if (task := record.task_answers) is not None:
        answer, first = console.figure(task.answer_seconds), console.figure(task.ttft_seconds)
        yield f"{task.prompts} of the bundle's own prompts: an answer in {answer}, first token in {first}"
