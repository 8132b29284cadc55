"""The choice of one level a member that loses least within a cost budget: an integer programme, solved by HiGHS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.optimize import LinearConstraint, milp

SECONDS = 1.0
"""For one solution; the best that was found until then is taken."""
GAP = 1e-3
"""Relative distance to the optimum that is near enough: predictions are not as good."""


@dataclass(frozen=True)
class Programme:
    """Members with levels. Losses add up; costs are a constant, one a member, and one a pair of members."""

    loss: Sequence[np.ndarray]
    """Of every member, (levels,)."""
    cost: Sequence[np.ndarray]
    """Of every member, (levels,); may be negative, as savings are."""
    pairs: Mapping[tuple[int, int], np.ndarray]
    """(member, member) → what is added for their levels, (levels of the first, levels of the second)."""
    constant: float = 0.0

    def cost_of(self, levels: Sequence[int]) -> float:
        single = sum(costs[level] for costs, level in zip(self.cost, levels, strict=True))
        return float(self.constant + single + sum(c[levels[i], levels[j]] for (i, j), c in self.pairs.items()))

    def loss_of(self, levels: Sequence[int]) -> float:
        return float(sum(losses[level] for losses, level in zip(self.loss, levels, strict=True)))

    def solve(self, budget: float, seconds: float = SECONDS) -> list[int] | None:
        """A level for every member; None where no choice within the budget was found."""
        objective = np.concatenate([*self.loss, *(np.zeros(costs.size) for costs in self.pairs.values())])
        within = LinearConstraint(self._whole[None] / self._scale, ub=(budget - self.constant) / self._scale)
        return self._solved(objective, [within], seconds)

    def cheapest(self, seconds: float = SECONDS) -> list[int]:
        """The levels of least cost that were found."""
        found = self._solved(self._whole / self._scale, [], seconds)
        alike = [[level] * len(self.cost) for level in range(min(len(costs) for costs in self.cost))]
        return min(alike if found is None else [*alike, found], key=self.cost_of)

    def _solved(self, objective: np.ndarray, limits: list[LinearConstraint], seconds: float) -> list[int] | None:
        """A pair's cost is told by variables that are marginally the levels' own: exact, for levels are 0 or 1."""
        single = sum(len(costs) for costs in self.cost)
        found = milp(
            objective,
            integrality=np.arange(len(objective)) < single,
            bounds=(0, 1),
            constraints=[*self._consistent, *limits],
            options={"time_limit": seconds, "mip_rel_gap": GAP},
        )
        if found.x is None:
            return None
        chosen = np.split(found.x[:single], np.cumsum([len(costs) for costs in self.cost])[:-1])
        return [int(part.argmax()) for part in chosen]

    @cached_property
    def _whole(self) -> np.ndarray:
        """Costs of all variables."""
        return np.concatenate([*self.cost, *(costs.ravel() for costs in self.pairs.values())])

    @cached_property
    def _scale(self) -> float:
        return max(float(np.abs(self._whole).max()), 1e-30)

    @cached_property
    def _consistent(self) -> list[LinearConstraint]:
        """One level a member; pairs agree with their members."""
        sizes = [len(costs) for costs in self.cost]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        columns = starts[-1] + sum(costs.size for costs in self.pairs.values())
        one = sparse.lil_array((len(sizes), columns))
        for member, size in enumerate(sizes):
            one[member, starts[member] : starts[member] + size] = 1
        constraints = [LinearConstraint(one.tocsr(), 1, 1)]
        begin = starts[-1]
        for (first, second), costs in self.pairs.items():
            place = begin + np.arange(costs.size).reshape(costs.shape)
            begin += costs.size
            for member, sums in ((first, place), (second, place.T)):
                agree = sparse.lil_array((len(sums), columns))
                for level, row in enumerate(sums):
                    agree[level, row] = 1
                    agree[level, starts[member] + level] = -1
                constraints.append(LinearConstraint(agree.tocsr(), 0, 0))
        return constraints
