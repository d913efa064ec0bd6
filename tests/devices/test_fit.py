"""Will it fit: the verdicts, what they say, and that more is never less."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgestill.bundle import Bundle
from edgestill.devices.fit import Setting, fit, fit_on, largest_context, need_of, packs_anew
from edgestill.devices.fit_bundle import check_fit
from edgestill.devices.model_facts import Weights, read_facts
from edgestill.errors import GateError, UnsupportedError
from edgestill.runtime.model_source import locate_model
from tests.devices.made_up import MEGABYTE, made_up_facts, made_up_profile

ARM, X86, PLAIN = ("neon", "dotprod"), ("avx2", "fma"), ("neon",)
MODELS = st.builds(
    made_up_facts,
    kind=st.sampled_from(["gguf", "onnx"]),
    megabytes=st.integers(1, 4000),
    type=st.sampled_from([1, 2, 8, 12]),
    heads=st.integers(1, 64),
    layers=st.integers(1, 80),
    hidden=st.integers(64, 8192),
    vocabulary=st.integers(256, 256_000),
    kv_values=st.integers(64, 200_000),
)
SETTINGS = st.builds(Setting, st.integers(1, 16_384), st.sampled_from([None, "f32", "f16", "q8_0", "q4_0"]))
MACHINES = st.sampled_from([("aarch64", ARM), ("aarch64", PLAIN), ("x86_64", X86), ("riscv64", ())])


# Pieces get shorter between these two contexts.
@example(made_up_facts(megabytes=1, heads=15, hidden=64), Setting(1887, "f32"), ("aarch64", ARM), 298)
@given(MODELS, SETTINGS, MACHINES, st.integers(0, 4096))
def test_more_context_never_needs_less_memory(facts, setting, machine, more) -> None:  # type: ignore[no-untyped-def]
    longer = Setting(setting.context + more, setting.kv_precision)
    # On x86 a f16 cache is read in another way beyond 256 tokens; it takes more there, never less.
    assert need_of(facts, longer, *machine).total("own") >= need_of(facts, setting, *machine).total("own")


@given(MODELS, SETTINGS, MACHINES, st.floats(1e6, 1e10), st.floats(0, 1e10))
def test_more_free_memory_never_turns_a_fit_into_a_misfit(facts, setting, machine, free, more) -> None:  # type: ignore[no-untyped-def]
    order = ("doesn't fit", "thrashes", "fits")
    less, much = (fit(facts, setting, size, *machine).verdict for size in (free, free + more))
    assert order.index(much) >= order.index(less)


@given(MODELS, SETTINGS, MACHINES, st.floats(1e6, 1e10))
def test_the_largest_context_fits_and_one_token_more_does_not(facts, setting, machine, free) -> None:  # type: ignore[no-untyped-def]
    most = largest_context(facts, setting, free, *machine, longest=16_384)

    def verdict(context: int) -> str:
        return fit(facts, Setting(context, setting.kv_precision), free, *machine).verdict

    if most is None:
        assert verdict(1) != "fits"
    else:
        assert verdict(most) == "fits"
        assert most == 16_384 or verdict(most + 1) != "fits"


@given(MODELS, SETTINGS, MACHINES)
def test_what_is_needed_and_the_peak_have_an_error(facts, setting, machine) -> None:  # type: ignore[no-untyped-def]
    need = need_of(facts, setting, *machine)
    assert 0 < need.total("own") <= (need.needed.value or 0)
    assert need.total("own", "mapped") <= (need.peak.value or 0)
    for figure in (need.needed, need.peak):
        assert figure.basis == "derived"
        assert figure.ci95 is not None
        assert figure.ci95[0] < (figure.value or 0) < figure.ci95[1]


def test_a_quantised_kv_cache_takes_less() -> None:
    facts = made_up_facts()
    sizes = [
        need_of(facts, Setting(4096, precision), "aarch64", ARM).total("own")
        for precision in ("f32", "f16", "q8_0", "q4_0")
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_weights_that_a_processor_packs_anew_are_there_twice_and_needed_once() -> None:
    facts = made_up_facts(megabytes=100)
    twice = need_of(facts, Setting(256), "aarch64", ARM)
    once = need_of(facts, Setting(256), "aarch64", PLAIN)
    assert twice.total() - once.total() == pytest.approx(100 * MEGABYTE)
    assert twice.total("own", "mapped") == pytest.approx(once.total("own", "mapped"))
    assert twice.total("slack") > once.total("slack") > 0
    assert twice.total("reclaimable") == pytest.approx(100 * MEGABYTE)


def test_which_weights_are_packed_anew_is_a_matter_of_the_processor() -> None:
    q4_0, q8_0, f16 = (Weights(kind, 100, 100, 64) for kind in (2, 8, 1))
    assert [packs_anew(one, X86) for one in (q4_0, q8_0, f16)] == [True, False, False]
    assert [packs_anew(one, ARM) for one in (q4_0, q8_0, f16)] == [True, True, False]
    assert not any(packs_anew(one, PLAIN) for one in (q4_0, q8_0, f16))
    assert not packs_anew(Weights(2, 100, 100, 63), X86)


def test_a_mapped_model_larger_than_what_is_left_thrashes() -> None:
    facts = made_up_facts(megabytes=400, type=1, bits=16.0)
    judged = fit(facts, Setting(256), 300e6, "aarch64", PLAIN)
    assert judged.verdict == "thrashes"
    assert "each token reads them from disk again" in judged.reason
    assert fit(facts, Setting(256, mmap=False), 300e6, "aarch64", PLAIN).verdict == "doesn't fit"


def test_the_reason_names_the_largest_part() -> None:
    judged = fit(made_up_facts(megabytes=400), Setting(256), 300e6, "aarch64", ARM)
    assert judged.verdict == "doesn't fit"
    assert "weights packed anew" in judged.reason
    assert "\n" not in judged.reason
    assert judged.largest_context is None


def test_a_margin_within_the_error_is_said_not_to_be_sure() -> None:
    facts = made_up_facts()
    needed = need_of(facts, Setting(512), "aarch64", PLAIN).needed.value or 0.0
    assert not fit(facts, Setting(512), needed + 1e6, "aarch64", PLAIN).likely
    assert fit(facts, Setting(512), 10 * needed, "aarch64", PLAIN).likely


def test_a_device_whose_free_memory_is_not_known_gets_no_verdict() -> None:
    assert fit_on(made_up_facts(), Setting(256), made_up_profile(free_ram_bytes=0)) is None
    assert (judged := fit_on(made_up_facts(), Setting(256), made_up_profile())) is not None
    assert judged.verdict == "fits"


def test_the_facts_of_real_files_are_those_of_their_checkpoint(hostile_bundle: Bundle) -> None:
    gguf, onnx = (read_facts(locate_model(f"{hostile_bundle.folder}#{name}")) for name in ("gguf-f32", "onnx-fp32"))
    assert (gguf.kind, onnx.kind) == ("gguf", "onnx")
    for name in ("layers", "hidden", "vocabulary", "heads", "decode_operations"):
        assert getattr(gguf, name) == getattr(onnx, name), name
    assert gguf.all_float32
    assert onnx.all_float32
    assert (gguf.kernel(), onnx.kernel()) == ("f32", "f32")
    assert gguf.kv_bytes(None) == onnx.kv_bytes(None) == 4.0
    assert gguf.kv_bytes("q8_0") == 34 / 32


def test_a_checkpoint_is_not_sent_to_a_device(tiny_checkpoint: Path) -> None:
    with pytest.raises(UnsupportedError, match="export it"):
        read_facts(locate_model(tiny_checkpoint))


def test_a_refusal_names_what_would_fit(hostile_bundle: Bundle) -> None:
    setting = Setting(256, host="native")
    assert check_fit(hostile_bundle, "gguf-f32", setting, 1e9, "x86_64", X86).verdict == "fits"
    need = need_of(
        read_facts(locate_model(f"{hostile_bundle.folder}#gguf-f32")), Setting(1, host="native"), "x86_64", X86
    )
    with pytest.raises(GateError, match=r"gguf-f32 (doesn't fit|thrashes): .*; a context of \d+ would fit"):
        check_fit(hostile_bundle, "gguf-f32", setting, (need.needed.value or 0.0) + 1e5, "x86_64", X86)
    with pytest.raises(GateError, match=r"onnx-fp32 doesn't fit: .*; gguf-f32 of the bundle would fit"):
        check_fit(hostile_bundle, "onnx-fp32", setting, 40e6, "x86_64", X86)
    with pytest.raises(GateError, match="nor does another artifact"):
        check_fit(hostile_bundle, "gguf-f32", setting, 1e6, "x86_64", X86)
