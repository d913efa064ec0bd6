"""CSV: every figure is a row that spreadsheets and pandas read, failures too, and no cell is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from edgestill.bench_formats import render
from edgestill.bench_formats.comma_separated import COLUMNS, figures
from edgestill.bench_results import BenchDocument, BenchFailure, BenchRecord
from edgestill.figure import Figure, Record


def rows(document: BenchDocument) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(document, "csv"), newline="")))


def test_each_figure_is_a_row_with_its_interval(document: BenchDocument, record: BenchRecord) -> None:
    found = {row["metric"]: row for row in rows(document) if row["model"] == "m.gguf"}
    ttft = found["ttft_seconds"]
    assert (float(ttft["value"]), ttft["unit"], ttft["n"], ttft["basis"]) == (0.5, "seconds", "6", "measured")
    assert (float(ttft["ci95_low"]), float(ttft["ci95_high"])) == record.ttft_seconds.ci95
    missing = found["inter_token_seconds.p90"]
    assert (missing["value"], missing["source"]) == ("", "12 samples can't tell it")
    assert (found["means.answer_seconds"]["value"], found["load_seconds"]["ci95_low"]) == ("1.04", "")


def test_no_figure_is_left_out(record: BenchRecord) -> None:
    def count(value: object) -> int:
        if isinstance(value, Figure):
            return 1
        if isinstance(value, Record):
            return sum(count(part) for _, part in value)
        return sum(map(count, value.values())) if isinstance(value, Mapping) else 0

    assert len(dict(figures(record))) == count(record) > 10


def test_failed_models_are_rows(document: BenchDocument) -> None:
    found = rows(document)
    assert {row["failure"] for row in found if row["model"] == "other|model"} == {"killed by SIGKILL"}
    last = found[-1]
    assert (last["model"], last["failure"], last["metric"]) == ("'=broken.gguf", "not a\nmodel", "")


def test_lines_end_as_the_standard_says(document: BenchDocument) -> None:
    text = render(document, "csv")
    assert text.startswith(",".join(COLUMNS) + "\r\n")
    assert text.replace("not a\nmodel", "").count("\n") == text.count("\r\n")


@given(st.text(), st.text())
def test_any_text_comes_back_and_none_is_a_formula(model: str, error: str) -> None:
    document = BenchDocument.model_construct(results=(), failures=(BenchFailure(model=model, error=error),))
    (row,) = csv.reader(io.StringIO(render(document, "csv").partition("\r\n")[2], newline=""))
    for cell, text in ((row[0], model), (row[-1], error)):
        assert cell == text or cell == f"'{text}"
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
