"""Derived rates: marked, with their error, and moving the right way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.devices.derive import derive_decode, derive_prefill, ttft
from edgestill.devices.profile import Profile, find_profile, shipped_profiles
from edgestill.figure import Figure
from tests.devices.made_up import made_up_facts, made_up_profile


def with_products(profile: Profile, *products: tuple[str, list[tuple[int, float, float]]]) -> Profile:
    """Return the profile with products: of each kind of weights (threads, bytes read, bytes a second)."""
    rows = [
        {"weights": weights, "threads": threads, "read_bytes": size, "value": rate, "error": 0.1}
        | {"basis": "measured", "source": "made up"}
        for weights, known in products
        for threads, size, rate in known
    ]
    return Profile.model_validate({**profile.model_dump(by_alias=True), "products": rows})


def value(figure: Figure) -> float:
    assert figure.value is not None
    return figure.value


def test_a_derived_rate_says_that_it_is_and_how_wrong_it_may_be() -> None:
    for figure in (
        derive_decode(made_up_facts(), made_up_profile(), threads=4, positions=100),
        derive_prefill(made_up_facts(), made_up_profile(), threads=4, prompt_tokens=100),
    ):
        assert figure.basis == "derived"
        assert figure.ci95 is not None
        assert figure.ci95[0] < value(figure) < figure.ci95[1]
        assert "roofline on measured figures of board" in figure.source
        assert "stated error" in figure.source


def test_memory_alone_sets_the_rate_of_a_device_that_computes_at_no_cost() -> None:
    profile = made_up_profile(float32_ops_per_second=1e18, float32_ops_one_core_per_second=1e18)
    facts = made_up_facts(megabytes=1000, kv_values=0, layers=0)
    rate = value(derive_decode(facts, profile, threads=4, positions=1))
    assert rate == pytest.approx(8e9 / 1.1e9, rel=0.01)


@given(st.integers(1, 4), st.integers(1, 4000), st.integers(0, 4000), st.sampled_from(["gguf", "onnx"]))
def test_a_longer_context_never_decodes_faster(threads: int, positions: int, more: int, kind: str) -> None:
    facts = made_up_facts(kind=kind)
    first, later = (
        value(derive_decode(facts, made_up_profile(), threads=threads, positions=depth))
        for depth in (positions, positions + more)
    )
    assert later <= first


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_a_larger_model_never_decodes_faster(megabytes: int, more: int) -> None:
    small, large = (
        value(
            derive_decode(made_up_facts(megabytes=size), made_up_profile(last_cache_bytes=0), threads=2, positions=50)
        )
        for size in (megabytes, megabytes + more)
    )
    assert large <= small


@pytest.mark.parametrize("name", shipped_profiles())
def test_more_threads_never_derive_slower(name: str) -> None:
    profile = find_profile(name)
    rates = [
        value(derive_decode(made_up_facts(), profile, threads=threads, positions=100))
        for threads in range(1, profile.cores + 1)
    ]
    assert rates == sorted(rates)


def test_llama_cpp_computes_attention_for_whole_blocks() -> None:
    def rate(kind: str, positions: int) -> float:
        return value(derive_decode(made_up_facts(kind=kind), made_up_profile(), threads=1, positions=positions))

    assert rate("gguf", 1) == rate("gguf", 128) > rate("gguf", 256)
    assert rate("onnx", 1) > rate("onnx", 128)


def test_what_of_a_head_does_not_fill_a_vector_costs_more() -> None:
    def seconds(size: int, kind: str = "gguf", kv_precision: str | None = None) -> float:
        facts = made_up_facts(kind=kind, heads=8, pair_operations=4.0 * 20 * 8 * size)
        figure = derive_decode(facts, made_up_profile(), threads=1, positions=1000, kv_precision=kv_precision)
        return 1 / value(figure)

    assert seconds(80) > seconds(96)  # of NEON's 32 values a step
    assert seconds(80, kv_precision="q8_0") < seconds(96, kv_precision="q8_0")
    assert seconds(80, "onnx") < seconds(96, "onnx")


def test_what_a_cache_holds_is_read_while_the_engine_computes() -> None:
    facts = made_up_facts(kind="onnx", megabytes=20, kv_values=0, layers=0, pair_operations=0.0)
    cache = {"cached_bytes": 30e6} | {
        f"cached_read_bandwidth_{of}bytes_per_second": rate for of, rate in (("", 20e9), ("one_core_", 10e9))
    }
    seconds = [
        1 / value(derive_decode(facts, made_up_profile(**cache | {"cached_bytes": size}), threads=1, positions=1))
        for size in (30e6, 22e6, 16e6, 11e6)
    ]
    assert seconds == sorted(seconds)
    engine = 40e-6 * 1.3
    memory, read = 22e6 / 4e9, 22e6 / 10e9
    arithmetic = facts.decode_operations / (10e9 * 0.85 * 2)
    assert seconds[0] == seconds[1] == pytest.approx(max(read, arithmetic) + 0.3 * min(read, arithmetic) + engine)
    assert seconds[3] == pytest.approx(memory + arithmetic + engine)
    unmeasured = derive_decode(facts, made_up_profile(cached_bytes=30e6), threads=1, positions=1)
    assert 1 / value(unmeasured) == pytest.approx(memory + arithmetic + engine)


def test_a_cpu_quota_takes_its_share_of_the_rate() -> None:
    whole, half, plenty = (
        value(derive_decode(made_up_facts(), made_up_profile(), threads=2, positions=100, quota=quota))
        for quota in (None, 1.0, 4.0)
    )
    # Less than its share: threads that wait for each other use the quota up too.
    assert 0.6 * whole / 2 < half < whole / 2
    assert plenty == whole


def test_a_short_prompt_is_within_the_quota() -> None:
    def rate(tokens: int, quota: float | None) -> float:
        facts = made_up_facts(megabytes=10)
        return value(derive_prefill(facts, made_up_profile(), threads=2, prompt_tokens=tokens, quota=quota))

    assert rate(2, 1.0) == rate(2, None)
    shares = [rate(tokens, 1.0) / rate(tokens, None) for tokens in (2, 50, 500, 50_000)]
    assert shares == sorted(shares, reverse=True)
    assert 0.3 < shares[-1] < 0.5


def test_measured_products_say_what_weights_take() -> None:
    facts = made_up_facts(megabytes=1000, kv_values=0, layers=0, weight_bytes=1_100_000_000)
    q4_0, f16 = ((weights, [(1, 1e9, 2e9), (4, 1e9, speed)]) for weights, speed in (("q4_0", 4e9), ("f16", 10e9)))
    profile = with_products(
        made_up_profile(float32_ops_per_second=1e18, float32_ops_one_core_per_second=1e18), q4_0, f16
    )
    figure = derive_decode(facts, profile, threads=4, positions=1)
    # 1,000 MB of q4_0 and a head of 100 MB of f16, slower as they lie in a file, and what an engine needs for a token.
    assert 1 / value(figure) == pytest.approx(1.3 / 4 + 1.15 * 0.1 / 10 + 15e-6 * 1.3, rel=1e-4)
    assert "llama.cpp's products and a roofline on measured figures of board" in figure.source
    one = value(derive_decode(facts, profile, threads=1, positions=1))
    assert 1 / one == pytest.approx(1.3 / 2 + 1.15 * 0.1 / 2 + 15e-6 * 1.3, rel=1e-4)
    # An ONNX file is another engine's, and of two threads or of f32 nothing is known.
    for other in (made_up_facts(kind="onnx"), made_up_facts(type=0)):
        assert "; roofline" not in derive_decode(other, profile, threads=4, positions=1).source
        assert derive_decode(other, profile, threads=4, positions=1).source.startswith("roofline on")


def test_weights_whose_products_are_not_measured_are_less_sure() -> None:
    profile = with_products(made_up_profile(), ("q4_0", [(1, 1e9, 2e9)]), ("f16", [(1, 1e9, 2e9)]))
    widths = []
    for kind in (2, 12):  # q4_0, q4_K
        figure = derive_decode(made_up_facts(type=kind), profile, threads=1, positions=1)
        assert figure.source.startswith("llama.cpp's products")
        assert figure.ci95 is not None
        widths.append(figure.ci95[1] / figure.ci95[0])
    assert widths[0] < widths[1]


def test_products_lie_between_those_of_two_sizes() -> None:
    profile = with_products(made_up_profile(), ("f16", [(1, 1e6, 8e9), (1, 1e8, 2e9), (4, 1e6, 2e10), (4, 1e8, 5e9)]))
    sizes = (1, 1e6, 1e7, 1e8, 1e9)
    rates = [rate.value for size in sizes if (rate := profile.product_rate("f16", 1, size)) is not None]
    assert rates == pytest.approx([8e9, 8e9, 4e9, 2e9, 2e9])
    two = profile.product_rate("f16", 2, 1)
    assert two is not None
    assert two.value == 16e9
    assert profile.product_rate("q8_0", 1, 1) is None


def test_figures_that_are_known_less_well_widen_the_interval() -> None:
    def width(error: float) -> float:
        profile = made_up_profile()
        worse = {key: one.model_copy(update={"error": error}) for key, one in profile.figures().items()}
        figure = derive_decode(made_up_facts(), profile.model_copy(update=worse), threads=4, positions=100)
        assert figure.ci95 is not None
        return figure.ci95[1] / figure.ci95[0]

    assert width(0.0) < width(0.3) < width(0.6)


def test_a_profile_without_a_rate_gives_a_missing_figure_with_the_reason() -> None:
    profile = made_up_profile(read_bandwidth_bytes_per_second=0, read_bandwidth_one_core_bytes_per_second=0)
    figure = derive_decode(made_up_facts(), profile, threads=1, positions=10)
    assert figure.value is None
    assert "board" in figure.source
    prefill = derive_prefill(made_up_facts(prompt=None), made_up_profile(), threads=1, prompt_tokens=10)
    assert prefill.value is None
    assert ttft(prefill, figure, 10).value is None


def test_the_first_token_takes_the_prompt_and_one_step() -> None:
    prefill = Figure(value=100.0, unit="tokens/s", n=1, ci95=(50.0, 200.0))
    decode = Figure(value=10.0, unit="tokens/s", n=1, ci95=(5.0, 20.0))
    figure = ttft(prefill, decode, 200)
    assert value(figure) == pytest.approx(2.1)
    assert figure.ci95 == pytest.approx((1.05, 4.2))
    assert figure.basis == "derived"
