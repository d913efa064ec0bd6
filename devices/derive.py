"""Rates that nobody measured, derived from a profile: how long a token takes, and how surely that is known.

A decoded token takes the time to read its weights and keys and values from memory, the time to compute with them, and
what an engine needs for each token and layer besides (Williams et al., "Roofline", 2009, with both sides added rather
than the larger taken: kernels for few bits keep neither memory nor arithmetic waiting for the other). A model that
would lie in half of the last cache is taken to be read at the rate that was measured for as much, one that is larger
than the cache at the memory's, and one between in part at each: a machine that is shared has less of a cache than it
says. What comes from a cache is fetched while the engine computes, most of it.

Where the profile has llama.cpp's own products, measured over as much as such a model has, a GGUF file's weights take
the time that those say, and no roofline is needed for them; those of types that weren't measured take that of as many
bits, and are less sure.

Attention while decoding costs a call for each head, layer and position besides its arithmetic; llama.cpp computes it
for whole blocks of 256 positions, and what of a head doesn't fill its vectors value by value.

What share of a device's float32 rate the engines' kernels reach was measured on x86-64 with AVX-512 (models of 260
thousand and 135 million parameters, one thread, prompts of 64 to 2,032 tokens); for other vector extensions it is
estimated, and its error said to be larger. A derived figure's ``ci95`` is its stated error: of ten such intervals nine
shall hold what is measured. Under a CPU quota a rate of decoding is that of a device that is kept busy; of a prompt,
what fits into half of one period's quota isn't slowed: so much is left when it comes, on average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from edgestill.devices.model_facts import ModelFacts, Weights
from edgestill.devices.profile import RUNNER_SOURCE, Profile, ProfileFigure
from edgestill.figure import Figure
from edgestill.runtime.gguf_header import TENSOR_BLOCKS
from edgestill.runtime.products import ProductWeights

_CLOCK_MHZ: Final = 2600.0
"""The clock at which the engines' own costs were measured; they grow as another is slower."""
_UNSTATED: Final = 0.3
"""The error of a profile's figure that doesn't state one."""
_PRODUCTS_ERROR: Final = 0.4
"""With llama.cpp's own products measured; set on an Intel processor by models of 15 and 135 million parameters. On an
AMD one whose cache holds three million, those were derived at a half: then what an engine takes besides was set again
(0.3 to 135 million parameters, 64 to 1,600 tokens of context, one thread and two): 107 of those 114 rates are held.
"""
_MODEL_ERROR: Final = 0.6
"""On an AMD processor with AVX-512, by which the shares below were set, nine of ten rates lay within 0.4. On an Intel
one 36 of 36 of models of 15 and 60 million parameters lay within this, but of 135 million in GGUF 1 of 9: llama.cpp
read them at a third to a half of the rate that a plain reader had then. Hence the products.
"""
_PROMPT_ERROR: Final = 0.9
"""The shares of a prompt are three quarters of an AMD processor's, by which an Intel one's prompts (15 and 135 million
parameters, without a quota) came out 1.1 to 1.8 times too fast in GGUF and 1.2 to 2.3 in ONNX: its BLAS, which the
float32 rate is of, is further ahead of the engines' kernels.
"""
_HELD: Final = 0.85
"""What is left of the share of time under a CPU quota: threads that wait for each other at every product use the quota
up while they do. At half of two threads it was 0.77 for 12 pairs of models of 15 and 135 million parameters on an Intel
processor, and 1.0 (0.8 to 1.2) for 10 of 3 and 60 million on an AMD one.
"""
_PERIOD_SECONDS: Final = 0.1
"""The kernel's period of a CPU quota, unless somebody set another."""
_HIDDEN: Final = 0.7
"""How much of the shorter of the two, reading from a cache and computing, passes while the other does."""
_MAPPED: Final[Mapping[ProductWeights, float]] = {"f32": 1.15, "f16": 1.15, "q8_0": 1.3, "q4_0": 1.3}
"""What products of a file's weights take of the measured ones', whose matrices are larger and no file's pages. From
memory 1.1 to 1.2 in f16, 1.2 to 1.6 in fewer bits (15 to 135 million parameters on an AMD processor), from a cache 1.0.
"""
_KV_BLOCK: Final = 256
"""Positions: llama.cpp computes attention over so many more at a time, be there tokens or not."""
_MEASURED_TYPES: Final = frozenset((0, 1, 2, 8))
"""ggml's numbers of f32, f16, q4_0 and q8_0."""
_ESTIMATED_ERROR: Final = 0.5
_COST_ERROR: Final = 0.6


