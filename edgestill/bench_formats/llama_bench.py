"""llama-bench's JSON: what ``llama-bench -o json`` of llama.cpp writes, so that tools for it read our results.

For each model two tests: ``pp`` (``n_prompt`` tokens read at once) and ``tg`` (``n_gen`` tokens, one a step). Ours
follow a prompt, which llama-bench calls a depth: ``n_depth`` of the tg test is the prompt's length, and the first
token, which the prompt itself gives, isn't among its ``n_gen``. A step has the drawing of the token in it; in
llama-bench it hasn't.

Fields that llama-bench fills from options which we don't have get the value of its default: ``cpu_mask`` 0x0,
``cpu_strict`` false, ``poll`` 50, ``n_cpu_moe`` 0, ``split_mode`` layer, ``main_gpu`` 0, ``no_kv_offload`` false,
``devices`` auto, ``tensor_split`` 0.00, ``tensor_buft_overrides`` none, ``load_mode`` and ``lazy_mode`` auto,
``embeddings``, ``no_host`` false, ``no_op_offload`` 0, ``repack`` true, ``fit_target`` and ``fit_min_ctx`` 0. What
isn't known is what llama-bench itself writes then: ``build_commit`` unknown, ``build_number`` 0, ``gpu_info`` empty;
and ``model_type``, ``type_k``, ``type_v``, ``test_time`` empty, ``model_n_params``, ``n_batch``, ``n_ubatch`` 0.
``backends`` is CPU, and for another engine than llama.cpp its name; ``n_gpu_layers`` is 0, as nothing runs elsewhere.

Models of which nothing was measured aren't in it: llama-bench has no form for them.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from edgestill.bench_formats import register
from edgestill.bench_results import BenchDocument, BenchRecord, EngineBuild

_NANOSECONDS: Final = 1e9
_FLASH_ATTENTION: Final = {"off": 0, "on": 1}
_DEFAULTS: Final[Mapping[str, object]] = {
    "n_gpu_layers": 0,
    "n_cpu_moe": 0,
    "split_mode": "layer",
    "main_gpu": 0,
    "no_kv_offload": False,
}
_LATER_DEFAULTS: Final[Mapping[str, object]] = {
    "devices": "auto",
    "tensor_split": "0.00",
    "tensor_buft_overrides": "none",
    "load_mode": "auto",
    "lazy_mode": "auto",
    "embeddings": False,
    "no_op_offload": 0,
    "no_host": False,
    "repack": True,
    "fit_target": 0,
    "fit_min_ctx": 0,
}


@register("llama-bench")
def render_llama_bench(document: BenchDocument) -> str:
    """Return a JSON array with a pp and a tg test of each model, as far as their repetitions finished."""
    tests = [test for record in document.results for test in _tests(record, document)]
    return json.dumps(tests, indent=2) + "\n"


def _tests(record: BenchRecord, document: BenchDocument) -> Iterator[dict[str, object]]:
    prefill = record.raw.get("prefill_seconds", [])
    rates = record.raw.get("decode_tokens_per_second", [])
    if prefill:
        yield _test(record, document, prompt=record.prompt_tokens, new=0, depth=record.depth, seconds=prefill)
    if rates and (steps := len(record.raw.get("inter_token_seconds", [])) // len(rates)):
        seconds = [steps / rate for rate in rates]
        yield _test(record, document, prompt=0, new=steps, depth=record.depth + record.prompt_tokens, seconds=seconds)


def _test(
    record: BenchRecord, document: BenchDocument, *, prompt: int, new: int, depth: int, seconds: Sequence[float]
) -> dict[str, object]:
    build = record.engine_build or EngineBuild()
    kv = str(record.settings.get("kv_precision", ""))
    weights = record.weights_bytes.value
    samples = [round(_NANOSECONDS * value) for value in seconds]
    rates = [_NANOSECONDS * (prompt + new) / sample for sample in samples if sample]
    return {
        "build_commit": build.commit or "unknown",
        "build_number": 0,
        "cpu_info": document.environment.cpu,
        "gpu_info": "",
        "backends": "CPU" if record.engine == "llama.cpp" else record.engine,
        "model_filename": record.model,
        "model_type": build.architecture or "",
        "model_size": record.size_bytes if weights is None else round(weights),
        "model_n_params": build.parameters or 0,
        "n_batch": int(build.settings.get("batch", 0)),
        "n_ubatch": int(build.settings.get("micro_batch", 0)),
        "n_threads": record.threads,
        "cpu_mask": "0x0",
        "cpu_strict": False,
        "poll": 50,
        "type_k": kv,
        "type_v": kv,
        **_DEFAULTS,
        "flash_attn": _FLASH_ATTENTION.get(build.settings.get("flash_attention", ""), -1),
        **_LATER_DEFAULTS,
        "n_prompt": prompt,
        "n_gen": new,
        "n_depth": depth,
        "test_time": document.created or "",
        "avg_ns": sum(samples) // len(samples),
        "stddev_ns": math.floor(_deviation(samples)),
        "avg_ts": statistics.fmean(rates) if rates else 0.0,
        "stddev_ts": _deviation(rates),
        "samples_ns": samples,
        "samples_ts": rates,
    }


def _deviation(samples: Sequence[float]) -> float:
    """Return the sample standard deviation, as llama-bench has it: 0 for a single sample."""
    return statistics.stdev(samples) if len(samples) > 1 else 0.0
