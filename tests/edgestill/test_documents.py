"""Reading documents back: what isn't one is named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgestill.documents import read_document
from edgestill.errors import InputError
from edgestill.results import EvalDocument


def read(path: Path) -> EvalDocument:
    return read_document(path, EvalDocument, what="an eval result", cure="give another")


def test_a_document_that_was_written_is_read(tmp_path: Path) -> None:
    document = EvalDocument(task="text", results=())
    (tmp_path / "eval.json").write_text(document.to_json())
    assert read(tmp_path / "eval.json") == document


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not JSON", r"eval\.json: not an eval result \(Invalid JSON.*\); give another"),
        ("{}", r"not an eval result \(task: Field required\)"),
        (json.dumps({"schema": "edgestill.eval/1", "task": "text", "results": 3}), r"not an eval result \(results: "),
        (json.dumps({"schema": "edgestill.eval/9", "task": "text", "results": []}), r"not an eval result \(schema: "),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "eval.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read(tmp_path / "eval.json")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json: can't be read \(No such file or directory\); give another"):
        read(tmp_path / "absent.json")
