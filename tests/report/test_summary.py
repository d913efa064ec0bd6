"""Words and tables that all forms of the report share, the Markdown, the console and the files."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgestill.figure import Figure
from edgestill.report import render_console_table, render_markdown, summary, write_report
from edgestill.report.labels import Box, place_labels
from edgestill.results import ReportDocument
from edgestill.schemas import schema_text


def console_text(document: ReportDocument, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(render_console_table(document))
    return out.getvalue()


def test_the_sample_validates_against_the_published_schema(document: ReportDocument) -> None:
    jsonschema.validate(
        json.loads(document.to_json()), json.loads(schema_text("report")), jsonschema.Draft202012Validator
    )


def test_a_slower_file_is_not_called_a_saving(document: ReportDocument) -> None:
    assert document.headline is not None
    slower = document.headline.latency_reduction.model_copy(update={"value": -0.25, "ci95": (-0.30, -0.20)})
    headline = document.headline.model_copy(update={"latency_reduction": slower})
    card = summary.cards(document.model_copy(update={"headline": headline}))[1]
    assert (card.value, card.label) == ("25.0%", "more latency per answer")
    assert card.interval == "95% interval 20.0 to 30.0%"


def test_the_gain_of_distilling_is_said_with_its_interval(document: ReportDocument) -> None:
    gain = summary.distillation_gain(document)
    assert gain.startswith("Distilling raised exact match by 14.2 points: the distilled student reaches 98.0%")
    assert gain.endswith("On the same 600 test rows the difference's 95% interval is 11.2 to 17.1 points.")


@pytest.mark.parametrize(
    ("value", "interval", "start", "end"),
    [
        (0.001, (-0.02, 0.022), "Distilling raised exact match by 0.1 points", "-2.0 to 2.2 points: it holds 0"),
        (-0.05, (-0.07, -0.03), "Distilling lowered exact match by 5.0 points", "is 3.0 to 7.0 points."),
        (-0.01, (-0.03, 0.01), "Distilling lowered exact match by 1.0 points", "-1.0 to 3.0 points: it holds 0"),
        (0.0, (-0.01, 0.01), "Distilling changed nothing", "gold answers alone 83.8%."),
    ],
)
def test_a_small_gain_is_called_chance_and_a_loss_a_loss(
    document: ReportDocument, value: float, interval: tuple[float, float], start: str, end: str
) -> None:
    figure = Figure(value=value, unit="fraction", n=600, ci95=interval, source="test")
    sentence = summary.distillation_gain(document.model_copy(update={"distilling_gain": figure}))
    assert sentence.startswith(start)
    assert end in sentence


def test_without_a_baseline_nothing_is_claimed(document: ReportDocument) -> None:
    models = tuple(model for model in document.models if model.role != "baseline")
    assert summary.distillation_gain(document.model_copy(update={"models": models})) == ""


def test_the_console_table_names_headline_models_and_gain(document: ReportDocument) -> None:
    text = " ".join(console_text(document).split())
    assert "98.5% of exact match kept, 89.0% less latency per answer" in text
    assert all(model.name in text for model in document.models)
    assert "Distilling raised exact match by 14.2 points" in text


def test_names_are_not_read_as_console_markup(document: ReportDocument) -> None:
    model = document.models[0].model_copy(update={"name": "[red]\x1b[31mx"})
    text = console_text(document.model_copy(update={"models": (model,)}), width=160)
    assert "[red]\ufffd[31mx" in text


def test_markdown_escapes_what_would_be_markup(document: ReportDocument) -> None:
    model = document.models[0].model_copy(update={"name": "a|b<script>*c*"})
    text = render_markdown(document.model_copy(update={"models": (model,), "recipe": {"name": "```\n# hi"}}))
    assert "a\\|b\\<script\\>\\*c\\*" in text
    assert "<script>" not in text
    assert "````yaml" in text


def test_markdown_tables_have_one_width(document: ReportDocument) -> None:
    blocks = render_markdown(document).split("\n\n")
    for block in (block for block in blocks if block.startswith("|")):
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_each_case_of_parity_is_a_column_and_one_that_was_not_run_is_named(document: ReportDocument) -> None:
    table = summary.sections(document)[-1]
    assert table.title == "Parity by case"
    assert table.columns == (
        *("held-out", "unicode", "special tokens", "vocabulary", "long", "lengths", "steps", "chunks"),
        "tokenizer",
    )
    assert "Not run: RoPE boundary (config.json has no rotary scaling" in table.intro
    assert len(table.rows) == 7
    exact = next(row for row in table.rows if row.name == "onnx-fp32")
    assert [cell.text for cell in exact.cells] == ["100%"] * 8 + ["127/127"]
    quantised = next(row for row in table.rows if row.name == "gguf-q4_k_m")
    assert quantised.cells[4].detail == "2.02"
    assert quantised.cells[4].title == "1,024 positions, mean KL 5.6×10⁻³ nats"
    assert (quantised.cells[-1].text, quantised.cells[-1].detail) == ("126/127", "1 announced")
    assert "Unicode NFC" in quantised.cells[-1].title


def test_a_case_that_one_file_did_not_run_is_a_dash_that_says_why(document: ReportDocument) -> None:
    model = document.models[3]
    assert model.parity is not None
    without = model.parity.cases[1].model_copy(
        update={"positions": 0, "passed": None, "note": "the reference has no tokenizer"}
    )
    cases = (model.parity.cases[0], without, *model.parity.cases[2:])
    changed = model.model_copy(update={"parity": model.parity.model_copy(update={"cases": cases, "tokenizer": None})})
    models = (*document.models[:3], changed, *document.models[4:])
    row = summary.sections(document.model_copy(update={"models": models}))[-1].rows[0]
    assert (row.cells[1].text, row.cells[1].title) == ("—", "the reference has no tokenizer")
    assert row.cells[-1].text == "—"


def test_what_a_case_leaves_out_by_design_is_a_note(document: ReportDocument) -> None:
    model = document.models[6]
    assert model.parity is not None
    cases = tuple(case.model_copy(update={"note": "only texts past 64 tokens"}) for case in model.parity.cases)
    changed = model.model_copy(update={"parity": model.parity.model_copy(update={"cases": cases})})
    models = (*document.models[:6], changed, *document.models[7:])
    notes = summary.notes(document.model_copy(update={"models": models}))
    assert notes.count((model.name, "only texts past 64 tokens")) == 1


def test_three_files_are_written(document: ReportDocument, tmp_path: Path) -> None:
    page = write_report(document, tmp_path)
    assert page == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert ReportDocument.model_validate_json((tmp_path / "report.json").read_bytes()) == document


@pytest.mark.parametrize("count", [1, 4, 9])
def test_labels_of_one_cluster_do_not_cover_each_other(count: int) -> None:
    circles = [(200.0 + 6 * index, 150.0, 6.0) for index in range(count)]
    boxes = place_labels(circles, [(70.0, 12.0)] * count, Box(0, 0, 400, 300))
    assert sum(a.overlap(b) for i, a in enumerate(boxes) for b in boxes[:i]) == 0


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300), st.floats(2, 24)), max_size=12))
def test_labels_are_placed_near_and_finite(circles: list[tuple[float, float, float]]) -> None:
    boxes = place_labels(circles, [(60.0, 12.0)] * len(circles), Box(0, 0, 400, 300))
    assert len(boxes) == len(circles)
    for box, (x, y, radius) in zip(boxes, circles, strict=True):
        assert math.dist(box.nearest(x, y), (x, y)) <= radius + 91
