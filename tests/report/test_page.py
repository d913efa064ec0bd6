"""The HTML page: whole, escaped, self-contained, the same every time."""

from __future__ import annotations

import builtins
import html.parser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgestill.figure import Figure
from edgestill.report import render_html
from edgestill.results import ModelRecord, Refused, ReportDocument

VOID = {"meta", "br", "hr", "img", "input", "link", "use", "path", "rect", "circle"}
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=y>]]></style></svg>$x^2$"


class Balance(html.parser.HTMLParser):
    """Follows tags; fails on one that closes what isn't open."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_balanced_html(document: ReportDocument) -> None:
    page = parsed(render_html(document))
    assert page.seen.count("svg") == 2
    assert page.seen.count("table") == 4


def test_the_same_document_gives_the_same_page(document: ReportDocument) -> None:
    again = ReportDocument.model_validate_json(document.to_json())
    assert render_html(document) == render_html(again)


def test_the_page_loads_nothing_from_outside(document: ReportDocument) -> None:
    page = render_html(document)
    assert [link for link in parsed(page).links if not link.startswith("#")] == []
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_hostile_names_are_shown_as_text(document: ReportDocument) -> None:
    first = document.models[0].model_copy(update={"name": HOSTILE, "notes": (HOSTILE,)})
    hostile = document.model_copy(
        update={
            "name": HOSTILE,
            "task": HOSTILE,
            "models": (first, *document.models[1:]),
            "refused": (Refused(name=HOSTILE, reasons=(HOSTILE,)),),
            "recipe": {"name": HOSTILE},
            "provenance": {HOSTILE: HOSTILE},
        }
    )
    page = parsed(render_html(hostile))
    assert not {"script", "img"} & set(page.seen)
    assert page.text.count("<script>alert(1)</script>") >= 6


def test_control_characters_do_not_reach_the_page(document: ReportDocument) -> None:
    page = render_html(document.model_copy(update={"name": "a\x1b[31mb\x00"}))
    assert "\x1b" not in page
    assert "\x00" not in page


def test_a_missing_value_is_a_dash_that_says_why(document: ReportDocument) -> None:
    bench = document.models[3].bench
    assert bench is not None
    bench = bench.model_copy(update={"peak_pss_bytes": Figure.missing("bytes", "this kernel has no smaps_rollup")})
    model = document.models[3].model_copy(update={"bench": bench})
    page = render_html(document.model_copy(update={"models": (*document.models[:3], model)}))
    assert 'title="not measured: this kernel has no smaps_rollup">—' in page


def test_one_model_without_a_bench_makes_a_page() -> None:
    model = ModelRecord(name="only", role="student", metrics={}, parity=None, bench=None, size_bytes=None)
    document = ReportDocument(
        name="one",
        created="2026-01-31T12:00:00Z",
        task="text",
        headline=None,
        models=(model,),
        refused=(),
        environment=None,
        recipe={},
        provenance={},
    )
    page = parsed(render_html(document))
    assert "There is nothing to draw." in page.text
    assert "there is no headline" in page.text
    assert "svg" not in page.seen


def test_one_model_alone_is_drawn(document: ReportDocument) -> None:
    alone = document.model_copy(update={"models": document.models[:1], "headline": None})
    assert parsed(render_html(alone)).seen.count("svg") == 2


def test_the_gain_of_distilling_is_said_in_words(document: ReportDocument) -> None:
    assert "Distilling raised exact match by 14.2 points" in render_html(document)


def test_refused_files_fallbacks_and_models_left_out_are_named(document: ReportDocument) -> None:
    text = parsed(render_html(document)).text
    assert "gguf-q4_0" in text
    assert "below gates.min_top1_agreement" in text
    assert "9 of 30 tensors stored as q5_0" in text
    assert "Not drawn, for lack of a score, a latency or a size: baseline." in text


def test_without_matplotlib_the_page_says_what_is_missing(
    document: ReportDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> ModuleType:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    page = parsed(render_html(document))
    assert "svg" not in page.seen
    assert "pip install 'edgestill[report]'" in page.text


@pytest.mark.parametrize(("width", "name"), [(1200, "wide"), (500, "narrow")])
def test_a_browser_draws_the_page(document: ReportDocument, tmp_path: Path, width: int, name: str) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium on this machine")
    from PIL import Image

    (tmp_path / "report.html").write_text(render_html(document), encoding="utf-8")
    shot = tmp_path / f"{name}.png"
    subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"),
            *(f"--window-size={width},2400", f"--screenshot={shot}", (tmp_path / "report.html").as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(shot) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
        assert image.size == (width, 2400)
    assert colours is not None
    assert len(colours) > 200
    assert max(count for count, _ in colours) < 0.9 * width * 2400