@dataclass(frozen=True)
class Share:
    """What an engine's kernels reach of a device's float32 rate, while decoding and in a prompt."""

    decode: float
    prompt: float


_SHARES: Final[Mapping[tuple[str, str], Share]] = {
    ("gguf", "int4"): Share(0.75, 0.8),
    ("gguf", "int8"): Share(0.42, 0.62),
    ("gguf", "f16"): Share(0.38, 0.48),
    ("gguf", "f32"): Share(0.33, 0.48),
    ("onnx", "int4"): Share(0.85, 0.9),
    ("onnx", "int8"): Share(1.0, 1.05),
    ("onnx", "f16"): Share(0.32, 0.68),
    ("onnx", "f32"): Share(0.32, 0.72),
}
_MEASURED_BY_ENGINE: Final = 0.64
"""What the runner's own float32 product, which is llama.cpp's, reaches of the rate that shares are of: a BLAS's."""
_ATTENTION: Final[Mapping[str, Share]] = {"gguf": Share(0.7, 0.25), "onnx": Share(0.7, 0.6)}
_CALL: Final = 3e-9
"""Seconds of one thread for a head's score with one position."""
_LEFT_OVER: Final = 0.7e-9
"""And for each value of a head that doesn't fill llama.cpp's last step of vectors, which it takes one by one: twice
that where keys and values lie far. (Set by heads of 8, 16, 32 and 80 values; those of 96 took twice more.)
"""
_STEP: Final = (("avx512f", 64), ("avx2", 32), ("neon", 32))
"""Values in a step, by what a device has."""
_NEAR: Final = 4 << 20
"""Bytes of keys and values that don't lie far, of which a core's own cache holds the most."""
_KV_READING: Final[Mapping[str, float]] = {"gguf": 0.5, "onnx": 0.8}
"""What of the read bandwidth attention reaches while it reads keys and values, whose rows are short or far apart."""


@dataclass(frozen=True)
class Cost:
    """Seconds that an engine takes besides: for each token, each layer of it, and each layer of a prompt's token.

    ``waiting`` is what a layer takes besides when threads wait for each other at its products.
    """

    token: float
    layer: float
    waiting: float
    prompt: float


_COSTS: Final[Mapping[str, Cost]] = {
    "gguf": Cost(15e-6, 12e-6, 20e-6, 3.3e-6),
    "onnx": Cost(40e-6, 8e-6, 15e-6, 0.4e-6),
}
_WAITING_ERROR: Final = 0.6
"""Of two threads. It took 8 to 34 us a layer on one machine, by the luck of a process, and 30 on another."""

_INTEGER: Final = (("avx512_vnni", 1.0, 0.0), ("i8mm", 3.0, 0.5), ("dotprod", 2.0, 0.5), ("avx2", 1.0, 0.5))
"""How much faster or slower products of few bits are beside float32 than there, the first that a device has, and the
error of that: dot products of bytes do 4 times as many multiplications in an instruction, of which AVX-512's float32
makes up more than narrow vectors' does.
"""
_NO_DOT_PRODUCTS: Final = (0.6, 0.5)


@dataclass(frozen=True)
class Term:
    """A part of a token's time in seconds, with the relative error of what it was computed from."""

    name: str
    seconds: float
    error: float


def derive_decode(
    facts: ModelFacts,
    profile: Profile,
    *,
    threads: int,
    positions: float,
    kv_precision: str | None = None,
    quota: float | None = None,
) -> Figure:
    """Return the tokens a second that a device decodes with so many positions in the KV cache, derived.

    ``quota`` limits all threads together to so many cores. The figure is missing, and says why, where the profile
    lacks a rate.
    """
    weights = float(facts.weight_bytes)
    if facts.kind == "gguf":  # on average half of a block is empty
        positions = max(_KV_BLOCK, positions + _KV_BLOCK / 2)
    cached = facts.kv_values * facts.kv_bytes(kv_precision) * positions
    bandwidth, rate = profile.read_bandwidth(threads, weights + cached), _float32_rate(profile, threads)
    if bandwidth is None or rate is None:
        return _lacking(profile, threads, bandwidth)
    attention, cost = _ATTENTION[facts.kind], _COSTS[facts.kind]
    products = _products(facts, profile, threads, weights + cached)
    if products is not None:
        terms = [products]
    else:
        terms = _roofline(facts, profile, bandwidth, rate, share_in_cache=profile.share_in_cache(weights + cached))
    calls = facts.heads * facts.layers * positions / threads * _slower(profile)
    calls *= _CALL + _left_over(facts, profile, kv_precision) * _LEFT_OVER * (1 + min(1.0, cached / _NEAR))
    computed = facts.pair_operations * positions / (rate.value * attention.decode)
    terms += [
        Term("KV cache", cached / (bandwidth.value * _KV_READING[facts.kind]), _error(bandwidth)),
        Term("attention", calls + computed, math.hypot(_error(rate), _cost_error(profile))),
        Term("engine", (cost.token + cost.layer * facts.layers) * _slower(profile), _cost_error(profile)),
    ]
    if threads > 1:
        waiting = cost.waiting * facts.layers * _slower(profile)
        terms.append(Term("waiting", waiting, math.hypot(_WAITING_ERROR, _cost_error(profile))))
    share_of_time = _share_of_time(threads, quota)
    if products is not None:
        how = "llama.cpp's products and a roofline"
        model_error = _PRODUCTS_ERROR if _all_measured(facts) else _MODEL_ERROR
        return _rate(terms, model_error, share_of_time, profile, bandwidth, rate, how=how)
    return _rate(terms, _MODEL_ERROR, share_of_time, profile, bandwidth, rate)


