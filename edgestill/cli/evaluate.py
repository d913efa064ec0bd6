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
    task: Annotated[str, typer.Option(help="json, classification or text.")] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="Score the first rows only.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the engine.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Room for so many tokens (default: 4096).")] = None,
    prompt_column: Annotated[str, typer.Option(help="Column of the prompt (CSV, Parquet).")] = "prompt",
    completion_column: Annotated[str, typer.Option(help="Column of the gold answer.")] = "completion",
    system: Annotated[str | None, typer.Option(help="System message before each prompt.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Write each answer to <this folder>/<n>.jsonl.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score models on a task, through the same runtime that apps embed."""
    from edgestill.dataset import read_examples
    from edgestill.errors import DataError
    from edgestill.results import EvalDocument
    from edgestill.runtime.evaluate import evaluate as score
    from edgestill.runtime.evaluate import write_predictions
    from edgestill.runtime.session import Session
    from edgestill.runtime.tasks import get_task

    chosen = get_task(task)
    examples = list(
        read_examples(
            data, prompt_column=prompt_column, completion_column=completion_column, system=system, limit=limit
        )
    )
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
