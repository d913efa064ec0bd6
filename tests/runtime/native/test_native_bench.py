"""What the program measures is a document of edgestill bench, with the same statistics."""

from __future__ import annotations

import json
import subprocess

import pytest

from edgestill.bench_results import BenchDocument, BenchRecord
from edgestill.bundle import Bundle
from edgestill.figure import Figure
from edgestill.runtime.intervals import mean_figure, quantile_figure, tail_figure
from edgestill.runtime.native.binding import NativeLibrary
from edgestill.runtime.native.build import NativeBuild
from edgestill.runtime.session import Session
from edgestill.storage import sha256_json


def bench(built: NativeBuild, packed: Bundle, *more: object) -> BenchDocument:
    command = [built.program, "bench", packed.folder, "--prompt-tokens", 40, "--new-tokens", 9, *more]
    text = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
    assert text.startswith('{\n  "schema": "edgestill.bench/1"')
    return BenchDocument.model_validate_json(text)


@pytest.fixture(scope="module")
def document(built: NativeBuild, packed: Bundle) -> BenchDocument:
    return bench(built, packed, "--repetitions", 12, "--threads", 1)


@pytest.fixture(scope="module")
def record(document: BenchDocument) -> BenchRecord:
    (record,) = document.results
    return record


def near(one: Figure, other: Figure) -> None:
    """The same but for rounding; ``source`` isn't looked at where nothing was measured."""
    assert (one.unit, one.n, one.basis) == (other.unit, other.n, other.basis)
    assert one.value == pytest.approx(other.value)
    assert one.ci95 == (None if other.ci95 is None else pytest.approx(other.ci95))


def test_every_sample_is_there_and_figures_are_of_them(record: BenchRecord) -> None:
    raw = record.raw
    assert len(raw["inter_token_seconds"]) == 12 * 8
    assert {len(raw[name]) for name in ("ttft_seconds", "prefill_seconds", "answer_seconds")} == {12}
    near(record.ttft_seconds, Figure.median(raw["ttft_seconds"], "seconds", ""))
    near(record.answer_seconds, Figure.median(raw["answer_seconds"], "seconds", ""))
    near(record.decode_tokens_per_second, Figure.median(raw["decode_tokens_per_second"], "tokens/s", ""))
    gaps = raw["inter_token_seconds"]
    near(record.inter_token_seconds.p50, quantile_figure(gaps, 0.5, "seconds", ""))
    for found, quantile in ((record.inter_token_seconds.p90, 0.9), (record.inter_token_seconds.p99, 0.99)):
        expected = tail_figure(gaps, quantile, "seconds", "s")
        near(found, expected)
        assert found.source.rpartition("MLPerf")[2] == expected.source.rpartition("MLPerf")[2]
    for name, figure in record.means.items():
        expected = mean_figure(raw[name], figure.unit, "")
        assert (figure.value, figure.n) == (pytest.approx(expected.value), expected.n)
        # Other draws of the same bootstrap: their ends differ by a fraction of the interval.
        assert figure.ci95 is not None
        assert expected.ci95 is not None
        width = expected.ci95[1] - expected.ci95[0]
        assert figure.ci95 == pytest.approx(expected.ci95, abs=0.25 * width)


@pytest.mark.parametrize("repetitions", [1, 2, 5, 6, 7, 40])
def test_intervals_exist_as_in_python(built: NativeBuild, packed: Bundle, repetitions: int) -> None:
    (record,) = bench(built, packed, "--repetitions", repetitions).results
    near(record.answer_seconds, Figure.median(record.raw["answer_seconds"], "seconds", ""))
    gaps = record.raw["inter_token_seconds"]
    near(record.inter_token_seconds.p50, quantile_figure(gaps, 0.5, "seconds", ""))
    near(record.inter_token_seconds.p90, tail_figure(gaps, 0.9, "seconds", ""))
    assert bool(record.warnings) >= (repetitions < 6)


def test_prompt_model_and_machine_are_named_as_python_names_them(
    document: BenchDocument, record: BenchRecord, packed: Bundle
) -> None:
    artifact = packed.manifest.artifact("gguf-q4_0")
    assert (record.model_sha256, record.size_bytes) == (artifact.sha256, artifact.size_bytes)
    assert record.model == f"{packed.folder}#gguf-q4_0"
    assert record.prompt_tokens == 40
    from edgestill.runtime.bench_worker import PROMPT_TEXT

    with Session.open(packed.artifact_folder("gguf-q4_0")) as session:
        ids = session.tokenizer.encode(PROMPT_TEXT * 4)[:40]
    assert record.prompt_sha256 == sha256_json(ids)
    assert document.environment.python is None
    assert document.environment.cores >= 1
    assert document.environment.memory_bytes > 1 << 20
    assert record.peak_rss_bytes.value
    assert record.peak_pss_bytes.value
    # What a process maps of the model's file isn't its own memory; both are kept.
    assert min(record.raw["file_rss_bytes"]) > artifact.size_bytes
    assert max(record.raw["anonymous_rss_bytes"]) < max(record.raw["pss_bytes"])


def test_the_library_measures_too(library: NativeLibrary, packed: Bundle) -> None:
    with library.open(packed.folder, threads=1) as session:
        (record,) = BenchDocument.model_validate(json.loads(json.dumps(session.bench(20, 4, 2)))).results
    assert record.new_tokens == 4


def test_weights_are_left_as_they_lie_where_that_is_asked(built: NativeBuild, packed: Bundle) -> None:
    (usual,) = bench(built, packed, "--artifact", "gguf-q4_0", "--repetitions", 1).results
    (plain,) = bench(built, packed, "--artifact", "gguf-q4_0", "--repetitions", 1, "--no-repack").results
    assert "repack" not in usual.settings
    assert plain.settings["repack"] is False
    words = [built.program, "selftest", packed.folder, "--artifact", "gguf-q4_0", "--no-repack"]
    subprocess.run([*map(str, words)], check=True, capture_output=True)
