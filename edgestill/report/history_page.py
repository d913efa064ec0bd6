"""Results over time as one self-contained HTML page, as Markdown, and both beside the JSON document."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import jinja2
import markupsafe

from edgestill.report import history, history_picture
from edgestill.report.format import printable
from edgestill.report.markdown_table import escape, table_lines
from edgestill.report.table import Section
from edgestill.storage import write_text
from edgestill.store_results import HistoryDocument


def write_history(document: HistoryDocument, out_dir: Path) -> Path:
    """Write history.json, history.md and history.html into ``out_dir``, the page last, and return its path.

    Each file appears whole or not at all. Raises DiskFullError when there is no room.
    """
    page = render_history_html(document)
    write_text(out_dir / "history.json", document.to_json() + "\n")
    write_text(out_dir / "history.md", render_history_markdown(document))
    write_text(out_dir / "history.html", page)
    return out_dir / "history.html"


def render_history_html(document: HistoryDocument) -> str:
    """Return the page (UTF-8 text): no script, nothing fetched, every value escaped; without matplotlib no picture."""
    pictures, caption = _pictures(document)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["printable"] = printable
    return environment.from_string(_beside("history.html.jinja")).render(
        document=document,
        css=markupsafe.Markup(_beside("page.css")),
        subtitle=history.subtitle(document),
        worse=history.worse(document),
        others=history.others(document),
        limit=history.limit_text(document),
        refused=history.refused(document),
        latest=history.latest_section(document),
        sections=list(history.device_sections(document)),
        # matplotlib escapes the text that it writes into an SVG.
        pictures=[markupsafe.Markup(svg) for svg in pictures],
        caption=caption,
    )


def render_history_markdown(document: HistoryDocument) -> str:
    """Return the same words and numbers as GitHub-flavoured Markdown."""
    lines = ["# Devices over time", "", escape(history.subtitle(document)), ""]
    worse, limit = history.worse(document), history.limit_text(document)
    lines += [f"- **{escape(one)}**" for one in worse]
    if not worse:
        lines.append(f"No latest result is shown to be worse than the one before by {limit} or more.")
    lines += _section_lines(history.latest_section(document), "device")
    for section in history.device_sections(document):
        lines += _section_lines(section, "artifact, measured (UTC)")
    notes = [*history.others(document), *history.refused(document)]
    if notes:
        lines += ["", "## Notes", "", *(f"- {escape(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def _section_lines(section: Section, first: str) -> list[str]:
    rows = [
        [escape(f"{row.name} ({row.role})" if row.role else row.name)]
        + [escape(f"{cell.text} ({cell.detail})" if cell.detail else cell.text) for cell in row.cells]
        for row in section.rows
    ]
    table = table_lines([first, *map(escape, section.columns)], rows)
    return ["", f"## {escape(section.title)}", "", escape(section.intro), "", *table]


def _pictures(document: HistoryDocument) -> tuple[list[str], str]:
    try:
        drawn = history_picture.draw(document)
    except ImportError:
        return [], "The picture is left out: matplotlib isn't installed (pip install 'edgestill[report]')."
    if not drawn:
        return [], "There is nothing to draw."
    missing = history.devices(document)[history_picture.MOST_PANELS :]
    more = f" Not drawn: {', '.join(map(printable, missing))}." if missing else ""
    return drawn, (
        "A panel a device, a line an artifact (another dash for each way of measuring it); the bar behind a mark is "
        f"its 95% interval, a ring marks a latest result that is worse than the one before by the limit or more.{more}"
    )


def _beside(name: str) -> str:
    return resources.files("edgestill.report").joinpath(name).read_text(encoding="utf-8")
