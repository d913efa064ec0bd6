"""pyperf's JSON: pyperf itself reads it, and its values are ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgestill.bench_formats import render, write_document
from edgestill.bench_results import BenchDocument, BenchRecord
from edgestill.errors import StageError

pyperf = pytest.importorskip("pyperf")


@pytest.fixture
def suite(document: BenchDocument, tmp_path: Path) -> Any:
    write_document(document, tmp_path / "suite.json", "pyperf")
    return pyperf.BenchmarkSuite.load(str(tmp_path / "suite.json"))


def test_pyperf_loads_every_sample(suite: Any, document: BenchDocument) -> None:
    for record in document.results:
        for metric, unit in (("answer_seconds", "second"), ("inter_token_seconds", "second"), ("pss_bytes", "byte")):
            benchmark = suite.get_benchmark(f"{record.model} {metric}")
            assert list(benchmark.get_values()) == record.raw[metric]
            assert benchmark.get_unit() == unit
            assert benchmark.get_nrun() == 1


def test_warm_ups_are_pyperf_s_and_rates_are_left_out(suite: Any, record: BenchRecord) -> None:
    (run,) = suite.get_benchmark("m.gguf answer_seconds").get_runs()
    assert run.warmups == tuple((1, value) for value in record.raw["warmup_answer_seconds"])
    assert not [name for name in suite.get_benchmark_names() if "per_second" in name or "warmup" in name]


def test_the_machine_is_in_the_metadata_without_its_name(suite: Any) -> None:
    metadata = suite.get_benchmark("m.gguf answer_seconds").get_metadata()
    assert metadata["cpu_model_name"] == "Some CPU"
    assert metadata["python_version"] == "3.11.7"
    assert (metadata["load_avg_1min"], metadata["cpu_affinity"]) == (0.5, "0,2")
    assert (metadata["cpu_config"], metadata["edgestill_threads"]) == ("governor:performance", 2)
    assert "hostname" not in metadata


def test_failures_are_named_in_the_metadata(suite: Any) -> None:
    metadata = suite.get_benchmark("other|model answer_seconds").get_metadata()
    assert metadata["edgestill_failure"] == "killed by SIGKILL"
    assert metadata["edgestill_failures"] == "=broken.gguf: not a model"


def test_two_records_of_one_model_and_samples_of_0_are_kept_apart(document: BenchDocument, record: BenchRecord) -> None:
    zeros = record.model_copy(update={"raw": {**record.raw, "inter_token_seconds": [0.0, 0.5, 0.0]}})
    suite = pyperf.BenchmarkSuite.loads(render(document.model_copy(update={"results": (record, zeros)}), "pyperf"))
    benchmark = suite.get_benchmark("m.gguf (2) inter_token_seconds")
    assert benchmark.get_values() == (0.5,)
    assert benchmark.get_metadata()["edgestill_zeros_left_out"] == 2


def test_nothing_measured_has_no_form(document: BenchDocument) -> None:
    with pytest.raises(StageError, match="nothing was measured"):
        render(document.model_copy(update={"results": ()}), "pyperf")


@pytest.mark.parametrize("command", [["stats"], ["compare_to", "--table"], ["show"], ["metadata"]])
def test_pyperf_s_own_commands_read_it(document: BenchDocument, tmp_path: Path, command: list[str]) -> None:
    write_document(document, tmp_path / "a.json", "pyperf")
    slower = {**document.results[0].raw, "answer_seconds": [2 * s for s in document.results[0].raw["answer_seconds"]]}
    changed = document.results[0].model_copy(update={"raw": slower})
    write_document(document.model_copy(update={"results": (changed,)}), tmp_path / "b.json", "pyperf")
    files = ["a.json", "b.json"] if command[0] == "compare_to" else ["a.json"]
    done = subprocess.run(
        [sys.executable, "-m", "pyperf", *command, *files], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if command[0] == "compare_to":
        assert "2.00x slower" in done.stdout
    else:
        assert "m.gguf answer_seconds" in done.stdout
