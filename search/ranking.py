"""The strategies of one study side by side on every target: what the end of a search prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard import CAP, Entry, hypervolume


@dataclass(frozen=True)
class Rank:
    """One strategy on one target."""

    strategy: str
    hypervolume: float
    trials: int
    fastest: float | None
    """Largest speed-up among entries that lose at most one point; None where none does."""
    seconds: float
    """Training of all its trials."""


def hypervolumes(entries: Sequence[Entry]) -> dict[str, list[Rank]]:
    """Target key → ranks, best first; targets without a speed-up (`counts`) are left out. Controls are ranked too."""
    found: dict[str, dict[str, list[tuple[Entry, float, float]]]] = {}
    kinds: dict[str, str] = {}
    for entry in entries:
        for cost in entry.costs:
            if cost.speedup is not None and cost.speedup.value is not None:
                kinds[cost.key] = cost.kind
                points = found.setdefault(cost.key, {}).setdefault(entry.strategy, [])
                points.append((entry, cost.speedup.value, entry.ranking_accuracy(cost)))
    return {
        key: sorted(
            (_rank(name, points, CAP[kinds[key]]) for name, points in by_strategy.items()),
            key=lambda rank: -rank.hypervolume,
        )
        for key, by_strategy in found.items()
    }


def _rank(name: str, points: Sequence[tuple[Entry, float, float]], cap: float) -> Rank:
    dense = points[0][0].accuracy.dense_validation
    near = [speedup for _, speedup, accuracy in points if dense - accuracy <= 0.01 + 1e-12]
    return Rank(
        name,
        hypervolume([speedup for _, speedup, _ in points], [accuracy for _, _, accuracy in points], dense, cap),
        len(points),
        max(near, default=None),
        sum(entry.training.seconds for entry, _, _ in points),
    )
