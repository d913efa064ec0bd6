"""Numbers as they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.figure import Figure
from edgestill.report.format import basis_text, figure_text, interval_text, printable, quantity


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0000042, "seconds", "4.20 µs"),
        (0.00123, "seconds", "1.23 ms"),
        (0.9999, "seconds", "1.00 s"),
        (83.2, "seconds", "83.2 s"),
        (4321.0, "seconds", "4,321 s"),
        (512, "bytes", "512 bytes"),
        (530_400, "bytes", "530 kB"),
        (26_613_120, "bytes", "26.6 MB"),
        (8.25e9, "bytes", "8.25 GB"),
        (6290.7, "tokens/s", "6,291 tokens/s"),
        (12.345, "tokens_per_second", "12.3 tokens/s"),
        (0.985, "fraction", "98.5%"),
        (1.0, "fraction", "100%"),
        (1.004, "fraction", "100.4%"),
        (0.0, "fraction", "0%"),
        (-0.12, "fraction", "−12.0%"),
        (2.1e-12, "nats", "2.1×10⁻¹²"),
        (1.076, "bits per byte", "1.08 bits per byte"),
        (float("nan"), "seconds", "—"),
    ],
)
def test_a_quantity_is_shown_in_a_sane_unit(value: float, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


@pytest.mark.parametrize("value", [0.9996, 0.99996, 4095 / 4096])
def test_almost_all_is_never_rounded_up_to_all(value: float) -> None:
    assert quantity(value, "fraction") not in ("100%", "100.0%")


def test_a_missing_figure_says_why() -> None:
    figure = Figure.missing("joules", "this machine has no energy counter")
    assert figure_text(figure) == "—"
    assert basis_text(figure) == "not measured: this machine has no energy counter"


def test_an_interval_has_the_unit_of_its_value() -> None:
    figure = Figure(value=0.0104, unit="seconds", n=10, ci95=(0.00991, 0.0112))
    assert figure_text(figure) == "10.4 ms"
    assert interval_text(figure) == "9.9 to 11.2 ms"


def test_the_interval_of_a_full_score_shows_its_lower_end() -> None:
    assert interval_text(Figure.proportion(600, 600, "test")) == "99.4 to 100.0%"


def test_control_characters_are_replaced() -> None:
    assert printable("a\x1b[2Jb\u202ec") == "a\ufffd[2Jb\ufffdc"


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["seconds", "bytes", "fraction", "tokens/s", "nats", ""]),
)
def test_any_number_can_be_shown(value: float, unit: str) -> None:
    assert quantity(value, unit)
