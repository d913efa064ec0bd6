"""Logits against a reference's, summed up, and what full precision must keep.

A float32 file gives no logit that is off by more than 1e-3, and the same top-1 token everywhere. Two things are no
fault of a file, and are allowed for: ties that rounding decides, and the reference's own error far out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.runtime.divergence import kl_divergence

Rows = NDArray[np.float32]

EXACT_MAX_ABS_DIFF: Final = 1e-3
EXACT_POSITIONS: Final = 512
"""Past so many tokens the limit grows with the position. transformers rounds rotary angles to float32, so their error
is proportional to the position; measured on 30 layers at token 984, the reference itself was off by 7e-4, an ONNX file
with angles from float64 by 9e-5, as at the beginning."""

ROUNDING_TIE: Final = 1e-5
TIE_DEVIATIONS: Final = 8
"""Two reference logits are a tie that the order of float32 sums decides when they are nearer than ``ROUNDING_TIE``, or
than so many times the root mean square of the position's differences: what rounds all logits may swap neighbours."""


@dataclass
class Tally:
    """What was compared so far: positions, equal top-1 tokens, those that differ by more than a tie, KL, difference.

    ``scaled`` is the largest difference once what far positions may be off by more is taken out.
    """

    texts: int = 0
    positions: int = 0
    agreed: int = 0
    beyond_rounding: int = 0
    total_kl: float = 0.0
    largest: float = 0.0
    scaled: float = 0.0
    longest: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, expected: Rows, found: Rows, lengths: NDArray[np.int64]) -> None:
        """Compare logits ``[time, vocab]`` with the reference's, after so many tokens each, ``[time]``."""
        best = found.argmax(axis=-1)
        margin = expected.max(axis=-1) - expected[np.arange(len(found)), best]
        difference = np.abs(found - expected)
        spread = np.sqrt(np.square(difference).mean(axis=-1))
        largest = difference.max(axis=-1)
        self.texts += 1
        self.positions += len(found)
        self.agreed += int((best == expected.argmax(axis=-1)).sum())
        self.beyond_rounding += int((margin > np.maximum(ROUNDING_TIE, TIE_DEVIATIONS * spread)).sum())
        self.total_kl += float(kl_divergence(expected, found).sum())
        self.largest = max(self.largest, float(largest.max()))
        self.scaled = max(self.scaled, float((largest / np.maximum(1.0, lengths / EXACT_POSITIONS)).max()))
        self.longest = max(self.longest, int(lengths.max()))

    @property
    def mean_kl(self) -> float:
        """KL(reference || file) averaged over positions, nats."""
        return max(0.0, self.total_kl / self.positions)

    def refuse_inexact(self, precision: str) -> None:
        """Add the reasons why this isn't full precision."""
        if self.beyond_rounding:
            self.reasons.append(
                f"{self.beyond_rounding} of {self.positions} top-1 tokens differ; in {precision} none may"
            )
        if self.scaled > EXACT_MAX_ABS_DIFF:
            limit = f"{EXACT_MAX_ABS_DIFF:g}, the limit for {precision}"
            limit += f" up to token {EXACT_POSITIONS}, in proportion past it" if self.longest > EXACT_POSITIONS else ""
            self.reasons.append(f"largest |logit difference| {self.largest:.4g} is above {limit}")
