"""Results as Markdown, JSON, a console table and one self-contained HTML page."""

from edgestill.report.console import render_console_table
from edgestill.report.markdown import render_markdown
from edgestill.report.page import render_html
from edgestill.report.write import write_report

__all__ = ["render_console_table", "render_html", "render_markdown", "write_report"]
