"""A report as a real run leaves it: teacher, student, baseline, seven files, one of them refused."""

from __future__ import annotations

import random

import pytest

from edgestill.bench_results import BenchRecord, Environment, Latency
from edgestill.figure import Figure
from edgestill.results import (
    Headline,
    ModelRecord,
    Parity,
    ParityCase,
    Refused,
    ReportDocument,
    TokenizerMismatch,
    TokenizerParity,
)

TEST_ROWS = 600


def bench(model: str, engine: str, answer: float, weights: float, *, seed: int = 1) -> BenchRecord:
    """Return a bench record around one answer time, with samples that scatter by a few percent."""
    draw = random.Random(seed)

    def samples(centre: float) -> list[float]:
        return [centre * draw.uniform(0.96, 1.05) for _ in range(10)]

    raw = {
        "load_seconds": samples(answer * 3),
        "ttft_seconds": samples(answer * 0.22),
        "prefill_tokens_per_second": samples(128 / (answer * 0.22)),
        "decode_tokens_per_second": samples(64 / (answer * 0.78)),
        "inter_token_seconds": samples(answer * 0.78 / 64),
        "answer_seconds": samples(answer),
        "peak_pss_bytes": samples(38e6 + 1.3 * weights),
    }
    source = "wall clock in a fresh process"

    def median(name: str, unit: str) -> Figure:
        return Figure.median(raw[name], unit, source)

    p90 = Figure(value=max(raw["inter_token_seconds"]), unit="seconds", n=630, source=source)
    pss = median("peak_pss_bytes", "bytes")
    return BenchRecord(
        model=model,
        engine=engine,
        threads=2,
        prompt_tokens=128,
        new_tokens=64,
        repetitions=10,
        load_seconds=median("load_seconds", "seconds"),
        ttft_seconds=median("ttft_seconds", "seconds"),
        prefill_tokens_per_second=median("prefill_tokens_per_second", "tokens/s"),
        decode_tokens_per_second=median("decode_tokens_per_second", "tokens/s"),
        inter_token_seconds=Latency(p50=median("inter_token_seconds", "seconds"), p90=p90),
        answer_seconds=median("answer_seconds", "seconds"),
        peak_pss_bytes=pss,
        peak_rss_bytes=pss.model_copy(update={"value": (pss.value or 0) * 1.12, "ci95": None}),
        weights_bytes=Figure(value=weights, unit="bytes", n=1, source="bytes of the weights in memory"),
        size_bytes=int(weights * 1.02),
        raw=raw,
    )


CASES = {
    "held-out": 4096,
    "unicode": 512,
    "special-tokens": 512,
    "vocabulary": 512,
    "long": 1024,
    "lengths": 20,
    "steps": 64,
    "chunks": 13,
    "rope-boundary": 0,
}
NFC_NOTE = "the tokenizer composes its input (Unicode NFC), llama.cpp doesn't: give it composed text or ids"


def case(name: str, positions: int, agreed: float, kl: float, difference: float) -> ParityCase:
    """Return one case's row; one of no positions wasn't run."""
    if not positions:
        why = "config.json has no rotary scaling whose original context is below its context"
        missing = (Figure.missing(unit, why) for unit in ("fraction", "nats", "logits"))
        top1, mean_kl, largest = missing
        return ParityCase(
            name=name,
            texts=0,
            positions=0,
            top1_agreement=top1,
            mean_kl=mean_kl,
            max_abs_diff=largest,
            passed=None,
            note=why,
        )
    return ParityCase(
        name=name,
        texts=1,
        positions=positions,
        top1_agreement=Figure.proportion(round(agreed * positions), positions, name),
        mean_kl=Figure(value=kl, unit="nats", n=positions, source=name),
        max_abs_diff=Figure(value=difference, unit="logits", n=positions, source=name),
        passed=True,
    )


def parity(
    top1: int,
    kl: float,
    difference: float,
    *,
    passed: bool = True,
    reasons: tuple[str, ...] = (),
    runtime: str = "tokenizers",
) -> Parity:
    """Return a parity record over 4,096 positions of held-out text, and hard cases that are a little worse."""
    cases = tuple(
        case(name, count, 1 - (1 - top1 / 4096) * (1 + worse / 4), kl * (1 + worse / 3), difference * (1 + worse / 5))
        for worse, (name, count) in enumerate(CASES.items())
    )
    differ = TokenizerMismatch(
        text="e\u0301", first_difference=0, expected=(963,), found=(68, 53839), announced=NFC_NOTE
    )
    announced = runtime == "llama.cpp"
    return Parity(
        reference="student",
        texts=64,
        positions=4096,
        top1_agreement=cases[0].top1_agreement,
        mean_kl=cases[0].mean_kl,
        max_abs_diff=cases[0].max_abs_diff,
        passed=passed,
        reasons=reasons,
        cases=cases,
        tokenizer=TokenizerParity(
            reference="student",
            runtime=runtime,
            same_file=not announced,
            texts=127,
            ids_equal=126 if announced else 127,
            round_trips=126 if announced else 127,
            announced=int(announced),
            mismatches=(differ,) if announced else (),
            passed=True,
        ),
    )


def scores(exact: int, label: int, valid: int) -> dict[str, Figure]:
    """Return the metrics of one model."""
    source = "greedy answers on the test split"
    return {
        "exact_match": Figure.proportion(exact, TEST_ROWS, source),
        "label_accuracy": Figure.proportion(label, TEST_ROWS, source),
        "valid_json": Figure.proportion(valid, TEST_ROWS, source),
    }


