"""``edgestill eval``: task metrics of one or more models, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgestill.cli import console

if TYPE_CHECKING:
    from edgestill.figure import Figure
    from edgestill.results import EvalRecord
    from edgestill.runtime.comparing import Compared


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate)


def evaluate(
    models: Annotated[
        list[str], typer.Argument(help="Hugging Face folders, .gguf files, ONNX folders or BUNDLE#artifact-name.")
    ],
    data: Annotated[Path | None, typer.Option(help="Rows to score (JSONL, CSV, Parquet, txt).")] = None,
    task: Annotated[
        str,
        typer.Option(
            help="text, json, classification, nli, qa, math, summarization or conversation; "
            "or the name of a task of lm-evaluation-harness."
        ),
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
    chat: Annotated[bool, typer.Option(help="Harness: apply the model's chat template.")] = False,
    few_shot: Annotated[int | None, typer.Option(min=0, help="Harness: worked examples before each question.")] = None,
    task_folder: Annotated[Path | None, typer.Option(help="Harness: a folder with task files of your own.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Write each answer to <this folder>/<n>.jsonl.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score models on a task, each in a process of its own; compare them with the first on the same rows."""
    import yaml

    from edgestill.dataset import read_examples
    from edgestill.errors import DataError, InputError
    from edgestill.results import EvalDocument
    from edgestill.runtime.comparing import Asked, compare_models
    from edgestill.runtime.harness import HarnessTask, check_harness
    from edgestill.runtime.tasks import get_task, task_names

    if task in task_names():
        if data is None:
            raise InputError(f"task {task!r} needs rows to score: --data FILE")
        if chat or few_shot is not None or task_folder is not None:
            raise InputError("--chat, --few-shot and --task-folder are for tasks of lm-evaluation-harness alone")
        options = {name: yaml.safe_load(value) for name, value in _pairs(option).items()}
        shape = get_task(task, options)
        examples = list(read_examples(data, columns=_pairs(column), shape=shape, system=system, limit=limit))
        if not examples:
            raise DataError(f"{data}: no rows in it")
        asked = Asked(task, options, examples, threads=threads, context_length=context)
    else:
        if data is not None or column or option or predictions is not None:
            raise InputError(
                f"task {task!r} isn't one of {', '.join(task_names())}; as a task of lm-evaluation-harness it "
                "takes no --data, --column, --option or --predictions"
            )
        harness = HarnessTask(task, limit, task_folder, few_shot, chat, system)
        check_harness(harness)
        asked = Asked(task, harness=harness, threads=threads, context_length=context)
    with console.open_progress() as progress:
        compared = compare_models(models, asked, predictions=predictions, progress=progress)
    if as_json:
        document = EvalDocument(task=task, primary_metric=compared.primary_metric, results=compared.records)
        console.print_json(document.to_json())
    else:
        _print(compared)


def _print(compared: Compared) -> None:
    """Print quality (the primary metric with its interval), latency, memory and size; and what is kept."""
    primary = compared.primary_metric
    names = list(dict.fromkeys(name for record in compared.records for name in record.metrics if name != primary))
    several = len(compared.records) > 1
    head = ["model", primary, *names, *([f"{primary} kept", "above the first"] if several else []), "peak RSS", "size"]
    rows = []
    shown_names = _short([record.model for record in compared.records])
    for number, record in enumerate(compared.records):
        beside = [] if not several else ["", ""] if number == 0 else [_ranged(record.retention), _more(record)]
        figures = [console.figure(record.metrics.get(name)) for name in names]
        shown = [_ranged(record.metrics.get(primary)), *figures, *beside]
        rows.append(
            [shown_names[number], *shown, console.figure(record.peak_rss_bytes), console.size(record.size_bytes)]
        )
    console.print_table(head, rows)


def _short(models: list[str]) -> list[str]:
    """Return the models without the folders that all of them lie in."""
    parts = [model.rstrip("/").split("/") for model in models]
    common = 0
    while all(len(one) > common + 1 and one[common] == parts[0][common] for one in parts) and len(models) > 1:
        common += 1
    if not parts[0][0] and common == 1:
        common = 0  # they share the root alone
    return ["/".join(one[common:]) for one in parts]


def _more(record: EvalRecord) -> str:
    """Return a difference of fractions in points: 3% above 50% could be 51.5%."""
    found = record.difference
    if found is None or found.value is None or found.unit != "fraction":
        return _ranged(found)
    low, high = found.ci95 or (found.value, found.value)
    return f"{100 * found.value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _ranged(figure: Figure | None) -> str:
    from edgestill.report.format import interval_text

    if figure is None:
        return console.figure(None)
    interval = interval_text(figure)
    return f"{console.figure(figure)} ({interval})" if interval else console.figure(figure)


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
