"""What a fleet shows: a line for each device while it works; plain lines where nobody looks at a terminal."""

from __future__ import annotations

import io

import pytest
import rich.console

from edgestill.bench_results import BenchFailure
from edgestill.cli.fleet_view import _LiveView, _PlainView
from edgestill.devices.fleet import Status
from tests.devices.made_up import made_up_record


class Shown:
    """A live view and a terminal of 113 columns."""

    def __init__(self, *devices: str) -> None:
        self._console = rich.console.Console(file=io.StringIO(), width=113, color_system=None)
        self.view = _LiveView(devices, self._console)

    @property
    def lines(self) -> list[str]:
        with self._console.capture() as captured:
            self._console.print(self.view.table())
        return captured.get().splitlines()


def test_the_live_view_has_a_line_a_device_in_order() -> None:
    seen = Shown("pi5", "phone", "off")
    view = seen.view
    view.status("phone", Status("push", "", 5e6, 10e6, "bytes"))
    view.status("pi5", Status("bench", "gguf-q4_0", 1, 4, "jobs"))
    view.told(made_up_record("b#gguf-f16", device="pi5"))
    view.told(BenchFailure(model="b", error="off: 10.0.0.9:22 can't be\n\x1b[31mreached", device="off"))
    view.status("off", Status("failed", "", 0, 4, "jobs"))
    lines = seen.lines
    assert [line.split()[0] for line in lines] == ["pi5", "phone", "off"]
    assert "gguf-q4_0: bench" in lines[0]
    assert "gguf-f16: 63.9 tokens/s decoding" in lines[0]
    assert "push" in lines[1]
    assert "failed" in lines[2]
    assert "\x1b" not in lines[2]
    assert "10.0.0.9:22 can't be" in lines[2]
    view.stopping()
    lines = seen.lines
    assert "stopping (gguf-q4_0: bench)" in lines[0]
    assert "stopping" not in lines[2]


def test_a_line_that_is_too_long_is_cut_and_stays_one_line() -> None:
    seen = Shown("pi5")
    seen.view.told(BenchFailure(model="b", error="word " * 100, device="pi5"))
    (line,) = seen.lines
    assert len(line) <= 110
    assert line.rstrip().endswith("…")


def test_plain_lines_say_each_thing_once(capsys: pytest.CaptureFixture[str]) -> None:
    view = _PlainView()
    for done in range(0, 101, 10):
        view.status("pi5", Status("push", "", done * 1e6, 100e6, "bytes"))
    for _ in range(3):
        view.status("pi5", Status("self-test", "gguf-q4_0", 0, 2, "jobs"))
    view.told(made_up_record("b#gguf-q4_0", device="pi5"))
    view.status("pi5", Status("done", "", 2, 2, "jobs"))
    assert capsys.readouterr().err.splitlines() == [
        "pi5: push 100 MB of 100 MB",
        "pi5: gguf-q4_0: self-test",
        "pi5: gguf-q4_0: 63.9 tokens/s decoding, peak PSS 200 MB",
        "pi5: done",
    ]
