"""Writing a report's three files beside each other."""

from __future__ import annotations

from pathlib import Path

from edgestill.report.markdown import render_markdown
from edgestill.report.page import render_html
from edgestill.results import ReportDocument
from edgestill.storage import write_text


def write_report(document: ReportDocument, out_dir: Path) -> Path:
    """Write report.json, report.md and report.html into ``out_dir`` and return the path of the page.

    Each file appears whole or not at all, the page last. Raises DiskFullError when there is no room.
    """
    page = render_html(document)
    write_text(out_dir / "report.json", document.to_json() + "\n")
    write_text(out_dir / "report.md", render_markdown(document))
    write_text(out_dir / "report.html", page)
    return out_dir / "report.html"
