"""The forms in which ``bench`` gives its result: one file a format, a pure function of the document.

A format registers itself with :func:`register` where it is defined. Every one of them keeps the failed models, or says
in its own docstring why it can't.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgestill.bench_results import BenchDocument
from edgestill.errors import EdgestillError, InputError, StageError
from edgestill.storage import write_text

Render = Callable[[BenchDocument], str]


@dataclass(frozen=True)
class _Registered:
    suffixes: tuple[str, ...]
    render: Render


_formats: dict[str, _Registered] = {}


def register(name: str, *, suffixes: tuple[str, ...] = ()) -> Callable[[Render], Render]:
    """Register a function as the writer of format ``name``, which files with ``suffixes`` are in."""

    def keep(render: Render) -> Render:
        _formats[name] = _Registered(suffixes, render)
        return render

    return keep


def format_names() -> tuple[str, ...]:
    """Return the names of all formats, sorted."""
    return tuple(sorted(_load()))


def format_name(text: str) -> str:
    """Return ``text`` when it names a format. Raises InputError that lists them."""
    if text not in _load():
        raise InputError(f"format {text!r} is unknown; choose one of {', '.join(format_names())}")
    return text


def format_of(path: Path) -> str:
    """Return the format that a file's suffix means. Raises InputError that lists the suffixes."""
    by_suffix = {suffix: name for name, one in _load().items() for suffix in one.suffixes}
    if path.suffix.lower() not in by_suffix:
        raise InputError(
            f"{path}: suffix {path.suffix!r} names no format; use one of {', '.join(sorted(by_suffix))}, or --format"
        )
    return by_suffix[path.suffix.lower()]


def render(document: BenchDocument, name: str) -> str:
    """Return a document as the text of a format, ending with a new line.

    Raises InputError for an unknown format, StageError when the document holds nothing that the format could say.
    """
    return _load()[format_name(name)].render(document)


def write_document(document: BenchDocument, path: Path, name: str) -> None:
    """Write a document into a file, whole or not at all.

    Raises StageError (DiskFullError where that is why) that names the file; what was there before is still there.
    """
    write_rendered(render(document, name), path)


def write_rendered(text: str, path: Path) -> None:
    """Write a rendered document into a file. Raises as :func:`write_document`."""
    try:
        write_text(path, text)
    except EdgestillError:
        raise
    except OSError as error:
        raise StageError(f"{path}: can't be written ({error.strerror}); what was there before is kept") from error


def _load() -> dict[str, _Registered]:
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return _formats
