"""The share of the possible: decoding beside what memory allows for this file, prompts beside arithmetic."""

from __future__ import annotations

from edgestill.bench_results import PromptCeiling, Roofline
from edgestill.errors import ModelFileError
from edgestill.figure import Figure
from edgestill.runtime.arithmetic import float32_rate
from edgestill.runtime.bandwidth import last_level_cache, read_bandwidth
from edgestill.runtime.environment import usable_memory
from edgestill.runtime.model_source import ModelSource
from edgestill.runtime.operations import prompt_operations
from edgestill.runtime.traffic import model_traffic


def roofline(
    source: ModelSource,
    decode: Figure,
    *,
    threads: int,
    positions: float,
    kv_bytes: float = 2,
    cache_bytes: int | None = None,
) -> Roofline | None:
    """Measure this device's read bandwidth and set a decode rate beside it; None where the file's bytes aren't known.

    ``positions`` is the mean number of positions in the KV cache while decoding, ``kv_bytes`` the size of a value in
    llama.cpp's (an ONNX file says its own), ``cache_bytes`` the size of the last cache (None: the system's own word).
    A model that lies in that cache gets no share: its ceiling isn't the memory.
    """
    try:
        traffic = model_traffic(source, kv_bytes)
    except ModelFileError:
        return None  # an engine may read what we can't: its rates stand without a ceiling
    if traffic is None:
        return None
    cache = last_level_cache() if cache_bytes is None else cache_bytes
    moved = traffic.at(positions)
    per_token = Figure(
        value=moved,
        unit="bytes",
        n=1,
        basis="derived",
        source=f"{traffic.weights} of weights, {traffic.cached} for each of {positions:g} positions in the KV cache",
    )
    if cache is not None and moved <= cache:
        why = f"{moved / 1e6:.1f} MB a token lie in the last cache of {cache / 1e6:.1f} MB: memory isn't the limit"
        missing = Figure.missing
        return Roofline(
            bytes_per_token=per_token,
            read_bandwidth=missing("bytes/s", f"not measured: {why}"),
            ceiling_tokens_per_second=missing("tokens/s", why),
            share_of_ceiling=missing("fraction", why),
        )
    bandwidth = read_bandwidth(threads, usable_memory(), cache, moved)
    ceiling = None if bandwidth.value is None else bandwidth.value / moved
    derived = "read bandwidth / bytes per token"
    share = None if decode.value is None or not ceiling else decode.value / ceiling
    beyond = (
        "; above 1: the device read slower just then than while it decoded" if share is not None and share > 1 else ""
    )
    return Roofline(
        bytes_per_token=per_token,
        read_bandwidth=bandwidth,
        ceiling_tokens_per_second=Figure(
            value=ceiling, unit="tokens/s", n=bandwidth.n, basis="derived", source=derived
        ),
        share_of_ceiling=Figure(
            value=share, unit="fraction", n=decode.n, basis="derived", source=f"decode rate / ({derived}){beyond}"
        ),
    )


def prompt_ceiling(
    source: ModelSource, prefill: Figure, *, threads: int, tokens: int, depth: int = 0
) -> PromptCeiling | None:
    """Measure this device's float32 arithmetic and set a prefill rate beside it; None where operations aren't known.

    ``tokens`` of a prompt are read after ``depth`` others.
    """
    try:
        operations = prompt_operations(source)
    except ModelFileError:
        return None
    if operations is None:
        return None
    each = operations.each(tokens, depth)
    counted = f"{operations.per_token:g} with weights a token, {operations.per_prompt:g} a prompt, and attention's"
    rate = float32_rate(threads)
    per_second = rate.value or 0.0
    if integers := operations.integer / operations.per_token:
        why = f"{integers:.0%} of the operations are products of 8-bit integers, which may be faster than float32's"
        ceiling = Figure.missing("tokens/s", why)
    else:
        why = "operations at the rate of prefill / float32 rate"
        ceiling = Figure(
            value=per_second / each if per_second else None,
            unit="tokens/s",
            n=rate.n,
            basis="derived",
            source="float32 rate / operations per token",
        )
    share = prefill.value * each / per_second if prefill.value is not None and per_second else None
    return PromptCeiling(
        operations_per_token=Figure(value=each, unit="operations", n=1, basis="derived", source=counted),
        float32_rate=rate,
        ceiling_tokens_per_second=ceiling,
        share_of_float32_rate=Figure(value=share, unit="fraction", n=prefill.n, basis="derived", source=why),
    )
