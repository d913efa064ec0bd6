"""``edgestill bench``: load time, latency, rates and memory of a model, in a fresh process."""

from __future__ import annotations

from typing import Annotated

import typer

from edgestill.cli import console


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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure models one after the other, each in its own process."""
    from pathlib import Path

    from edgestill.bundle import MANIFEST_FILE, open_bundle
    from edgestill.results import BenchDocument
    from edgestill.runtime.bench import BenchOptions, bench_model
    from edgestill.runtime.engines import engine_name
    from edgestill.runtime.environment import describe_environment

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
    )
    with console.open_progress() as progress:
        records = tuple(bench_model(name, options, progress=progress) for name in names)
    document = BenchDocument(environment=describe_environment(), results=records)
    if as_json:
        console.print_json(document.to_json())
        return
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
        for warning in record.warnings:
            console.say(f"{record.model}: {warning}")
