"""Choosing a format, and writing a document whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgestill import storage
from edgestill.bench_formats import format_name, format_names, format_of, render, write_document
from edgestill.bench_results import BenchDocument
from edgestill.errors import DiskFullError, InputError, StageError


def test_every_format_is_found_by_its_name_and_some_by_a_suffix() -> None:
    assert format_names() == ("csv", "json", "llama-bench", "markdown", "pyperf")
    assert [format_of(Path(name)) for name in ("a.json", "a.MD", "a.csv", "b.markdown")] == [
        *("json", "markdown", "csv", "markdown"),
    ]


def test_what_names_no_format_is_refused_with_a_list() -> None:
    with pytest.raises(InputError, match="choose one of csv, json, llama-bench, markdown, pyperf"):
        format_name("yaml")
    with pytest.raises(InputError, match=r"suffix '\.txt' names no format; use one of \.csv, \.json"):
        format_of(Path("a.txt"))


def test_every_format_ends_with_a_new_line_and_says_the_same_twice(document: BenchDocument) -> None:
    for name in format_names():
        text = render(document, name)
        assert text.endswith("\n")
        assert text == render(document, name)


def test_json_is_the_document(document: BenchDocument, tmp_path: Path) -> None:
    write_document(document, tmp_path / "new" / "result.json", "json")
    read = BenchDocument.model_validate_json((tmp_path / "new" / "result.json").read_bytes())
    assert read == document


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [(errno.ENOSPC, DiskFullError, "disk full while writing"), (errno.EFBIG, StageError, "File too large")],
)
def test_a_disk_without_room_is_named_with_the_file_and_the_earlier_one_stays(
    document: BenchDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[StageError],
    said: str,
) -> None:
    out = tmp_path / "result.csv"
    write_document(document, out, "csv")
    before = out.read_bytes()

    def full(path: Path) -> None:
        raise OSError(number, "File too large" if number == errno.EFBIG else "No space left on device")

    monkeypatch.setattr(storage, "_sync", full)
    with pytest.raises(kind, match=said) as caught:
        write_document(document, out, "csv")
    assert str(out) in str(caught.value)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]
