"""``edgestill report``: a run's report again from its report.json, or what a store holds of the devices over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edgestill.cli import console
from edgestill.cli.given import option_text, written
from edgestill.cli.numbers import fraction

if TYPE_CHECKING:
    from edgestill.store_results import HistoryDocument

_OF_A_STORE: Final = ("store", "device", "artifact", "since", "metric", "limit")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    context: typer.Context,
    run: Annotated[
        Path | None, typer.Argument(help="A run's folder or its report.json; without it, the devices' results.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="The store with the devices' results (default: the user's own).")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Of the store: this device only; several times.")] = None,
    artifact: Annotated[list[str] | None, typer.Option(help="Of the store: this artifact only; several times.")] = None,
    since: Annotated[str | None, typer.Option(help="Of the store: from this day or time on (2026-01-31).")] = None,
    metric: Annotated[str, typer.Option(help="Of the store: what changes are judged by.")] = "answer_seconds",
    limit: Annotated[str, typer.Option(help="Of the store: what is slower by so much is marked.")] = "5%",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to: report.html, .json and .md, or history.* of a store.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report's JSON document.")] = False,
) -> None:
    """Show a run's table, or device x artifact x time of a store; with --out write the page and its documents."""
    from edgestill.documents import read_document
    from edgestill.errors import InputError
    from edgestill.report import render_console_table, write_report
    from edgestill.results import ReportDocument

    if run is None:
        document = _history(
            store, tuple(device or ()), tuple(artifact or ()), since, metric, fraction("--limit", limit)
        )
        _show(document, out, as_json)
        return
    for name in written(context):
        if name in _OF_A_STORE:
            raise InputError(f"{option_text(name)} is for a store; leave it out, or leave {run} out")
    path = run / "report.json" if run.is_dir() else run
    found = read_document(path, ReportDocument, what="a report", cure="give the folder of a finished run")
    if out is not None:
        write_report(found, out)
    if as_json:
        console.print_json(found.to_json())
    else:
        console.print_rich(render_console_table(found))


def _history(
    store: Path | None,
    devices: tuple[str, ...],
    artifacts: tuple[str, ...],
    since: str | None,
    metric: str,
    limit: float,
) -> HistoryDocument:
    from edgestill.cli.compare_store import existing_store
    from edgestill.devices.store_comparison import history
    from edgestill.errors import InputError

    with existing_store(store) as opened:
        document = history(opened, devices=devices, artifacts=artifacts, since=since, metric=metric, limit=limit)
        if not document.series:
            from_then = "" if since is None else f" since {since}"
            raise InputError(f"{opened.path}: no results{from_then}; edgestill bench BUNDLE --device NAME adds some")
    return document


def _show(document: HistoryDocument, out: Path | None, as_json: bool) -> None:
    from edgestill.report.history_page import write_history

    if out is not None:
        page = write_history(document, out)
        console.say(f"page: {page}")
    if as_json:
        console.print_json(document.to_json())
    else:
        _print(document)


def _print(document: HistoryDocument) -> None:
    from edgestill.report import history

    section = history.latest_section(document)
    rows = [
        [
            f"{row.name}, {row.role}",
            *(f"{cell.text} {cell.detail and f'({cell.detail})'}".strip() for cell in row.cells),
        ]
        for row in section.rows
    ]
    console.print_table(["device", *section.columns], rows)
    for sentence in history.worse(document):
        console.print_line(f"worse: {sentence}")
    console.say(history.subtitle(document))