def make_document() -> ReportDocument:
    """Return the sample."""
    teacher = ModelRecord(
        name="teacher",
        role="teacher",
        metrics=scores(592, 597, 600),
        parity=None,
        bench=bench("teacher", "onnxruntime", 0.0853, 26.4e6, seed=2),
        size_bytes=26_613_120,
        parameters=6_612_480,
        notes=("served as onnx-fp32 by the engine of the shipped file",),
    )
    student = ModelRecord(
        name="student",
        role="student",
        metrics=scores(588, 594, 600),
        parity=None,
        bench=bench("student", "torch", 0.231, 2.9e6, seed=3),
        size_bytes=2_911_200,
        parameters=721_920,
    )
    baseline = ModelRecord(
        name="baseline",
        role="baseline",
        metrics=scores(503, 561, 594),
        parity=None,
        bench=None,
        size_bytes=2_911_200,
        parameters=721_920,
    )
    table = (
        ("onnx-fp32", 588, 4096, 2.1e-12, 8.6e-6, 0.0131, 2.93e6),
        ("onnx-int8", 587, 4071, 4.1e-4, 0.41, 0.0119, 0.83e6),
        ("onnx-int4", 583, 3988, 6.2e-3, 1.93, 0.0094, 0.52e6),
        ("gguf-f32", 588, 4096, 9.4e-12, 2.9e-5, 0.0177, 2.95e6),
        ("gguf-f16", 588, 4095, 3.3e-7, 8.8e-3, 0.0149, 1.49e6),
        ("gguf-q8_0", 588, 4080, 1.9e-4, 0.33, 0.0127, 0.81e6),
        ("gguf-q4_k_m", 582, 4029, 2.4e-3, 1.12, 0.0123, 0.66e6),
    )
    fallback = "9 of 30 tensors stored as q5_0: their rows aren't a multiple of 256 (llama.cpp's own fallback)"
    artifacts = tuple(
        ModelRecord(
            name=name,
            role="artifact",
            metrics=scores(exact, min(600, exact + 7), 600),
            parity=parity(top1, kl, difference, runtime="tokenizers" if name.startswith("onnx") else "llama.cpp"),
            bench=bench(
                name, "onnxruntime" if name.startswith("onnx") else "llama.cpp", answer, weights, seed=10 + index
            ),
            size_bytes=int(weights * 1.02),
            parameters=721_920,
            notes=(fallback,) if name == "gguf-q4_k_m" else (),
        )
        for index, (name, exact, top1, kl, difference, answer, weights) in enumerate(table)
    )
    return ReportDocument(
        name="smart-home",
        created="2026-01-31T12:00:00Z",
        task="json",
        distilling_gain=Figure(
            value=85 / 600, unit="fraction", n=600, ci95=(0.112, 0.171), source="same test rows; paired bootstrap"
        ),
        headline=Headline(
            artifact="onnx-int4",
            teacher="teacher",
            metric="exact_match",
            accuracy_retention=Figure(
                value=583 / 592,
                unit="fraction",
                n=600,
                ci95=(0.974, 0.995),
                basis="derived",
                source="paired bootstrap over the test questions",
            ),
            latency_reduction=Figure(
                value=1 - 0.0094 / 0.0853,
                unit="fraction",
                n=10,
                ci95=(0.884, 0.895),
                basis="derived",
                source="median seconds for one answer, both on onnxruntime",
            ),
            memory_reduction=Figure(
                value=1 - 0.52 / 26.4, unit="fraction", n=1, basis="derived", source="bytes of the weights in memory"
            ),
        ),
        models=(teacher, student, baseline, *artifacts),
        refused=(Refused(name="gguf-q4_0", reasons=("top-1 agreement 0.962 is below gates.min_top1_agreement 0.98",)),),
        environment=Environment(
            cpu="Example CPU @ 2.60GHz",
            cores=2,
            memory_bytes=8_254_656_512,
            system="Linux 6.1 x86_64",
            python="3.11.7",
            versions={"edgestill": "0.1.0", "onnxruntime": "1.32.0", "llama_cpp": "0.3.36", "torch": "2.13.0"},
            load_average=0.42,
        ),
        recipe={
            "version": 1,
            "name": "smart-home",
            "task": "json",
            "data": {"train": "train.jsonl", "test": "test.jsonl"},
            "teachers": [{"kind": "trained", "epochs": 3.0}],
            "student": {"kind": "config", "architecture": {"hidden_size": 128, "layers": 4, "heads": 4}},
            "distill": {"losses": [{"kind": "sft", "weight": 0.5}, {"kind": "kl", "weight": 0.5, "temperature": 2.0}]},
            "quantize": ["onnx-int8", "onnx-int4", "gguf-q8_0", "gguf-q4_0", "gguf-q4_k_m"],
        },
        provenance={
            "recipe_sha256": "9f2c0d7f5a31b6f4c5f0a5a1c3a5c8d1e3b7f9a2d4c6e8f0a1b2c3d4e5f60718",
            "data": {"train": "4b227777d4dd1fc61c6f884f48641d02b4d121d3fd328cb08b5531fcacdabf8a", "rows": 12000},
            "teacher": {
                "parameters": 6612480,
                "sha256": "ef2d127de37b942baad06145e54b0c619a1f22327b2ebbcfbec78f5564afe39d",
            },
            "seed": 0,
        },
    )


@pytest.fixture
def document() -> ReportDocument:
    """The sample report."""
    return make_document()
