"""``edgestill bench``: load time, latency, rates and memory of a model, in a fresh process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from edgestill.cli import console, memory

if TYPE_CHECKING:
    from edgestill.bench_results import BenchRecord


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    models: Annotated[
        list[str], typer.Argument(help="A model, BUNDLE#artifact-name, or a bundle (all its artifacts).")
    ],
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 64,
    repetitions: Annotated[int, typer.Option(min=3, help="Counted repetitions.")] = 10,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads (default: the cores this process may use).")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="torch, onnxruntime or llama.cpp (default: by file).")] = None,
    mmap: Annotated[
        bool, typer.Option("--mmap/--no-mmap", help="Weights mapped from the file, or read into memory (llama.cpp).")
    ] = True,
    kv_precision: Annotated[
        str | None, typer.Option(help="KV cache in f32, f16, q8_0 or q4_0 (llama.cpp; default: by file).")
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure models one after the other, each in its own process.

    A model that fails doesn't stop the others: what it had finished is kept, and the exit status is 1.
    """
    from pathlib import Path

    from edgestill.bench_results import BenchDocument, BenchFailure
    from edgestill.bundle import MANIFEST_FILE, open_bundle
    from edgestill.errors import EdgestillError, StageError
    from edgestill.runtime.bench import BenchOptions, bench_model
    from edgestill.runtime.engine_options import EngineOptions, kv_precision_named
    from edgestill.runtime.engines import engine_name
    from edgestill.runtime.environment import describe_environment
    from edgestill.runtime.model_source import locate_model

    names: list[str] = []
    for model in models:
        if "#" not in model and (Path(model) / MANIFEST_FILE).is_file():
            names.extend(f"{model}#{artifact.name}" for artifact in open_bundle(Path(model)).manifest.artifacts)
        else:
            names.append(model)
    options = BenchOptions(
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repetitions=repetitions,
        threads=threads,
        engine=None if engine is None else engine_name(engine),
        roofline=True,
        engine_options=EngineOptions(
            mmap=mmap, kv_precision=kv_precision_named(kv_precision), huge_pages=huge_pages, arena=arena
        ),
        ledger=True,
    )
    for name in names:
        locate_model(name)  # a misspelt one is found before the first runs
    environment = describe_environment()
    records: list[BenchRecord] = []
    failures: list[BenchFailure] = []
    with console.open_progress() as progress:
        for name in names:
            try:
                records.append(bench_model(name, options, keep_finished=True, progress=progress))
            except EdgestillError as error:
                if len(names) == 1:
                    raise
                failures.append(BenchFailure(model=name, error=str(error)))
    document = BenchDocument(environment=environment, results=tuple(records), failures=tuple(failures))
    if as_json:
        console.print_json(document.to_json())
    else:
        _print(records, ledger)
    failed = [f"{record.model}: {record.failure}" for record in records if record.failure]
    failed += [f"{failure.model}: {failure.error}" for failure in failures]
    if failed:
        raise StageError("; ".join(failed))


def _print(records: Sequence[BenchRecord], ledger: bool) -> None:
    head = ["model", "engine", "size", "load", "TTFT", "prefill", "decode", "token p50", "token p90", "peak PSS"]
    rows = [
        [
            record.model,
            f"{record.engine}, {record.threads} threads",
            console.size(record.size_bytes),
            *(
                console.figure(value)
                for value in (
                    record.load_seconds,
                    record.ttft_seconds,
                    record.prefill_tokens_per_second,
                    record.decode_tokens_per_second,
                    record.inter_token_seconds.p50,
                    record.inter_token_seconds.p90,
                    record.peak_pss_bytes,
                )
            ),
        ]
        for record in records
    ]
    console.print_table(head, rows)
    for record in records:
        if record.ledger is not None:
            (memory.print_ledger if ledger else memory.say_ledger)(record.model, record.ledger)
        if (limit := record.roofline) is not None:
            share = limit.share_of_ceiling
            reached = f"{share.value:.0%} of what memory allows" if share.value is not None else share.source
            read = console.figure(limit.bytes_per_token)
            console.say(f"{record.model}: {read} read for each token decoded; {reached}")
        for warning in record.warnings:
            console.say(f"{record.model}: {warning}")
