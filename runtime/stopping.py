"""When to stop repeating: warm-ups when they no longer get faster, repetitions when the median is known well enough.

Repetitions end by the width of the interval and never by where it lies: who stops when the answer pleases finds what he
wants. Looking at the width after every repetition costs a little of the interval's coverage all the same, because
samples that happen to agree end a run early; the least number of repetitions bounds that.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Final

from edgestill.figure import Figure

SETTLED_WINDOW: Final = 3
SETTLED_WITHIN: Final = 0.05


def settled(times: Sequence[float]) -> bool:
    """Return whether warm-ups are over: the last three lie within 5% of their median, and don't fall one by one.

    Times in seconds, in order. A fall of less than 5% over three still counts as one: caches and clocks may yet have a
    way to go.
    """
    last = list(times[-SETTLED_WINDOW:])
    if len(last) < SETTLED_WINDOW:
        return False
    middle = statistics.median(last)
    if max(last) - min(last) > SETTLED_WITHIN * middle:
        return False
    falling = all(later < earlier for earlier, later in itertools.pairwise(last))
    return not falling or last[0] - last[-1] <= SETTLED_WITHIN / 5 * middle


def median_known(samples: Sequence[float], width: float) -> bool:
    """Return whether the 95% interval of the median reaches at most ``width`` of it to either side (0.05: 5%)."""
    figure = Figure.median(samples, "", "")
    if figure.ci95 is None or not figure.value:
        return False
    low, high = figure.ci95
    return (high - low) / 2 <= width * figure.value
