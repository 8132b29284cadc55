"""What a guide knows of any plan of a space before it is made: predicted losses and cost, as a sampler's features."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from strategies import DROP, Space, Strategy, channel_groups
from workloads import Dense, Format, trace

from .guide import Guide
from .predictor import Fit, Predictor

NOTHING = 0.01
"""Nats that are added to a predicted loss before its logarithm: less than that nobody can tell."""


class Foresight:
    """Call it with levels (N, places), as `Space.indices` has them.

    It answers features, (N, families + 2): the logarithms of the predicted loss by every family and in all, and of the
    predicted cost; and those last two apart, (N,) each.
    """

    def __init__(self, dense: Dense, strategy: Strategy, space: Space, guide: Guide) -> None:
        self._dense, self._strategy, self._space, self._guide = dense, strategy, space, guide
        whole = Predictor(
            trace(dense.module, dense.workload.example),
            channel_groups(dense) if guide.cuts else [],
            self._executed,
            Fit(np.array(guide.weights), guide.error, guide.rank_correlation or np.nan, guide.block),
        )
        self._predictors: dict[tuple[str, ...], Predictor] = {(): whole}
        """Branches that are gone → the predictor of what is left."""
        self._known: dict[bytes, np.ndarray] = {}

    def __call__(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.ascontiguousarray(levels, dtype=np.int64)
        fresh = [place for place, row in enumerate(rows) if row.tobytes() not in self._known]
        if fresh:
            for place, found in zip(fresh, self._features(rows[fresh]), strict=True):
                self._known[rows[place].tobytes()] = found
        found = np.stack([self._known[row.tobytes()] for row in rows])
        return found, found[:, -2], found[:, -1]

    def _features(self, levels: np.ndarray) -> np.ndarray:
        losses = self._losses(levels)
        total = losses.sum(1, keepdims=True)
        cost = np.log(np.maximum(self._costs(levels), 1e-12))
        return np.concatenate([np.log(NOTHING + losses), np.log(NOTHING + total), cost[:, None]], axis=1)

    def _losses(self, levels: np.ndarray) -> np.ndarray:
        """Nats, (N, families that the guide knows and the branches that go)."""
        found, column = [], len(self._space.choices)
        for family in self._space.families:
            own = levels[:, column : column + len(family.members)]
            column += len(family.members)
            if family.name in self._guide.losses:
                table = np.array([self._guide.losses[family.name][member] for member in family.members])
                found.append(table[np.arange(len(family.members)), own].sum(1))
        for place, choice in enumerate(self._space.choices):
            if choice.name == DROP and self._guide.drop_losses:
                found.append(np.array(self._guide.drop_losses)[levels[:, place]])
        return np.stack(found, axis=1)

    def _costs(self, levels: np.ndarray) -> np.ndarray:
        plans = [self._strategy.plan(self._dense, self._space.values(row)) for row in levels]
        alike = defaultdict[tuple[str, ...], list[int]](list)
        for place, plan in enumerate(plans):
            alike[plan.dropped].append(place)
        costs = np.zeros(len(plans))
        for dropped, places in alike.items():
            if dropped not in self._predictors:
                self._predictors[dropped] = self._predictors[()].without(self._dense, dropped)
            costs[places] = self._predictors[dropped].plans([plans[place] for place in places])
        return costs

    def _executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        told = self._guide.executed.get(f"{weight}/{activation}")
        if told is None:
            return weight, activation
        first, _, second = told.partition("/")
        return Format.parse(first), Format.parse(second)
