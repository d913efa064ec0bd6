"""The store: what went in comes out, two may write at once, a kill loses nothing that was finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgestill.devices.store import Store, artifact_of, store_path
from edgestill.errors import InputError, StageError
from tests.devices.made_up import made_up_document, made_up_record

WRITER = """
import sys
from pathlib import Path
from edgestill.devices.store import Store
from edgestill.bench_results import BenchDocument

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
document = BenchDocument.model_validate_json(sys.stdin.read())
with Store(path) as store:
    for number in range(count):
        store.add(name, document.model_copy(update={"created": f"2026-01-01T00:00:{number:06d}Z"}))
        print(number, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "results.sqlite"


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(made_up_document(made_up_record("a#one"), made_up_record("a#two", 2.0)).to_json())
    process.stdin.close()
    return process


def test_results_come_back_as_they_were_the_latest_first(store: Path) -> None:
    first = made_up_document(made_up_record("b#gguf-q4_0"), created="2026-01-01T00:00:00Z")
    second = made_up_document(made_up_record("b#gguf-q4_0", 2.0), created="2026-02-01T00:00:00Z")
    with Store(store) as opened:
        assert opened.add("pi", second, bundle="cd" * 32) == 1
        assert opened.add("pi", first, bundle="ab" * 32) == 1
        assert opened.add("phone", first) == 1
    with Store(store) as opened:
        found = opened.query(device="pi")
        assert [one.record for one in found] == [second.results[0], first.results[0]]
        assert found[0].environment == second.environment
        assert [one.measured for one in found] == ["2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"]
        assert [one.bundle for one in opened.query(bundle="ab" * 32)] == ["ab" * 32]
        assert len(opened.query(since="2026-01-15")) == 1
        assert len(opened.query(limit=2)) == 2
        assert opened.query(artifact="onnx-int4") == []
        assert opened.devices() == ["phone", "pi"]


def test_a_result_that_is_there_is_not_added_again(store: Path) -> None:
    document = made_up_document(made_up_record("b#one"), made_up_record("b#two"))
    with Store(store) as opened:
        assert opened.add("pi", document) == 2
        assert opened.add("pi", document) == 0
        assert opened.add("phone", document) == 2


def test_text_that_looks_like_sql_is_only_text(store: Path) -> None:
    hostile = "x'; DROP TABLE results; --"
    with Store(store) as opened:
        opened.add(hostile, made_up_document(made_up_record(f"b#{hostile}")))
        assert [one.device for one in opened.query(device=hostile, artifact=hostile)] == [hostile]


def test_two_processes_write_at_once_and_neither_loses_anything(store: Path) -> None:
    both = [writer(store, name, 40) for name in ("first", "second")]
    for process in both:
        assert process.stdout is not None
        assert len(process.stdout.read().split()) == 40
        assert process.wait(timeout=60) == 0
        process.stdout.close()
    with Store(store) as opened:
        assert {name: len(opened.query(device=name)) for name in ("first", "second")} == {"first": 80, "second": 80}


def test_a_kill_in_the_middle_keeps_every_document_that_was_whole(store: Path) -> None:
    said = 0
    for attempt in range(3):
        process = writer(store, f"device-{attempt}", 100_000)
        assert process.stdout is not None
        for _ in range(5 + attempt):
            line = process.stdout.readline()
            assert line
        time.sleep(0.01 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        said = 5 + attempt
        process.wait()
        process.stdout.close()
        with Store(store) as opened:
            found = opened.query(device=f"device-{attempt}")
            assert len(found) >= 2 * said
            assert len(found) % 2 == 0  # a document of two results is there whole or not at all
            assert opened.add("after", made_up_document(made_up_record(), created=f"2027-01-0{attempt + 1}")) == 1


def test_an_artifact_is_named_by_what_its_model_says() -> None:
    names = {"bundle#onnx-int4": "onnx-int4", "files/gguf-q4_0": "gguf-q4_0", "files/gguf-q4_0/model.gguf": "gguf-q4_0"}
    assert {model: artifact_of(made_up_record(model)) for model in names} == names


def test_another_file_and_a_later_version_are_one_line_errors(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    other.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(InputError, match="not a store of results"):
        Store(other)
    later = tmp_path / "later.sqlite"
    with Store(later) as opened:
        opened._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="a store of version 99"):
        Store(later)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(StageError, match="folder"):
        Store(folder)


def test_the_file_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("EDGESTILL_STORE", raising=False)
    assert store_path() == tmp_path / "edgestill" / "results.sqlite"
    monkeypatch.setenv("EDGESTILL_STORE", str(tmp_path / "mine"))
    assert store_path() == tmp_path / "mine"
