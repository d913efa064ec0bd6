"""Results over time as page and Markdown: complete, escaped, with nothing from outside."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgestill.cli import main
from edgestill.devices.store import Store
from edgestill.devices.store_comparison import history
from edgestill.figure import Figure
from edgestill.report.history_page import render_history_html, render_history_markdown
from edgestill.report.history_picture import draw
from edgestill.store_results import HistoryDocument
from tests.devices.made_up import made_up_document, made_up_record

HOSTILE = '<script>alert("x")</script>|$\\alpha$'


def fill(path: Path) -> None:
    missing = Figure.missing("tokens/s", "the processor is emulated")
    with Store(path) as store:
        for day, seconds in (("01", 1.0), ("02", 1.02), ("03", 1.4)):
            for device, artifact in (("pi5", "gguf-q4_0"), ("pi5", "gguf-q8_0"), ("phone", "gguf-q4_0")):
                each = seconds if device == "pi5" and artifact == "gguf-q4_0" else 1.0
                record = made_up_record(f"b#{artifact}", each)
                store.add(device, made_up_document(record, created=f"2026-01-{day}T10:00:00Z"), bundle=day * 32)
        emulated = made_up_record("b#gguf-q4_0", decode_tokens_per_second=missing, facts={"fits": True})
        store.add("emulated", made_up_document(emulated, created="2026-01-03T10:00:00Z"))
        hostile = made_up_record(f"b#{HOSTILE}")
        store.add(HOSTILE, made_up_document(hostile, created="2026-01-03T10:00:00Z", cpu=HOSTILE))


@pytest.fixture
def document(tmp_path: Path) -> HistoryDocument:
    fill(tmp_path / "store.sqlite")
    with Store(tmp_path / "store.sqlite") as store:
        return history(store)


def test_the_page_says_what_is_worse_and_fetches_nothing(document: HistoryDocument) -> None:
    page = render_history_html(document)
    assert "gguf-q4_0 on pi5, 128 + 64 tokens, 2 threads: slower by 37.3%" in page
    assert "<script" not in page
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=[\"'](?!#)", page)
    for name in ("pi5", "phone", "emulated"):
        assert page.count(f"<h2>{name}</h2>") == 1
    assert page == render_history_html(document)


def test_a_device_without_times_shows_its_memory(document: HistoryDocument) -> None:
    lines = render_history_markdown(document).splitlines()
    row = next(line for line in lines if line.startswith("| emulated"))
    assert "200 MB (fits)" in row
    assert "tokens/s" not in row


def test_markdown_has_the_same_and_no_markup_of_names(document: HistoryDocument) -> None:
    text = render_history_markdown(document)
    assert "slower by 37.3%" in text
    assert HOSTILE not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in rows if line.startswith("| gguf-q4")}
    assert len(bars) == 1


def test_the_picture_has_a_panel_a_device_and_is_whole_xml(document: HistoryDocument) -> None:
    wide, narrow = draw(document)
    for svg in (wide, narrow):
        root = ElementTree.fromstring(svg)
        words = "".join(root.itertext())
        for name in ("pi5", "phone", "emulated", "gguf-q8_0", "peak PSS, MB", "decode, tokens/s", HOSTILE):
            assert name in words


def test_the_command_writes_page_markdown_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "store.sqlite")
    monkeypatch.setenv("EDGESTILL_STORE", str(tmp_path / "store.sqlite"))
    with pytest.raises(SystemExit) as ended:
        main(["report", "--out", str(tmp_path / "out")])
    assert not ended.value.code
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["history.html", "history.json", "history.md"]
    read = HistoryDocument.model_validate_json((tmp_path / "out" / "history.json").read_text())
    assert sum(len(one.points) for one in read.series) == 11
    printed = capsys.readouterr()
    assert "worse: gguf-q4_0 on pi5" in printed.out
    with pytest.raises(SystemExit):
        main(["report", "--device", "pi5", "--artifact", "gguf-q8_0", "--since", "2026-01-02", "--json"])
    (series,) = HistoryDocument.model_validate_json(capsys.readouterr().out).series
    assert len(series.points) == 2
