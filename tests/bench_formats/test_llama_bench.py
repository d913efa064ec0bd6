"""llama-bench's JSON: its fields, in its types, with our samples."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from edgestill.bench_formats import render
from edgestill.bench_results import BenchDocument, BenchRecord

FIELDS = {
    "build_commit": str, "build_number": int, "cpu_info": str, "gpu_info": str, "backends": str,
    "model_filename": str, "model_type": str, "model_size": int, "model_n_params": int, "n_batch": int,
    "n_ubatch": int, "n_threads": int, "cpu_mask": str, "cpu_strict": bool, "poll": int, "type_k": str, "type_v": str,
    "n_gpu_layers": int, "n_cpu_moe": int, "split_mode": str, "main_gpu": int, "no_kv_offload": bool,
    "flash_attn": int, "devices": str, "tensor_split": str, "tensor_buft_overrides": str, "load_mode": str,
    "lazy_mode": str, "embeddings": bool, "no_op_offload": int, "no_host": bool, "repack": bool, "fit_target": int,
    "fit_min_ctx": int, "n_prompt": int, "n_gen": int, "n_depth": int, "test_time": str, "avg_ns": int,
    "stddev_ns": int, "avg_ts": float, "stddev_ts": float, "samples_ns": list, "samples_ts": list,
}  # fmt: skip
"""The fields of a test in llama-bench's own output (llama-cpp-python 0.3.36's llama.cpp), in its order."""


def llama_tests(document: BenchDocument) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(render(document, "llama-bench"))
    return found


def test_the_fields_are_llama_bench_s_in_its_order_and_types(document: BenchDocument) -> None:
    found = llama_tests(document)
    assert len(found) == 4
    for test in found:
        assert {name: type(value) for name, value in test.items()} == FIELDS
        assert list(test) == list(FIELDS)


def test_the_samples_are_ours(document: BenchDocument, record: BenchRecord) -> None:
    prompt, new = llama_tests(document)[:2]
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["n_depth"]) == (8, 0, 0)
    assert prompt["samples_ns"] == [round(1e9 * seconds) for seconds in record.raw["prefill_seconds"]]
    assert prompt["samples_ts"] == pytest.approx([8 / seconds for seconds in record.raw["prefill_seconds"]])
    assert (new["n_prompt"], new["n_gen"], new["n_depth"]) == (0, 2, 8)
    assert new["samples_ts"] == pytest.approx(record.raw["decode_tokens_per_second"])
    for test in (prompt, new):
        assert test["avg_ns"] == int(statistics.fmean(test["samples_ns"]))
        assert test["stddev_ns"] == int(statistics.stdev(test["samples_ns"]))
        assert test["avg_ts"] == pytest.approx(statistics.fmean(test["samples_ts"]))
        assert test["stddev_ts"] == pytest.approx(statistics.stdev(test["samples_ts"]))


def test_what_the_engine_says_is_used_and_what_is_unknown_is_neutral(document: BenchDocument) -> None:
    known, _, other, _ = llama_tests(document)
    assert (known["model_type"], known["model_n_params"], known["model_size"]) == ("llama 1B Q4_0", 1000, 100_000_000)
    assert (known["n_batch"], known["n_ubatch"], known["type_k"], known["flash_attn"]) == (256, 128, "f16", -1)
    assert (known["backends"], known["build_commit"], known["test_time"]) == ("CPU", "unknown", "2026-01-31T12:00:00Z")
    assert (other["backends"], other["build_commit"], other["model_type"]) == ("onnxruntime", "unknown", "")
    assert (other["model_n_params"], other["n_batch"], other["type_k"]) == (0, 0, "")


def test_one_repetition_deviates_by_nothing_and_no_repetition_is_no_test(document: BenchDocument) -> None:
    record = document.results[0]
    raw = {**record.raw, "prefill_seconds": [0.5], "decode_tokens_per_second": [], "inter_token_seconds": []}
    single = document.model_copy(update={"results": (record.model_copy(update={"raw": raw}),)})
    (test,) = llama_tests(single)
    assert (test["stddev_ns"], test["stddev_ts"]) == (0, 0.0)
    assert llama_tests(document.model_copy(update={"results": ()})) == []
