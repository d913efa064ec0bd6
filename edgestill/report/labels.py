"""Placing labels beside bubbles so that no label covers another label or a bubble.

Greedy: each label takes, of the candidate places around its bubble, the one that costs least, where
overlap costs most, leaving the frame next, and distance last. Deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Circle = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle: lower left corner, width and height, in points."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """Return the area that two boxes share."""
        wide = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        high = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, wide) * max(0.0, high)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Return the point of the box that is nearest to (x, y)."""
        return min(max(x, self.x), self.x + self.width), min(max(y, self.y), self.y + self.height)


def place_labels(
    circles: Sequence[Circle],
    sizes: Sequence[tuple[float, float]],
    area: Box,
    lines: Sequence[Box] = (),
) -> list[Box]:
    """Return one box a label, in the order given.

    ``circles`` are (x, y, radius), ``sizes`` (width, height); ``lines`` are thin things that a label
    should rather not cross.
    """
    obstacles = [_around(circle) for circle in circles]
    placed: dict[int, Box] = {}
    for index in sorted(range(len(circles)), key=lambda i: (-_crowding(circles, i), circles[i])):
        others = [*placed.values(), *obstacles]
        candidates = _candidates(circles[index], sizes[index])
        placed[index] = min(candidates, key=lambda box: _cost(box, circles[index], others, lines, area))
    return [placed[index] for index in range(len(circles))]


def _around(circle: Circle) -> Box:
    x, y, radius = circle
    # The square inside a circle is a little smaller than the one around it: labels may touch the corners.
    side = 0.9 * radius + 1
    return Box(x - side, y - side, 2 * side, 2 * side)


def _crowding(circles: Sequence[Circle], index: int) -> float:
    x, y, _ = circles[index]
    return sum(1 / (20 + math.dist((x, y), other[:2])) for other in circles)


def _candidates(circle: Circle, size: tuple[float, float]) -> list[Box]:
    x, y, radius = circle
    width, height = size
    found = []
    for distance in (4, 10, 18, 28, 40, 54, 70, 90):
        for step in range(16):
            angle = step * math.pi / 8
            reach = radius + distance
            centre_x = x + math.cos(angle) * (reach + width / 2 * abs(math.cos(angle)))
            centre_y = y + math.sin(angle) * (reach + height / 2)
            found.append(Box(centre_x - width / 2, centre_y - height / 2, width, height))
    return found


def _cost(box: Box, circle: Circle, others: Sequence[Box], lines: Sequence[Box], area: Box) -> float:
    outside = box.width * box.height - box.overlap(area)
    covered = sum(box.overlap(other) for other in others)
    crossed = sum(box.overlap(line) for line in lines)
    return 50 * outside + 10 * covered + 0.3 * crossed + math.dist(box.nearest(*circle[:2]), circle[:2]) - circle[2]
