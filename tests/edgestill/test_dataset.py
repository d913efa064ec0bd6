"""Examples: three shapes of row in four kinds of file, and bad rows named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.dataset import (
    BadRow,
    Example,
    Message,
    parse_row,
    prompt_key,
    read_examples,
    share_of,
    write_examples,
)
from edgestill.errors import DataError
from edgestill.preparing import Prepared, prepare_data
from edgestill.progress import SILENT
from edgestill.recipe import load_recipe
from edgestill.runtime.tasks import get_task
from edgestill.steps import Steps


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


@given(st.lists(st.text("abc012+-*/=", min_size=1), unique=True, max_size=8))
def test_a_rows_share_is_its_prompts_own(prompts: list[str]) -> None:
    answered = [Example((Message("user", prompt), Message("assistant", "x"))) for prompt in prompts]
    open_ones = [Example((Message("user", prompt),)) for prompt in prompts]
    shares = [share_of(example) for example in answered]
    assert shares == [share_of(example) for example in open_ones]
    assert all(0 <= share < 1 for share in shares)
    assert len(set(shares)) == len(prompts)
    spoken = [Example((Message("user", f" {prompt.upper()},  please! "),)) for prompt in prompts]
    assert [share_of(example) for example in spoken] == [
        share_of(Example((Message("user", f"{prompt} please"),))) for prompt in prompts
    ]


def test_shares_are_spread_evenly() -> None:
    shares = sorted(share_of(Example((Message("user", f"prompt {number}"),))) for number in range(2000))
    assert all(abs(share - (at + 0.5) / 2000) < 0.05 for at, share in enumerate(shares))


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


def test_dialogues_of_other_layouts_are_read(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        '{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}',
        '{"turns": [["USER", "hi"], ["SYSTEM", "hello"]]}',
        '{"turns": [["USER", "hi"], ["SYSTEM"]]}',
    )
    rows = read_examples(path)
    expected = (Message("user", "hi"), Message("assistant", "hello"))
    assert [next(rows).messages, next(rows).messages] == [expected, expected]
    with pytest.raises(DataError, match=r":3: 'turns' must be a list"):
        next(rows)


def test_squads_layout_is_read(tmp_path: Path) -> None:
    qas = [{"question": "q", "answers": [{"text": "a", "answer_start": 0}, {"text": "b"}, {"text": "a"}], "id": "1"}]
    path = tmp_path / "squad.json"
    articles = [{"title": "t", "paragraphs": [{"context": "c", "qas": qas}]}]
    path.write_text(json.dumps({"version": "1.1", "data": articles}))
    (row,) = read_examples(path, shape=get_task("qa"))
    assert (row.prompt[0].content, row.completion, row.references) == ("c\n\nQuestion: q", "a", ("b",))
    path.write_text('{"data": [{"paragraphs": [{"qas": [{"answers": []}]}]}]}')
    with pytest.raises(DataError, match="SQuAD"):
        list(read_examples(path))


def test_bad_rows_may_be_set_aside(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"prompt": "a"}', "{nonsense", "[1]", '{"prompt": 3}', '{"prompt": "b"}')
    bad: list[BadRow] = []
    expected = [("2", "{nonsense"), ("3", [1]), ("4", {"prompt": 3})]
    rows = list(read_examples(path, set_aside=bad.append))
    assert [row.prompt[0].content for row in rows] == ["a", "b"]
    assert [(one.source.rsplit(":", 1)[1], one.row) for one in bad] == expected


def test_what_is_tested_on_is_in_no_other_split(tmp_path: Path) -> None:
    def write(name: str, *prompts: str) -> None:
        rows = [json.dumps({"prompt": prompt, "completion": "{}"}) + "\n" for prompt in prompts]
        (tmp_path / name).write_text("".join(rows))

    write("train.jsonl", "what is 3 + 4?", "What is 3 - 4", "how  IS it", "why", "so")
    write("validation.jsonl", "where", "so")
    write("test.jsonl", "what is 3 - 4?", "How is it?", "so?")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "version: 1\nname: x\ntask: json\ndata: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}\n"
        "teachers: [{kind: transformers, model: teacher}]\nstudent: {kind: pretrained, model: student}\n"
    )

    def prepare(name: str) -> Prepared:
        (tmp_path / name).mkdir()
        return prepare_data(Steps(tmp_path / name, SILENT), load_recipe(path), SILENT)

    data = prepare("out")
    asked = {split: [row.prompt[0].content for row in data.rows(split)] for split in ("train", "validation", "test")}
    assert asked["train"] == ["what is 3 + 4?", "why"]
    assert asked["validation"] == ["where"]
    assert len(asked["test"]) == 3
    write("train.jsonl", "so", "SO")
    with pytest.raises(DataError, match="no rows for train; the prompts of 2 are in the test split"):
        prepare("other")


def conversation(*turns: str, system: str | None = None) -> str:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]
    return json.dumps({"messages": messages}) + "\n"


def prepared(folder: Path, data: str, name: str = "out") -> Prepared:
    path = folder / "recipe.yaml"
    path.write_text(
        f"version: 1\nname: x\ntask: conversation\ndata: {{{data}}}\n"
        "teachers: [{kind: transformers, model: teacher}]\nstudent: {kind: pretrained, model: student}\n"
    )
    (folder / name).mkdir()
    return prepare_data(Steps(folder / name, SILENT), load_recipe(path), SILENT)


def test_a_text_in_the_system_message_is_part_of_the_question() -> None:
    one, two = (read_row(conversation("sum it up", "x", system=text)) for text in ("A cat.", "A dog."))
    assert prompt_key(one) != prompt_key(two)
    assert prompt_key(one) == prompt_key(read_row(conversation("Sum it up!", "y", system="a cat")))


def read_row(line: str) -> Example:
    return parse_row(json.loads(line), "row")


def test_of_a_tested_conversation_the_whole_counts_not_how_it_opens(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(
        conversation("hello", "hi", "a table please", "for whom?") + conversation("bye", "x")
    )
    (tmp_path / "train.jsonl").write_text(
        conversation("hello", "hi", "a train please", "where to?")
        + conversation("hello", "hi", "a table, please", "for whom?", "for two", "done")
        + conversation("bye", "x", "and now?", "y")
    )
    (tmp_path / "validation.jsonl").write_text(conversation("how much", "five"))
    data = prepared(tmp_path, "train: train.jsonl, validation: validation.jsonl, test: test.jsonl")
    assert [row.messages[2].content for row in data.rows("train")] == ["a train please"]
    assert data.counts == {"train": 1, "validation": 1, "test": 3}


def test_files_beside_a_test_split_drawn_from_train_are_compared_with_it(tmp_path: Path) -> None:
    rows = [conversation(f"question {n}", f"answer {n}") for n in range(40)]
    longer = [conversation(f"question {n}", f"answer {n}", "and then?", f"that {n}") for n in range(40)]
    (tmp_path / "train.jsonl").write_text("".join([*longer, *rows]))
    (tmp_path / "validation.jsonl").write_text("".join([*rows, conversation("another", "x")]))
    data = prepared(tmp_path, "train: train.jsonl, validation: validation.jsonl, test_fraction: 0.3")
    left = [*data.rows("train"), *data.rows("validation")]
    asked = {prompt_key(row) for row in left if len(row.messages) == 2}
    drawn = {prompt_key(read_row(row)) for row in rows} - asked
    assert drawn
    # Nor does a longer conversation stay that was read before the short one that is tested.
    assert not {prompt_key(Example(row.messages[:2])) for row in left} & drawn
    assert data.counts["train"] == len(data.rows("train"))
    assert data.counts["validation"] == len(data.rows("validation")) < 41


def test_columns_of_other_names_are_mapped_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"frage": "a", "antwort": "b"}', '{"antwort": "b"}')
    rows = read_examples(path, columns={"prompt": "frage", "completion": "antwort"})
    assert next(rows).completion == "b"
    with pytest.raises(DataError, match=r":2: no column 'frage'; the row has antwort"):
        next(rows)


def test_quotes_in_tsv_are_mere_characters(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('prompt\tcompletion\n"Life on Mars" is a series\t"yes\n')
    (row,) = read_examples(path)
    assert [message.content for message in row.messages] == ['"Life on Mars" is a series', '"yes']
