"""Examples: three shapes of row in four kinds of file, and bad rows named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.dataset import Example, Message, read_examples, split_by_prompt, write_examples
from edgestill.errors import DataError


def lines(folder: Path, *rows: str, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes("\n".join(rows).encode())
    return path


def test_messages_prompt_completion_and_text_rows_are_read(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
        '{"prompt": "c", "completion": "d"}',
        "",
        '{"prompt": "e"}',
        '{"text": "f"}',
    )
    first, second, third, fourth = read_examples(path, system="s")
    assert first.prompt == (Message("system", "s"), Message("user", "a"))
    assert first.completion == "b"
    assert second.completion == "d"
    assert third.completion is None
    assert third.source == f"{path}:4"
    assert fourth.text == "f"


@pytest.mark.parametrize(
    "row",
    [
        "{not json}",
        "[1]",
        '{"messages": []}',
        '{"messages": [{"role": "robot", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": 3}]}',
        '{"prompt": 3}',
        '{"question": "x"}',
        '{"text": null}',
        "[" * 100_000,
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: str) -> None:
    path = lines(tmp_path, '{"text": "fine"}', row)
    with pytest.raises(DataError) as error:
        list(read_examples(path))
    assert f"{path}:2" in str(error.value)
    assert "\n" not in str(error.value)


def test_csv_with_a_bom_and_named_columns_is_read(tmp_path: Path) -> None:
    path = lines(tmp_path, "\ufefftext,category", '"where, is it?",card', name="rows.csv")
    (example,) = read_examples(path, columns={"prompt": "text", "completion": "category"})
    assert example.prompt == (Message("user", "where, is it?"),)
    assert example.completion == "card"


def test_a_csv_row_of_another_width_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path, "prompt,completion", "a,b", "c", name="rows.csv")
    with pytest.raises(DataError, match=r"rows\.csv:3"):
        list(read_examples(path))


def test_parquet_is_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "completion": ["x", "y"]}), path)
    assert [example.completion for example in read_examples(path)] == ["x", "y"]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="Parquet"):
        list(read_examples(path))


def test_texts_are_separated_by_their_marker(tmp_path: Path) -> None:
    path = lines(tmp_path, "one", "more", "<|endoftext|>", "two", name="rows.txt")
    assert [example.text for example in read_examples(path)] == ["one\nmore", "two"]


def test_a_missing_file_and_an_unknown_suffix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data file"):
        list(read_examples(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="suffix"):
        list(read_examples(lines(tmp_path, "x", name="rows.docx")))


@given(st.lists(st.text(min_size=1), unique=True, max_size=40))
def test_a_prompt_is_in_one_half_of_a_split_and_stays_there(prompts: list[str]) -> None:
    examples = [Example((Message("user", prompt), Message("assistant", "x"))) for prompt in prompts]
    train, validation = split_by_prompt(iter(examples * 2), 0.3)
    assert {e.prompt for e in train}.isdisjoint({e.prompt for e in validation})
    fewer = split_by_prompt(iter(examples[:5]), 0.3)
    assert all(example in validation for example in fewer[1])
    assert all(example in train for example in fewer[0])


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    examples = [Example((Message("user", text), Message("assistant", text[::-1]))) for text in texts]
    try:
        json.dumps(texts).encode()
        "".join(texts).encode()
    except UnicodeEncodeError:
        return
    write_examples(path, examples)
    assert [example.messages for example in read_examples(path)] == [example.messages for example in examples]
