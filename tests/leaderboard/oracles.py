"""What the tests of this room hold its maths against: definitions spelled out, with no thought of speed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def area(points: Sequence[tuple[float, float]], dense: float, cap: float, drop: float = 0.1) -> float:
    """The hypervolume of the protocol by strips between the distinct u."""
    placed = square(points, dense, cap, drop)
    edges = [0.0, *sorted({u for u, _ in placed})]
    strips = ((right - left) * max(v for u, v in placed if u >= right) for left, right in itertools.pairwise(edges))
    return sum(strips) / 1.1


def square(
    points: Sequence[tuple[float, float]], dense: float, cap: float, drop: float = 0.1
) -> list[tuple[float, float]]:
    """The points of the unit square that count."""
    placed = []
    for s, a in points:
        v = min(max((a - (dense - drop)) / drop, 0.0), 1.1)
        if s > 1 and v > 0:
            placed.append((min(math.log2(s) / math.log2(cap), 1.0), v))
    return placed
