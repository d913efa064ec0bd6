"""Documents to write: one whole record, one that ended early, one model of which nothing was measured."""

from __future__ import annotations

from typing import Any

import pytest

from edgestill.bench_results import (
    BenchDocument,
    BenchFailure,
    BenchRecord,
    EngineBuild,
    Environment,
    Latency,
    Limits,
    Repository,
)
from edgestill.figure import Figure

MACHINE = Environment(
    cpu="Some CPU", cores=2, memory_bytes=8_000_000_000, system="Linux-6", python="3.11.7", versions={"numpy": "2.4"},
    load_average=0.5, governor="performance", clock_mhz=(2000.0,), features=("avx2", "fma"),
    limits=Limits(cpus=(0, 2), online=(0, 1, 2, 3), pinned=True, cpu_quota=1.5, memory_bytes=512_000_000),
    repository=Repository(commit="0123456789abcdef", dirty=True),
)  # fmt: skip

LLAMA = EngineBuild(
    version="0.5.0", build="CPU : AVX2 = 1", features=("avx2",), architecture="llama 1B Q4_0", parameters=1_000,
    settings={"batch": "256", "micro_batch": "128", "flash_attention": "auto"},
)  # fmt: skip


def make_record(model: str = "m.gguf", **changes: Any) -> BenchRecord:
    """A record of six repetitions: 8 prompt tokens, 3 new ones, so two gaps each."""
    answers = [1.0, 1.1, 0.9, 1.0, 1.2, 1.05]
    prefill = [0.5, 0.4, 0.5, 0.6, 0.5, 0.5]
    rates = [4.0, 5.0, 4.0, 4.0, 4.0, 2.0]
    ttft = Figure.median(prefill, "seconds", "median of 6")
    record = BenchRecord(
        model=model, engine="llama.cpp", threads=2, prompt_tokens=8, new_tokens=3, repetitions=6,
        load_seconds=Figure(value=0.25, unit="seconds", n=1, source="Session.open"),
        ttft_seconds=ttft,
        prefill_tokens_per_second=Figure.median([8 / value for value in prefill], "tokens/s", "median of 6"),
        decode_tokens_per_second=Figure.median(rates, "tokens/s", "median of 6"),
        inter_token_seconds=Latency(p50=ttft, p90=Figure.missing("seconds", "12 samples can't tell it")),
        answer_seconds=Figure.median(answers, "seconds", "median of 6"),
        peak_pss_bytes=Figure(value=2e8, unit="bytes", n=3, source="largest"),
        peak_rss_bytes=Figure.missing("bytes", "not counted"),
        weights_bytes=Figure(value=1e8, unit="bytes", n=1, source="the engine"),
        size_bytes=101_000_000,
        warnings=("a_b is unsteady",),
        raw={
            "load_seconds": [0.25],
            "answer_seconds": answers,
            "prefill_seconds": prefill,
            "decode_tokens_per_second": rates,
            "inter_token_seconds": [gap for rate in rates for gap in (1 / rate, 1 / rate)],
            "pss_bytes": [1e8, 2e8],
            "warmup_answer_seconds": [3.0, 1.5],
        },
        means={"answer_seconds": Figure(value=1.04, unit="seconds", n=6, ci95=(1.0, 1.1), source="mean of 6")},
        engine_build=LLAMA,
        settings={"kv_precision": "f16", "mmap": True},
        model_sha256="b" * 64,
    )  # fmt: skip
    return record.model_copy(update=changes)


@pytest.fixture
def record() -> BenchRecord:
    """One record as the engine of llama.cpp leaves it."""
    return make_record()


@pytest.fixture
def document(record: BenchRecord) -> BenchDocument:
    """The record, another engine's that was killed, and a model that couldn't be opened."""
    other = make_record(
        "other|model", engine="onnxruntime", engine_build=None, settings={}, failure="killed by SIGKILL"
    )
    return BenchDocument(
        environment=MACHINE,
        results=(record, other),
        failures=(BenchFailure(model="=broken.gguf", error="not a\nmodel"),),
        created="2026-01-31T12:00:00Z",
    )
