"""The forms in which ``bench --device`` gives its result: the whole as JSON, tables as Markdown, rows as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from edgestill.bench_formats.comma_separated import csv_text
from edgestill.bench_formats.markdown import render_markdown
from edgestill.errors import InputError
from edgestill.fleet_results import FleetDevice, FleetDocument
from edgestill.report.markdown_table import escape


def render_fleet(document: FleetDocument, name: str) -> str:
    """Return a document as the text of a format. Raises InputError for one that holds a single device only."""
    return _FORMATS[fleet_format(name)](document)


def fleet_format(name: str) -> str:
    """Return a format's name. Raises InputError for one that can't say which device a result is of."""
    if name not in _FORMATS:
        raise InputError(f"format {name!r} has no place for a device; with --device use {', '.join(sorted(_FORMATS))}")
    return name


def _json(document: FleetDocument) -> str:
    return document.to_json() + "\n"


def _csv(document: FleetDocument) -> str:
    return csv_text(document.results, document.failures)


def _markdown(document: FleetDocument) -> str:
    return "\n".join(_markdown_lines(document)) + "\n"


def _markdown_lines(document: FleetDocument) -> Iterator[str]:
    """Yield a section for each device: its table, or why it has none."""
    for number, device in enumerate(document.devices):
        if number:
            yield ""
        yield f"## {escape(device.name)} ({escape(device.driver)}): {device.state}"
        yield ""
        found = document.of_device(device.name)
        if found is not None:
            yield render_markdown(found).rstrip("\n")
        yield from (f"- {note}" for note in _notes(document, device, told=found is not None))


def _notes(document: FleetDocument, device: FleetDevice, *, told: bool) -> Iterator[str]:
    if not told:
        failures = [one for one in document.failures if one.device == device.name]
        yield from (f"**{escape(one.model)} failed**: {escape(one.error)}" for one in failures)
    yield from (f"{escape(one.artifact)} skipped: {escape(one.why)}" for one in device.skipped)
    yield from map(escape, device.notes)


_FORMATS: Final[Mapping[str, Callable[[FleetDocument], str]]] = {"json": _json, "csv": _csv, "markdown": _markdown}
