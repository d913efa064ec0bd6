"""The published schemas are what the models generate, and what is written validates."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import pytest

from edgestill.bench_results import BenchDocument, BenchRecord, Environment, Latency
from edgestill.figure import Figure
from edgestill.results import (
    ArtifactRecord,
    ArtifactsDocument,
    EvalDocument,
    EvalRecord,
    Parity,
    ParityDocument,
    ReportDocument,
)
from edgestill.schemas import DOCUMENTS, FOLDER, schema_text

SECONDS = Figure.median([0.01, 0.011, 0.012, 0.01, 0.011, 0.013], "seconds", "test")
RATE = Figure.missing("tokens/s", "not measured")
ENVIRONMENT = Environment(
    cpu="cpu", cores=1, memory_bytes=1, system="Linux", python="3.10", versions={}, load_average=None
)
BENCH = BenchRecord(
    model="onnx-int4",
    engine="onnxruntime",
    threads=1,
    prompt_tokens=1,
    new_tokens=2,
    repetitions=6,
    load_seconds=SECONDS,
    ttft_seconds=SECONDS,
    prefill_tokens_per_second=RATE,
    decode_tokens_per_second=RATE,
    inter_token_seconds=Latency(p50=SECONDS, p90=SECONDS),
    answer_seconds=SECONDS,
    peak_pss_bytes=Figure.missing("bytes", "no /proc"),
    peak_rss_bytes=Figure.missing("bytes", "no /proc"),
    weights_bytes=Figure.missing("bytes", "unknown"),
    size_bytes=1,
    raw={"answer_seconds": [0.01]},
)
ARTIFACT = ArtifactRecord(
    name="gguf-f16", path="gguf-f16", format="gguf", precision="f16", size_bytes=1, sha256="0" * 64, parity=None
)
SAMPLES = {
    "artifacts": ArtifactsDocument(artifacts=(ARTIFACT,)).to_json(),
    "eval": EvalDocument(task="text", results=(EvalRecord(model="m", metrics={"bits_per_byte": SECONDS}),)).to_json(),
    "bench": BenchDocument(environment=ENVIRONMENT, results=(BENCH,)).to_json(),
    "parity": ParityDocument(
        name="gguf-f16",
        format="gguf",
        precision="f16",
        sha256="0" * 64,
        parity=Parity(
            reference="student",
            texts=1,
            positions=1,
            top1_agreement=SECONDS,
            mean_kl=SECONDS,
            max_abs_diff=SECONDS,
            passed=True,
        ),
    ).to_json(),
    "report": ReportDocument(
        name="n",
        created="2026-01-31T12:00:00Z",
        task="json",
        headline=None,
        models=(),
        refused=(),
        environment=ENVIRONMENT,
        recipe={},
        provenance={},
    ).to_json(),
}


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_the_committed_schema_is_what_the_model_generates(name: str) -> None:
    committed = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert committed == schema_text(name), f"run {Path(sys.executable).name} -m edgestill.schemas"


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_a_schema_is_itself_a_valid_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text(name)))


def test_there_is_no_schema_file_without_a_document() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(DOCUMENTS)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_document_validates_against_its_schema(name: str) -> None:
    jsonschema.validate(json.loads(SAMPLES[name]), json.loads(schema_text(name)), jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_document_with_an_unknown_key_does_not_validate(name: str) -> None:
    value = {**json.loads(SAMPLES[name]), "surprise": 1}
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate(value, json.loads(schema_text(name)), jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_document_begins_with_its_schema(name: str) -> None:
    assert next(iter(json.loads(SAMPLES[name]))) == "schema"
