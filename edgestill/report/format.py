"""Numbers as a person reads them: three significant digits, a sane unit, the interval in the same unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from edgestill.figure import Figure

MISSING: Final = "—"
_SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SECONDS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_RATES: Final = ("tokens/s", "tokens/second", "tokens_per_second", "tokens per second")


@dataclass(frozen=True)
class Scale:
    """A value is shown as ``value / divisor`` with ``digits`` decimals, then ``symbol``."""

    divisor: float
    symbol: str
    digits: int

    def number(self, value: float) -> str:
        """Return the scaled value without its unit."""
        scaled = value / self.divisor
        if not math.isfinite(scaled):
            return MISSING
        text = f"{scaled:,.{self.digits}f}".replace("-", "−")
        return text.removeprefix("−") if not text.strip("−0.,") else text

    def with_unit(self, text: str) -> str:
        """Return ``text`` followed by the unit."""
        if self.symbol in ("", "%"):
            return text + self.symbol
        return f"{text} {self.symbol}"


def quantity(value: float, unit: str) -> str:
    """Return a value with its unit: ``quantity(0.00123, "seconds")`` is ``1.23 ms``.

    Known units: fraction (shown as percent), seconds, bytes (powers of ten), tokens/s. Any other unit
    is shown as it is; very small values of it in powers of ten.
    """
    if not math.isfinite(value):
        return MISSING
    if unit not in ("fraction", "seconds", "bytes", *_RATES) and 0 < abs(value) < 1e-2:
        return _power_of_ten(value)
    scale = scale_for(value, unit)
    return scale.with_unit(scale.number(value))


def figure_text(figure: Figure) -> str:
    """Return a figure's value with its unit, or an em dash when nothing was measured."""
    return MISSING if figure.value is None else quantity(figure.value, figure.unit)


def interval_text(figure: Figure) -> str:
    """Return a figure's 95% interval in the unit of its value, or an empty string when it has none."""
    if figure.value is None or figure.ci95 is None:
        return ""
    low, high = figure.ci95
    if figure.unit != "fraction" and 0 < abs(figure.value) < 1e-2 and figure.unit not in ("seconds", "bytes", *_RATES):
        return f"{quantity(low, figure.unit)} to {quantity(high, figure.unit)}"
    scale = scale_for(figure.value, figure.unit)
    if figure.unit == "fraction":
        scale = replace(scale, digits=max(scale.digits, 1))
    return scale.with_unit(f"{scale.number(low)} to {scale.number(high)}")


def basis_text(figure: Figure) -> str:
    """Return how a figure came about: ``measured, n = 500; greedy answers on the test split``."""
    if figure.value is None:
        return f"not measured: {figure.source}" if figure.source else "not measured"
    samples = f", n = {figure.n:,}" if figure.n else ""
    source = f"; {figure.source}" if figure.source else ""
    return printable(f"{figure.basis}{samples}{source}")


def scale_for(value: float, unit: str) -> Scale:
    """Choose divisor, symbol and decimals from the value that is to be shown."""
    if unit == "fraction":
        return Scale(0.01, "%", _percent_digits(value))
    if unit == "seconds":
        if abs(value) >= 1000:
            return Scale(1.0, "s", 0)
        return _pick(value, _SECONDS)
    if unit == "bytes":
        return _pick(value, _BYTES)
    symbol = "tokens/s" if unit in _RATES else "" if unit == "1" else printable(unit)
    return Scale(1.0, symbol, _digits(value))


def printable(text: str) -> str:
    """Return text with control characters replaced, so that a name can't move a terminal's cursor."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in text)


def _pick(value: float, steps: tuple[tuple[float, str], ...]) -> Scale:
    size = abs(value)
    fitting = sorted(step for step in steps if size >= step[0] * 0.9995)
    divisor, symbol = fitting[-1] if fitting else min(steps)
    if symbol == "bytes":
        return Scale(divisor, symbol, 0)
    return Scale(divisor, symbol, _digits(size / divisor))


def _digits(value: float) -> int:
    """Decimals that show three significant digits."""
    if value == 0 or not math.isfinite(value):
        return 0
    exponent = int(f"{abs(value):.2e}".partition("e")[2])
    return min(max(0, 2 - exponent), 6)


def _percent_digits(value: float) -> int:
    """One decimal; more where rounding would turn "almost all" into 100% or "a few" into 0%."""
    if value == round(value):
        return 0
    for digits in (1, 2, 3, 4):
        shown = float(f"{value * 100:.{digits}f}")
        if shown not in (0.0, 100.0):
            return digits
    return 5


def bare_text(figure: Figure) -> str:
    """Return a figure's value without its unit, for a column that names the unit in its head."""
    if figure.value is None:
        return MISSING
    return quantity(figure.value, "" if figure.unit not in _RATES else "tokens/s").removesuffix(" tokens/s")


def _power_of_ten(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.replace('-', '−')}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"
