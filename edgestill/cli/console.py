"""Where output goes: results to stdout, progress to stderr (a live bar on a terminal, else plain lines)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from edgestill.cli.interrupt import raise_if_interrupted
from edgestill.progress import Progress, Task

if TYPE_CHECKING:
    import rich.progress
    from rich.console import RenderableType

    from edgestill.figure import Figure
    from edgestill.results import ArtifactsDocument, Parity

_PLAIN_SECONDS: Final = 10.0


def print_json(text: str) -> None:
    """Print the command's one JSON document."""
    sys.stdout.write(text.rstrip("\n") + "\n")


def print_line(line: str) -> None:
    """Print a command's result of one line."""
    sys.stdout.write(line + "\n")


def say(line: str) -> None:
    """Print one line for a person, beside the results."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def print_rich(renderable: RenderableType) -> None:
    """Print a table to stdout, as wide as it needs to be when nobody's terminal limits it."""
    import rich.console

    console = rich.console.Console() if sys.stdout.isatty() else rich.console.Console(width=200)
    console.print(renderable)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table."""
    import rich.box
    import rich.table

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    print_rich(table)


def print_artifacts(document: ArtifactsDocument, as_json: bool) -> None:
    """Print what ``export`` or ``quantize`` made; a refused file makes the command fail."""
    from edgestill.errors import GateError

    if as_json:
        print_json(document.to_json())
    else:
        rows = []
        for record in document.artifacts:
            row = [record.name, record.path, size(record.size_bytes)]
            parity = record.parity
            if parity is None:
                row += ["not checked"] * 3
            else:
                row += [figure(value) for value in (parity.top1_agreement, parity.mean_kl, parity.max_abs_diff)]
            rows.append(row)
        print_table(["artifact", "path", "size", "top-1 agreement", "mean KL", "max |difference|"], rows)
        for record in document.artifacts:
            if record.parity is not None:
                print_parity(record.parity)
        for record in document.artifacts:
            for note in record.notes:
                say(f"{record.name}: {note}")
    if document.refused:
        raise GateError("; ".join(f"{file.name} refused: {', '.join(file.reasons)}" for file in document.refused))


def print_parity(parity: Parity) -> None:
    """Print every case of a parity check, and how the tokenizers compare."""
    cases = [case for case in parity.cases if case.positions]
    rows = [
        [case.name, f"{case.positions:,}", *map(figure, (case.top1_agreement, case.mean_kl, case.max_abs_diff))]
        for case in cases
    ]
    if rows:
        print_table(["parity case", "positions", "top-1 agreement", "mean KL", "max |difference|"], rows)
    tokenizer = parity.tokenizer
    if tokenizer is not None:
        announced = f", {tokenizer.announced} differ as the notes say" if tokenizer.announced else ""
        print_line(
            f"tokenizer ({tokenizer.runtime}): {tokenizer.ids_equal} of {tokenizer.texts} texts with the original's "
            f"ids, {tokenizer.round_trips} decoded to its bytes{announced}"
        )
    notes: dict[str, list[str]] = {}
    for case in parity.cases:
        if case.note:
            notes.setdefault(case.note, []).append(case.name + ("" if case.positions else " not run"))
    for note, names in notes.items():
        say(f"{', '.join(names)}: {note}")
    for note in (*parity.notes, *(tokenizer.reasons if tokenizer is not None else ())):
        say(note)


def figure(value: Figure | None) -> str:
    """Return a figure for a table's cell."""
    from edgestill.report.format import figure_text

    return "—" if value is None else figure_text(value)


def size(value: int | None) -> str:
    """Return a number of bytes for a table's cell."""
    from edgestill.report.format import quantity

    return "—" if value is None else quantity(value, "bytes")


@contextlib.contextmanager
def open_progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Yield the listener that fits stderr: a live bar on a terminal, plain lines elsewhere."""
    if quiet:
        from edgestill.progress import SILENT

        yield SILENT
    elif sys.stderr.isatty():
        import rich.console
        import rich.progress

        bars = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.fields[count]}"),
            rich.progress.TimeRemainingColumn(compact=True),
            rich.progress.TextColumn("[dim]{task.fields[shown]}"),
            console=rich.console.Console(stderr=True),
            transient=True,
        )
        with bars:
            yield _LiveProgress(bars)
    else:
        yield _PlainProgress()


class _LiveTask:
    def __init__(self, bars: rich.progress.Progress, label: str, total: float | None, unit: str) -> None:
        self._bars = bars
        self._unit = unit
        self._fields: dict[str, str] = {}
        self._started = time.monotonic()
        self.id = bars.add_task(label, total=total, count="", shown="")

    def advance(self, amount: float = 1, **fields: str) -> None:
        raise_if_interrupted()
        self._fields.update(fields)
        shown = "  ".join(f"{key} {value}" for key, value in self._fields.items())
        self._bars.update(self.id, advance=amount, shown=shown)
        task = self._bars.tasks[self._bars.task_ids.index(self.id)]
        rate = task.completed / max(time.monotonic() - self._started, 1e-9)
        total = "" if task.total is None else f"/{_number(task.total)}"
        self._bars.update(self.id, count=f"{_number(task.completed)}{total} {self._unit} ({_number(rate)}/s)")

    def set_total(self, total: float) -> None:
        self._bars.update(self.id, total=total)


class _LiveProgress:
    def __init__(self, bars: rich.progress.Progress) -> None:
        self._bars = bars

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        raise_if_interrupted()
        task = _LiveTask(self._bars, label, total, unit)
        try:
            yield task
        finally:
            self._bars.remove_task(task.id)

    def note(self, text: str) -> None:
        raise_if_interrupted()
        self._bars.console.print(text, markup=False, highlight=False)


class _PlainTask:
    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._done = 0.0
        self._started = self._printed = time.monotonic()
        self._fields: dict[str, str] = {}

    def advance(self, amount: float = 1, **fields: str) -> None:
        raise_if_interrupted()
        self._done += amount
        self._fields.update(fields)
        now = time.monotonic()
        if now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            self._print(now)

    def set_total(self, total: float) -> None:
        self._total = total

    def _print(self, now: float) -> None:
        rate = self._done / max(now - self._started, 1e-9)
        text = f"{self._label}: {_number(self._done)}"
        if self._total is not None:
            text += f"/{_number(self._total)}"
        text += f" {self._unit} ({_number(rate)}/s"
        if self._total is not None and rate > 0:
            text += f", {_number(max(self._total - self._done, 0) / rate)} s left"
        fields = "".join(f", {key} {value}" for key, value in self._fields.items())
        say(text + ")" + fields)


class _PlainProgress:
    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        raise_if_interrupted()
        yield _PlainTask(label, total, unit)

    def note(self, text: str) -> None:
        raise_if_interrupted()
        say(text)


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
