"""Which paused candidates are trained on: asynchronous successive halving with several objectives.

Schmucker, Donini, Zafar, Salinas, Archambeau: Multi-objective Asynchronous Successive Halving, arXiv:2106.12639:
ranks by non-dominated sorting, and within a rank an ε-net, so that what is promoted lies spread over the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import moocore
import numpy as np
from numpy.typing import ArrayLike

REDUCTION = 2
"""Of so many candidates on a rung one is promoted."""


@dataclass
class Rungs:
    """Candidates by rung, and who of them was promoted. `fractions` of the full training end the rungs, ascending."""

    fractions: tuple[float, ...]
    reduction: int = REDUCTION
    _seen: list[dict[int, tuple[float, ...]]] = field(init=False)
    """Rung → candidate → what it reached there, all of which are minimised."""
    _left: list[set[int]] = field(init=False)
    """Rung → candidates that were promoted or taken out."""

    def __post_init__(self) -> None:
        self._seen = [{} for _ in self.fractions]
        self._left = [set() for _ in self.fractions]

    @property
    def waiting(self) -> int:
        """Candidates that may still be promoted."""
        return sum(len(seen) - len(left) for seen, left in zip(self._seen, self._left, strict=True))

    def add(self, rung: int, candidate: int, minimised: Sequence[float]) -> None:
        """A candidate reached the end of a rung and waits."""
        self._seen[rung][candidate] = tuple(minimised)

    def take_out(self, candidate: int) -> None:
        """A candidate is not to be promoted; others are compared with it all the same."""
        for seen, left in zip(self._seen, self._left, strict=True):
            if candidate in seen:
                left.add(candidate)

    def promote(self) -> tuple[int, int] | None:
        """(candidate, rung that it leaves) of the best that may go on, highest rung first; None where none may."""
        for rung in reversed(range(len(self.fractions))):
            seen = self._seen[rung]
            best = self._order(rung)[: len(seen) // self.reduction]
            waiting = [candidate for candidate in best if candidate not in self._left[rung]]
            if waiting:
                return self._leave(waiting[0], rung)
        return None

    def best_waiting(self) -> tuple[int, int] | None:
        """As `promote`, without waiting for others to compare with: for when there are no others to come."""
        for rung in reversed(range(len(self.fractions))):
            waiting = [candidate for candidate in self._order(rung) if candidate not in self._left[rung]]
            if waiting:
                return self._leave(waiting[0], rung)
        return None

    def _leave(self, candidate: int, rung: int) -> tuple[int, int]:
        self._left[rung].add(candidate)
        return candidate, rung

    def _order(self, rung: int) -> list[int]:
        candidates = sorted(self._seen[rung])
        if not candidates:
            return []
        order = best_first(np.array([self._seen[rung][candidate] for candidate in candidates]))
        return [candidates[place] for place in order]


def best_first(points: ArrayLike) -> list[int]:
    """Indices of the rows of `points`, shape (n, m), all minimised: by Pareto rank, an ε-net within each rank."""
    values = np.asarray(points, dtype=float)
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    ranks = np.asarray(moocore.pareto_rank(values))
    order: list[int] = []
    for rank in np.unique(ranks):
        order += [int(i) for i in _epsilon_net(scaled, np.flatnonzero(ranks == rank))]
    return order


def _epsilon_net(points: np.ndarray, members: np.ndarray) -> list[int]:
    """`members` (indices), each the farthest from those before it; begins with the best in the first objective."""
    chosen = [int(members[np.argmin(points[members, 0])])]
    distance = np.linalg.norm(points[members] - points[chosen[0]], axis=1)
    while len(chosen) < len(members):
        # Of equal points the distance is 0: those chosen are put last for good.
        distance[np.isin(members, chosen)] = -1.0
        chosen.append(int(members[np.argmax(distance)]))
        distance = np.minimum(distance, np.linalg.norm(points[members] - points[chosen[-1]], axis=1))
    return chosen
