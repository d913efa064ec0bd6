"""``edgestill bench``: what is printed, what is written into a file, and how it ends."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgestill import storage
from edgestill.bench_results import BenchDocument
from edgestill.cli import main

STUB = """
import json, os, signal, sys, time
request = json.load(sys.stdin)
how = request["model"].rsplit("-", 1)[-1].removesuffix(".gguf")
def emit(**event):
    print(json.dumps(event), flush=True)
def emit_repetition(kind):
    emit(event=kind, pss=60, times={"answer_seconds": 0.8, "prompt_tokens": 32, "new_tokens": 4, "ttft_seconds": 0.2,
         "prefill_seconds": 0.16, "inter_token_seconds": [0.1, 0.2, 0.3]})
if how == "memory":
    raise MemoryError
emit(event="loaded", import_seconds=1.0, load_seconds=0.5, engine="llama.cpp", threads=3, context_length=96,
     weights_bytes=None, pss_before=10, pss=50, engine_build={"version": "1", "commit": None, "build": None,
     "features": None, "settings": {}, "architecture": "llama", "parameters": 5})
emit(event="prompt", tokens=32)
emit_repetition("warm")
for number in range(request["repetitions"]):
    if number == 2 and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2 and how == "interrupts":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(3)  # the two repetitions before are read, on a busy machine too
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
    emit_repetition("repetition")
emit(event="finished", pss=70, peak_rss=99, other_cores=0.0)
"""


@pytest.fixture
def stub(replace_worker: Any) -> Any:
    """Replace the worker by one that says what the model's file name asks for."""
    model = replace_worker(STUB)
    return lambda how: str(model(how))


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    return int(ended.value.code or 0)


def test_each_format_is_printed(stub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    beginnings = {"json": '{\n  "schema"', "csv": "model,engine", "markdown": "| model |", "llama-bench": "[\n"}
    for name, beginning in {**beginnings, "pyperf": '{\n "version"'}.items():
        assert status(stub("steady"), "--format", name) == 0
        assert capsys.readouterr().out.startswith(beginning), name
    assert status(stub("steady"), "--format", "table") == 0
    assert "llama.cpp, 3 threads" in capsys.readouterr().out


def test_a_file_s_suffix_is_its_format_and_the_table_is_printed(
    stub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "result.csv"
    assert status(stub("steady"), "--out", str(out)) == 0
    assert "llama.cpp, 3 threads" in capsys.readouterr().out
    with out.open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {stub("steady")}


def test_format_is_the_file_s_beside_json_on_stdout(
    stub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "llama.json"
    assert status(stub("steady"), "--out", str(out), "--format", "llama-bench", "--json") == 0
    document = BenchDocument.model_validate_json(capsys.readouterr().out)
    assert document.environment_after is not None
    assert document.results[0].engine_build is not None
    assert document.results[0].raw["warmup_answer_seconds"] == [0.8]
    assert [test["n_gen"] for test in json.loads(out.read_text())] == [0, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "yaml"], "choose one of table, csv, json, llama-bench, markdown, pyperf"),
        (["--json", "--format", "csv"], "give one of them"),
        (["--out", "result.txt"], "suffix '.txt' names no format"),
        (["--out", "."], "this is a folder"),
    ],
)
def test_options_that_contradict_are_refused_before_anything_runs(
    stub: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert status(stub("killed"), *arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_failed_models_are_rows_of_the_table(stub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(stub("killed"), stub("memory"), stub("steady")) == 1
    printed = capsys.readouterr().out
    assert "failed: bench of" in printed
    assert "after 2 finished repetitions" in printed
    assert printed.count("llama.cpp, 3 threads") == 2
    assert "model-memory.gguf" in printed


def test_a_single_model_that_dies_is_a_row_too(stub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    assert status(stub("memory"), "--json", "--out", str(out)) == 1
    printed = BenchDocument.model_validate_json(capsys.readouterr().out)
    assert [failure.model for failure in printed.failures] == [stub("memory")]
    assert "MemoryError" in printed.failures[0].error
    assert BenchDocument.model_validate_json(out.read_bytes()) == printed


def test_a_full_disk_loses_nothing_that_is_printed(
    stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_sync", full)
    out = tmp_path / "result.json"
    assert status(stub("steady"), stub("steady"), "--out", str(out)) == 1
    printed = capsys.readouterr()
    assert printed.out.count("llama.cpp, 3 threads") == 2
    assert f"error: disk full while writing {out}" in printed.err.splitlines()[-1]
    assert not list(tmp_path.glob("*.json*"))


def test_nothing_measured_has_no_form_in_pyperf_and_the_failure_is_said(
    stub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "suite.json"
    assert status(stub("memory"), "--out", str(out), "--format", "pyperf") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "model-memory.gguf" in last
    assert "pyperf has no form" in last
    assert not out.exists()
    assert status(stub("memory"), "--format", "pyperf") == 1
    assert "model-memory.gguf" in capsys.readouterr().err.splitlines()[-1]


COMMAND = """
import sys
from edgestill.runtime import bench_process
bench_process._WORKER = "stub_worker"
from edgestill.cli import main
main(sys.argv[1:])
"""


def test_ctrl_c_in_the_second_model_keeps_what_had_finished(stub: Any, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "bench", stub("steady"), stub("interrupts"), "--json", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    document = BenchDocument.model_validate_json(done.stdout)
    assert [record.repetitions for record in document.results] == [10, 2]
    assert document.results[0].failure is None
    assert document.results[1].failure == "stopped by Ctrl-C after 2 finished repetitions"
    assert BenchDocument.model_validate_json(out.read_bytes()) == document
    assert "Traceback" not in done.stderr
