"""A file of rows as a sequence: what is read one by one, at any place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.dataset import Example, Message, read_examples, write_examples
from edgestill.errors import DataError
from edgestill.example_file import ExampleFile

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)


@given(rows=st.lists(st.tuples(texts, texts), max_size=12))
def test_rows_come_back_in_any_order(rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    examples = [Example((Message("user", ask), Message("assistant", said)), references=(said,)) for ask, said in rows]
    write_examples(path, examples)
    file = ExampleFile(path)
    read = list(read_examples(path))
    assert len(file) == len(rows)
    assert list(file) == read
    assert [file[number] for number in reversed(range(len(rows)))] == read[::-1]
    assert file[1:3] == read[1:3]
    with pytest.raises(IndexError):
        file[len(rows)]


def test_lines_longer_than_a_piece_and_a_last_line_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "' + "long " * 500_000 + '"}\n{"text": "short"}')
    file = ExampleFile(path)
    assert len(file) == 2
    assert (len(file[0].text or ""), file[1].text, file[-1].source) == (2_500_000, "short", f"{path}:2")
    with pytest.raises(DataError, match="no such data file"):
        ExampleFile(tmp_path / "none.jsonl")
