"""The report as one self-contained HTML page: no script, nothing fetched, readable from file://."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Final

import jinja2
import markupsafe
import yaml

from edgestill.bench_results import Environment
from edgestill.report import picture, summary
from edgestill.report.format import printable, quantity
from edgestill.results import ReportDocument

_NO_MATPLOTLIB: Final = "The picture is left out: matplotlib isn't installed (pip install 'edgestill[report]')."


def render_html(document: ReportDocument) -> str:
    """Return the report as one HTML page (UTF-8 text); equal documents give equal pages.

    Every value is escaped. Without matplotlib the picture is left out and the page says so.
    """
    pictures, caption = _pictures(document)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["printable"] = printable
    return environment.from_string(_beside("page.html.jinja")).render(
        document=document,
        css=markupsafe.Markup(_beside("page.css")),
        cards=summary.cards(document),
        teacher=summary.teacher_name(document),
        gain=summary.distillation_gain(document),
        # matplotlib escapes the text that it writes into an SVG.
        pictures=[markupsafe.Markup(svg) for svg in pictures],
        caption=caption,
        tables=summary.sections(document),
        notes=summary.notes(document),
        recipe=recipe_yaml(document),
        provenance=list(flat(_json(document)["provenance"])),
        environment=list(environment_lines(document.environment)),
        refused_line="" if document.refused else "No file was refused.",
    )


def recipe_yaml(document: ReportDocument) -> str:
    """Return the recipe as YAML, keys in the order in which they were given."""
    return printable(yaml.safe_dump(_json(document)["recipe"], sort_keys=False, allow_unicode=True, width=88))


def environment_lines(environment: Environment | None) -> Iterator[tuple[str, str]]:
    """Yield (what, value) of the machine on which the run was measured; nothing when it wasn't recorded."""
    if environment is None:
        return
    yield "processor", printable(f"{environment.cpu}, {environment.cores} cores")
    if environment.memory_bytes is not None:
        yield "memory", quantity(environment.memory_bytes, "bytes")
    yield "system", printable(environment.system)
    if environment.python is not None:
        yield "Python", printable(environment.python)
    load = environment.load_average
    yield "load average", "not recorded" if load is None else f"{load:.2f}"
    yield from ((printable(name), printable(version)) for name, version in sorted(environment.versions.items()))


def flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) for every leaf of nested mappings; lists of scalars stay on one line."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from flat(item, f"{prefix}[{index}]")
    elif prefix:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield printable(prefix), printable("none" if value is None else text)


def _json(document: ReportDocument) -> dict[str, object]:
    return document.model_dump(mode="json", include={"recipe", "provenance"})


def _beside(name: str) -> str:
    return resources.files("edgestill.report").joinpath(name).read_text(encoding="utf-8")


def _pictures(document: ReportDocument) -> tuple[list[str], str]:
    missing = picture.left_out(document)
    not_drawn = f" Not drawn, for lack of a score, a latency or a size: {', '.join(missing)}." if missing else ""
    try:
        drawn = [svg for frame in (picture.WIDE, picture.NARROW) if (svg := picture.draw(document, frame))]
    except ImportError:
        return [], _NO_MATPLOTLIB
    if not drawn:
        return [], f"There is nothing to draw.{not_drawn}"
    return drawn, (
        "Better is up and to the left. The area of a mark is the size of the model; the line through it is the "
        f"95% interval of its score; the ring marks the file that is shipped.{not_drawn}"
    )