def _roofline(
    facts: ModelFacts, profile: Profile, bandwidth: ProfileFigure, rate: ProfileFigure, *, share_in_cache: float
) -> list[Term]:
    """Return the time of reading a token's weights, less what of it passes while the engine computes, and of that."""
    factor, factor_error = _integer(facts, profile)
    share = _SHARES[facts.kind, facts.kernel()].decode
    memory = facts.weight_bytes / bandwidth.value
    arithmetic = facts.decode_operations / (rate.value * share * factor)
    hidden = share_in_cache * _HIDDEN * min(memory, arithmetic)
    return [
        Term("memory", memory - hidden, _error(bandwidth)),
        Term("arithmetic", arithmetic, math.hypot(_error(rate), factor_error)),
    ]


def _left_over(facts: ModelFacts, profile: Profile, kv_precision: str | None) -> float:
    """Return how many values of a head llama.cpp multiplies one by one; quantised caches have whole blocks only."""
    if facts.kind != "gguf" or kv_precision in ("q8_0", "q4_0"):
        return 0.0
    step = next((step for name, step in _STEP if name in profile.isa_features), 1)
    return facts.pair_operations / (4 * facts.heads * facts.layers) % step if facts.layers else 0.0


def _products(facts: ModelFacts, profile: Profile, threads: int, read_bytes: float) -> Term | None:
    """Return the time of a GGUF file's products, from llama.cpp's own as the profile has them; None where it hasn't."""
    if facts.kind != "gguf":
        return None
    counted, seconds, error = 0, 0.0, 0.0
    from_memory = 1 - profile.share_in_cache(read_bytes)
    for weights in _multiplied(facts):
        kind = _nearest(weights.type)
        rate = profile.product_rate(kind, threads, read_bytes)
        if rate is None:
            return None
        counted += weights.products
        seconds += weights.products / rate.value * (1 + (_MAPPED[kind] - 1) * from_memory)
        error = max(error, _error(rate))
    return Term("products", seconds * facts.weight_bytes / counted, error)


def _multiplied(facts: ModelFacts) -> tuple[Weights, ...]:
    return facts.weights if facts.head is None else (*facts.weights, facts.head)


def _all_measured(facts: ModelFacts) -> bool:
    """Return whether each of the weights is of a type whose products are measured, and not only of about its bits."""
    return all(weights.type in _MEASURED_TYPES for weights in _multiplied(facts))


def _nearest(kind: int) -> ProductWeights:
    """Return the measured weights of as many bits as ggml's type, or the next."""
    weights, block = TENSOR_BLOCKS.get(kind, (1, 1))
    bits = 8 * block / weights
    return "q4_0" if bits < 6 else "q8_0" if bits < 12 else "f16" if bits < 24 else "f32"


def derive_prefill(
    facts: ModelFacts,
    profile: Profile,
    *,
    threads: int,
    prompt_tokens: int,
    depth: int = 0,
    quota: float | None = None,
) -> Figure:
    """Return the tokens of a prompt a second that a device reads after ``depth`` others, derived."""
    rate = _float32_rate(profile, threads)
    if rate is None:
        return _lacking(profile, threads, rate)
    if facts.prompt is None:
        return Figure.missing("tokens/s", "the operations of a prompt aren't known of this file")
    share, attention, cost = _SHARES[facts.kind, facts.kernel()], _ATTENTION[facts.kind], _COSTS[facts.kind]
    factor, factor_error = _integer(facts, profile)
    operations = facts.prompt
    each = operations.per_token + operations.per_prompt / prompt_tokens
    pairs = operations.per_pair * (depth + (prompt_tokens + 1) / 2)
    terms = [
        Term("arithmetic", each / (rate.value * share.prompt * factor), math.hypot(_error(rate), factor_error)),
        Term("attention", pairs / (rate.value * attention.prompt), _error(rate)),
        Term("engine", cost.prompt * facts.layers * _slower(profile), _cost_error(profile)),
    ]
    seconds = prompt_tokens * sum(term.seconds for term in terms)
    return _rate(terms, _PROMPT_ERROR, _share_of_prompt(threads, quota, seconds), profile, rate)


