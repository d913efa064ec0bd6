"""The share of the possible: a decode rate beside what this device's memory allows for this file."""

from __future__ import annotations

from edgestill.bench_results import Roofline
from edgestill.errors import ModelFileError
from edgestill.figure import Figure
from edgestill.runtime.bandwidth import last_level_cache, read_bandwidth
from edgestill.runtime.environment import usable_memory
from edgestill.runtime.model_source import ModelSource
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
    bandwidth = read_bandwidth(threads, usable_memory(), cache)
    ceiling = (bandwidth.value or 0.0) / moved
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
