"""A fleet's progress on stderr: a line for each device, live on a terminal; elsewhere a line when something ends."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from edgestill.cli import console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgestill.bench_results import BenchFailure, BenchRecord
    from edgestill.devices.fleet import Status

_WORDS: Final = {"reach": "reaching it", "wait": "waiting", "done": "done"}
_STYLES: Final = {"done": "green", "failed": "red", "cancelled": "yellow", "wait": "dim"}
_PLAIN_SECONDS: Final = 10.0
_NAME, _STAGE, _BAR, _CLOCK = 24, 28, 12, 6
"""Widths of a line's columns, of the name at most."""


class FleetView(Protocol):
    """What hears of a fleet; its calls come from another thread than the one that opened it."""

    def status(self, device: str, status: Status) -> None: ...

    def told(self, new: BenchRecord | BenchFailure) -> None: ...

    def stopping(self) -> None: ...


@contextlib.contextmanager
def open_fleet_view(devices: Sequence[str]) -> Iterator[FleetView]:
    """Yield the view that fits stderr."""
    if not sys.stderr.isatty():
        yield _PlainView()
        return
    import rich.console
    import rich.live

    console = rich.console.Console(stderr=True)
    view = _LiveView(devices, console)
    with rich.live.Live(get_renderable=view.table, console=console, refresh_per_second=4) as live:
        yield view
        live.refresh()


def told_text(new: BenchRecord | BenchFailure) -> str:
    """Return a result or failure in one line, without the device's name."""
    from edgestill.bench_results import BenchFailure

    if isinstance(new, BenchFailure):
        return f"failed: {failure_text(new)}"
    decode = new.decode_tokens_per_second
    shown = f"{console.figure(decode)} decoding" if decode.value is not None else "measured, without times"
    return f"{_plain(artifact_name(new.model))}: {shown}, peak PSS {console.figure(new.peak_pss_bytes)}"


def failure_text(failure: BenchFailure) -> str:
    """Return which artifact failed and why, in one line; the device's name, which stands before it, is left out."""
    said = _plain(failure.error.removeprefix(f"{failure.device}: "))
    artifact = artifact_name(failure.model) if "#" in failure.model else ""
    return said if said.startswith(artifact) else f"{_plain(artifact)}: {said}"


def artifact_name(model: str) -> str:
    """Return the artifact's part of BUNDLE#artifact; the whole of another text."""
    return model.rpartition("#")[2]


def stage_text(status: Status) -> str:
    """Return where a device is, in words."""
    word = _WORDS.get(status.stage, status.stage)
    return f"{_plain(status.artifact)}: {word}" if status.artifact else word


class _PlainView:
    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._pushed: dict[str, float] = {}

    def status(self, device: str, status: Status) -> None:
        text = stage_text(status)
        if status.unit == "bytes" and status.total:
            now = time.monotonic()
            if now - self._pushed.setdefault(device, now) < _PLAIN_SECONDS and status.done < status.total:
                return
            self._pushed[device] = now
            text += f" {console.size(int(status.done))} of {console.size(int(status.total))}"
        if self._shown.get(device) != text and status.stage not in ("reach", "wait"):
            self._shown[device] = text
            console.say(f"{device}: {text}")

    def told(self, new: BenchRecord | BenchFailure) -> None:
        console.say(f"{new.device}: {told_text(new)}")

    def stopping(self) -> None:
        console.say("stopping what runs on the devices; Ctrl-C again leaves it to end by itself")


class _Line:
    """What one device's line shows."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.told = ""
        self.failures = 0
        self.began = time.monotonic()
        self.ended: float | None = None


class _LiveView:
    def __init__(self, devices: Sequence[str], console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._lines = {name: _Line() for name in devices}
        self._stopping = False

    def status(self, device: str, status: Status) -> None:
        with self._lock:
            line = self._lines[device]
            line.status = status
            if status.stage in ("done", "failed", "cancelled"):
                line.ended = time.monotonic()

    def told(self, new: BenchRecord | BenchFailure) -> None:
        from edgestill.bench_results import BenchFailure

        with self._lock:
            line = self._lines[new.device or ""]
            line.told = told_text(new)
            line.failures += isinstance(new, BenchFailure)

    def stopping(self) -> None:
        with self._lock:
            self._stopping = True

    def table(self) -> Table:
        """Return the lines as they are now."""
        import rich.progress_bar
        import rich.table
        import rich.text

        # Room at the end: were a line full, the ``^C`` that a terminal shows would begin another one.
        width = max(40, self._console.width - 3)
        table = rich.table.Table(box=None, padding=(0, 2, 0, 0), show_header=False, width=width)
        table.add_column(no_wrap=True, style="bold", width=min(_NAME, max(map(len, self._lines))))
        table.add_column(no_wrap=True, width=_STAGE)
        table.add_column(no_wrap=True, width=_BAR)
        table.add_column(no_wrap=True, justify="right", width=_CLOCK)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # what is left
        with self._lock:
            for name, line in self._lines.items():
                status = line.status
                stage = "reach" if status is None else status.stage
                done, total = (0.0, None) if status is None else (status.done, status.total)
                ended = line.ended is not None
                bar: rich.progress_bar.ProgressBar | str = ""
                if stage != "reach":
                    bar = rich.progress_bar.ProgressBar(total or 1.0, min(done, total or 1.0), width=_BAR)
                word = "reaching it" if status is None else stage_text(status)
                if self._stopping and not ended:
                    word = f"stopping ({word})"
                shown = rich.text.Text(word, style=_STYLES.get(stage, ""))
                told = rich.text.Text(line.told, style="red" if line.told.startswith("failed") else "dim")
                seconds = (line.ended or time.monotonic()) - line.began
                table.add_row(name, shown, bar, _clock(seconds), told)
        return table


def _plain(text: str) -> str:
    """Return what came from a device without what would move the terminal's cursor."""
    from edgestill.report.format import printable

    return printable(" ".join(text.split()))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