def ttft(prefill: Figure, decode: Figure, prompt_tokens: int) -> Figure:
    """Return the seconds to the first token of an answer from both rates, with the interval that theirs give."""
    if not prefill.value or not decode.value:
        return Figure.missing("seconds", prefill.source if not prefill.value else decode.source)

    def seconds(of_prompt: float, of_answer: float) -> float:
        return prompt_tokens / of_prompt + 1 / of_answer

    interval = None
    if prefill.ci95 and decode.ci95:
        slow, fast = (seconds(prefill.ci95[end], decode.ci95[end]) for end in (0, 1))
        interval = (fast, slow)
    return Figure(
        value=seconds(prefill.value, decode.value),
        unit="seconds",
        n=1,
        ci95=interval,
        basis="derived",
        source=f"{prompt_tokens} tokens at the rate of prefill, and one token's decoding",
    )


def _rate(
    terms: list[Term],
    model_error: float,
    share_of_time: float,
    profile: Profile,
    *used: ProfileFigure,
    how: str = "roofline",
) -> Figure:
    total = sum(term.seconds for term in terms)
    error = math.sqrt(model_error**2 + sum((term.seconds / total * term.error) ** 2 for term in terms))
    value = share_of_time / total
    parts = ", ".join(f"{term.name} {term.seconds * 1e3:.3g} ms" for term in terms if term.seconds)
    worst = next(basis for basis in ("estimated", "derived", "measured") if any(one.basis == basis for one in used))
    held = "" if share_of_time == 1 else f", {share_of_time:.0%} of the time by its CPU quota"
    return Figure(
        value=value,
        unit="tokens/s",
        n=1,
        ci95=(value / (1 + error), value * (1 + error)),
        basis="derived",
        source=f"{how} on {worst} figures of {profile.name}: {parts} a token{held}; stated error {error:.0%}",
    )


def _float32_rate(profile: Profile, threads: int) -> ProfileFigure | None:
    """Return the rate of a good BLAS; where the runner measured it, from what llama.cpp's product reaches of that."""
    rate = profile.float32_rate(threads)
    if rate is None or RUNNER_SOURCE not in rate.source:
        return rate
    return rate.model_copy(update={"value": rate.value / _MEASURED_BY_ENGINE})


def _lacking(profile: Profile, threads: int, bandwidth: ProfileFigure | None) -> Figure:
    what = "float32 rate" if bandwidth is not None else "read bandwidth or float32 rate"
    return Figure.missing("tokens/s", f"the profile {profile.name} has no {what} of {threads} threads")


def _integer(facts: ModelFacts, profile: Profile) -> tuple[float, float]:
    """Return the factor of products of few bits on this device, and its relative error."""
    if facts.kernel() in ("f16", "f32"):
        return 1.0, 0.0 if "avx512f" in profile.isa_features else _ESTIMATED_ERROR / 2
    known: Iterator[tuple[float, float]] = (
        (factor, error) for name, factor, error in _INTEGER if name in profile.isa_features
    )
    return next(known, _NO_DOT_PRODUCTS)


def _error(figure: ProfileFigure) -> float:
    return _UNSTATED if figure.error is None else figure.error


def _slower(profile: Profile) -> float:
    clock = profile.clusters[0].max_mhz
    return 1.0 if clock is None else max(1.0, _CLOCK_MHZ / clock)


def _cost_error(profile: Profile) -> float:
    return _COST_ERROR if profile.isa != "x86_64" else 0.0


def _share_of_time(threads: int, quota: float | None) -> float:
    """Return the share of the time that threads get anything done in under a CPU quota, over many of its periods."""
    return 1.0 if quota is None or quota >= threads else quota / threads * _HELD


def _share_of_prompt(threads: int, quota: float | None, seconds: float) -> float:
    """Return the share of the time that work of so many seconds gets that comes at any time in a quota's period."""
    share = _share_of_time(threads, quota)
    if quota is None or share == 1 or seconds <= 0:
        return share
    free = min(seconds, quota * _PERIOD_SECONDS / threads / 2)
    return seconds / (free + (seconds - free) / share)
