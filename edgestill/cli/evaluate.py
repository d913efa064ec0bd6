"""``edgestill eval``: task metrics of one or more models on a data file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate)


def evaluate(
    models: Annotated[
        list[str], typer.Argument(help="Hugging Face folders, .gguf files, ONNX folders or BUNDLE#artifact-name.")
    ],
    data: Annotated[Path, typer.Option(help="Rows to score (JSONL, CSV, Parquet, txt).")],
    task: Annotated[
        str, typer.Option(help="text, json, classification, nli, qa, math, summarization or conversation.")
    ] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="Score the first rows only.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the engine.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Room for so many tokens (default: 4096).")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS, such as prompt=question; for each column of another name.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of the task, such as chain_of_thought=false.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message before each prompt.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Write each answer to <this folder>/<n>.jsonl.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score models on a task, through the same runtime that apps embed."""
    import yaml

    from edgestill.dataset import read_examples
    from edgestill.errors import DataError
    from edgestill.results import EvalDocument
    from edgestill.runtime.evaluate import evaluate as score
    from edgestill.runtime.evaluate import write_predictions
    from edgestill.runtime.session import Session
    from edgestill.runtime.tasks import get_task

    chosen = get_task(task, {name: yaml.safe_load(value) for name, value in _pairs(option).items()})
    examples = list(read_examples(data, columns=_pairs(column), shape=chosen, system=system, limit=limit))
    if not examples:
        raise DataError(f"{data}: no rows in it")
    records = []
    with console.open_progress() as progress:
        for number, model in enumerate(models, 1):
            with Session.open(model, threads=threads, context_length=context) as session:
                result = score(session, chosen, examples, model_name=model, progress=progress)
            records.append(result.record)
            if predictions is not None:
                write_predictions(predictions / f"{number}.jsonl", result.predictions)
    document = EvalDocument(task=task, results=tuple(records))
    if as_json:
        console.print_json(document.to_json())
    else:
        names = list(dict.fromkeys(name for record in records for name in record.metrics))
        rows = [[record.model, *(console.figure(record.metrics.get(name)) for name in names)] for record in records]
        console.print_table(["model", *names], rows)


def _pairs(words: list[str] | None) -> dict[str, str]:
    """Read NAME=VALUE words."""
    from edgestill.errors import InputError

    pairs = {}
    for word in words or ():
        name, found, value = word.partition("=")
        if not found or not name:
            raise InputError(f"{word!r}: NAME=VALUE is expected")
        pairs[name] = value
    return pairs
