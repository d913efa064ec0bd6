"""Made-up models, profiles, rows and results with round numbers, for the tests of fit, derive, plan and store."""

from __future__ import annotations

from edgestill.bench_results import BenchDocument, BenchRecord, Environment, Latency
from edgestill.devices.model_facts import ModelFacts, Weights
from edgestill.devices.plan import PlanRow
from edgestill.devices.profile import Profile
from edgestill.figure import Figure
from edgestill.runtime.operations import Operations

MEGABYTE = 1_000_000


def made_up_facts(
    *, kind: str = "gguf", megabytes: int = 100, type: int = 2, bits: float = 4.5, **changes: object
) -> ModelFacts:
    """Return the facts of a model with so many megabytes of products and a tied table of a tenth of that."""
    products, table = megabytes * MEGABYTE, megabytes * MEGABYTE // 10
    parameters = products * 8 / bits
    fields: dict[str, object] = {
        "kind": kind,
        "file_bytes": products + table + 3 * MEGABYTE,
        "weights": (Weights(type if kind == "gguf" else -1, products, products, 1024),),
        "head": Weights(1, table, table, 1024) if kind == "gguf" else None,
        "mapped_bytes": products + table if kind == "gguf" else table,
        "embedding_bytes": table if kind == "gguf" else 0,
        "tied": True,
        "metadata_bytes": MEGABYTE,
        "tokenizer_bytes": 0 if kind == "gguf" else 2 * MEGABYTE,
        "layers": 20,
        "hidden": 512,
        "feed_forward": 1536,
        "heads": 8,
        "vocabulary": 32_000,
        "kv_values": 20 * 2 * 256,
        "kv_item": 0.0 if kind == "gguf" else 4.0,
        "all_float32": False,
        "weight_bytes": products + table,
        "decode_operations": 2 * parameters,
        "pair_operations": 4.0 * 20 * 512,
        "prompt": Operations(2 * parameters, 2 * 512 * 32_000, 4.0 * 20 * 512, 2 * parameters),
        "bits": bits,
        **changes,
    }
    return ModelFacts(**fields)  # type: ignore[arg-type]


def made_up_profile(**figures: float) -> Profile:
    """Return a profile of four cores; figures are changed by key, in units of its own."""
    values = {
        "ram_bytes": 1e9,
        "free_ram_bytes": 600e6,
        "last_cache_bytes": 1e6,
        "read_bandwidth_bytes_per_second": 8e9,
        "read_bandwidth_one_core_bytes_per_second": 4e9,
        "float32_ops_per_second": 40e9,
        "float32_ops_one_core_per_second": 10e9,
        **figures,
    }
    known = {
        key: {"value": value, "basis": "measured", "source": "made up", "error": 0.1} for key, value in values.items()
    }
    return Profile.model_validate(
        {
            "name": "board",
            "title": "A board",
            "cpu": "4x core",
            "isa": "aarch64",
            "isa_features": ("neon", "dotprod"),
            "source": "made up",
            "clusters": [{"count": 4, "name": "core", "max_mhz": 2000}],
            **{key: figure for key, figure in known.items() if figure["value"]},
        }
    )


def made_up_row(
    artifact: str, rate: float | None, memory: float, accuracy: float | None, *, half: float = 0.0, **changes: object
) -> PlanRow:
    """Return a row of a plan; memory is in megabytes, ``half`` the half width of the accuracy's interval."""
    figure = None
    if accuracy is not None:
        interval = (accuracy - half, accuracy + half) if half else None
        figure = Figure(value=accuracy, unit="fraction", n=100, ci95=interval)
    row = PlanRow(
        artifact=artifact,
        engine="llama.cpp",
        threads=2,
        context=1024,
        decode=Figure(value=rate, unit="tokens/s", n=1),
        ttft=Figure(value=None if rate is None else 10 / rate, unit="seconds", n=1),
        memory=Figure(value=memory * MEGABYTE, unit="bytes", n=1),
        accuracy=figure,
        size_bytes=int(memory * MEGABYTE),
        fit="fits",
        why="it fits",
        largest_context=2048,
    )
    return row.model_copy(update=changes)


def made_up_record(
    model: str = "bundle#gguf-q4_0", seconds: float = 1.0, *, sha256: str | None = None, **changes: object
) -> BenchRecord:
    """Return a record of ten answers that took about so many seconds each."""
    answers = [seconds * (1 + 0.001 * (number % 5)) for number in range(10)]
    rate = Figure.median([64 / one for one in answers], "tokens/s", "made up")
    time = Figure.median(answers, "seconds", "made up")
    size = Figure(value=200e6, unit="bytes", n=1)
    record = BenchRecord(
        model=model,
        engine="llama.cpp",
        threads=2,
        prompt_tokens=128,
        new_tokens=64,
        repetitions=10,
        load_seconds=time,
        ttft_seconds=time,
        prefill_tokens_per_second=rate,
        decode_tokens_per_second=rate,
        inter_token_seconds=Latency(p50=time, p90=time),
        answer_seconds=time,
        peak_pss_bytes=size,
        peak_rss_bytes=size,
        weights_bytes=size,
        size_bytes=100,
        raw={"answer_seconds": answers, "decode_tokens_per_second": [64 / one for one in answers]},
        model_sha256=sha256,
    )
    return record.model_copy(update=changes)


def made_up_document(*records: BenchRecord, created: str = "2026-01-01T00:00:00Z", cpu: str = "cpu") -> BenchDocument:
    """Return the document of some records."""
    environment = Environment(
        cpu=cpu, cores=4, memory_bytes=1, system="Linux", python="3.12", versions={}, load_average=None
    )
    return BenchDocument(environment=environment, results=records, created=created)
