"""A sampler that asks for the plan of the largest expected gain in hypervolume.

Emmerich, Deutz, Klinkenberg: Hypervolume-based expected improvement, CEC 2011. Accuracy and costs are modelled apart,
so that the expectation is an integral over costs:

    EHVI(x) = ∫ Π_j P(c_j(x) ≤ c_j') · E[max(0, a(x) − f(c'))] dc'

with f(c') the best accuracy found at no more than the costs c'. Costs count by their logarithm and accuracies from ten
points below the dense network to one above it, as in the hypervolume that ranks strategies (`leaderboard.hypervolume`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm, qmc

from leaderboard import non_dominated
from strategies import Space

from .regression import CERTAIN, Predicted, Regression

KNOWN = "known"
"""Attribute of a trial: its accuracy and costs by name, as far as they are known."""
ACCURACY = "accuracy"
FEWEST = 4
"""Networks that must be known before there is anything to model."""
CANDIDATES = 1000
"""Plans of which the best is taken, half of them neighbours of the best that are known."""
POINTS = 256
"""Of the integral over costs."""
TENTHS, MOST = 10.0, 1.1
"""Worth of an accuracy: 1 at that of the dense network, one less for every ten points, `MOST` at most."""
FORETOLD = 0.3
"""Weight of what is foretold, scaled to a variance of 1, beside levels that reach from 0 to 1: two plans then differ as
much in either. The foretold loss in all counts in full for the accuracy: on 126 networks of ResNet-8 the error of
worths, from 5 to 20 known ones, was a seventh less for it."""

Foretold = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Levels (N, places), as `Space.indices` has them → what else is known before a plan is tried, (N, features); the
logarithm of its loss in all, (N,); and that of a cost, (N,), from which true costs are taken to depart by little."""


@dataclass
class Goal:
    """What there is to gain."""

    dense_accuracy: float
    costs: tuple[str, ...]
    """Names of the objectives beside the accuracy."""
    larger_is_better: frozenset[str] = frozenset()
    """Of them and of what is bounded."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Name → what it may not exceed, or fall below."""
    least_accuracy: float = 0.0
    """Below which a network is worth nothing."""
    images: int | None = None
    """On which accuracies are found: it says how far luck goes."""
    dense_costs: Mapping[str, float] | None = None
    """Networks that cost more are worth nothing; where this is not known, those beyond the dearest."""

    def cost(self, name: str, value: float) -> float:
        """On the scale on which costs count; the less the better."""
        scaled = math.log(max(value, 1e-12))
        return -scaled if name in self.larger_is_better else scaled

    def noise(self, worth: np.ndarray) -> np.ndarray:
        """Variance of worths by the choice of the images, halved: all networks are judged on the same."""
        if self.images is None:
            return np.zeros(len(worth))
        wrong = np.clip(1 - self.dense_accuracy - (worth - 1) / TENTHS, 0.5 / self.images, 1.0)
        return np.asarray(TENTHS**2 * wrong * (1 - wrong) / self.images / 2)

    def worth(self, accuracy: float) -> float:
        """On the scale on which accuracies count."""
        return min(TENTHS * (accuracy - self.dense_accuracy) + 1, MOST)


@dataclass(frozen=True)
class _Seen:
    """Other trials of a study, by place."""

    rows: np.ndarray
    """Knobs, (N, knobs)."""
    levels: np.ndarray
    pending: np.ndarray
    """Which are on their way, (N,)."""
    worth: np.ndarray
    """(N,), NaN where it is not known; so are the costs by name."""
    costs: Mapping[str, np.ndarray]

    def stacked(self, names: Sequence[str]) -> np.ndarray:
        """Costs, (N, names)."""
        return np.stack([self.costs[name] for name in names], axis=1)


class ExpectedHypervolume(optuna.samplers.BaseSampler):
    """For the ordered integers of a `Space`, and studies whose trials hold `KNOWN`."""

    def __init__(self, space: Space, goal: Goal, seed: int, foretold: Foretold | None = None) -> None:
        self.goal = goal
        self.expected: dict[int, float] = {}
        """Number of a trial → the gain that was expected when it was chosen."""
        self._regressions = defaultdict[str, Regression](Regression)
        self._space, self._ranges, self._foretold = space, space.ranges(), foretold
        self._rng = np.random.default_rng(seed)
        self._low, self._high = np.array(list(self._ranges.values()), dtype=int).reshape(-1, 2).T
        common = space.common_names()
        self._deviates = np.array([name not in common for name in self._ranges], dtype=bool)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All knobs."""
        return {name: IntDistribution(low, high) for name, (low, high) in self._ranges.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The best of many candidates; one at random while too few networks are known."""
        seen = self._seen(study, trial.number)
        if np.count_nonzero(~np.isnan(seen.worth)) < FEWEST:
            return self._params(self._drawn(1)[0])
        pool = self._pool(seen)
        gains = self._gains(seen, pool, {})
        best = int(np.argmax(gains))
        self.expected[trial.number] = float(gains[best])
        return self._params(pool[best])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> int:
        """One knob at random."""
        return int(self._rng.integers(*self._ranges[param_name], endpoint=True))

    def gain(self, study: optuna.Study, number: int, costs: Mapping[str, float]) -> float:
        """What is expected of a trial that was asked for and not told yet, now that its costs are known."""
        (trial,) = (t for t in study.get_trials(deepcopy=False) if t.number == number)
        return float(self._gains(self._seen(study, number), self._rows([trial]), costs)[0])

    def _seen(self, study: optuna.Study, number: int) -> _Seen:
        """All trials but one."""
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != number and t.params]
        known = [t.user_attrs.get(KNOWN, {}) if t.state == TrialState.COMPLETE else {} for t in trials]
        goal, rows = self.goal, self._rows(trials)
        return _Seen(
            rows,
            self._levels(rows),
            np.array([t.state == TrialState.RUNNING for t in trials], dtype=bool),
            np.array([goal.worth(k[ACCURACY]) if ACCURACY in k else np.nan for k in known]),
            {
                name: np.array([goal.cost(name, k[name]) if name in k else np.nan for k in known])
                for name in dict.fromkeys([*goal.costs, *goal.bounds])
                if any(name in k for k in known)
            },
        )

    def _rows(self, trials: Sequence[FrozenTrial]) -> np.ndarray:
        rows = [[trial.params[name] for name in self._ranges] for trial in trials]
        return np.array(rows, dtype=int).reshape(len(trials), len(self._ranges))

    def _params(self, row: np.ndarray) -> dict[str, int]:
        return dict(zip(self._ranges, map(int, row), strict=True))

    def _levels(self, rows: np.ndarray) -> np.ndarray:
        return self._space.indices(dict(zip(self._ranges, rows.T, strict=True)), len(rows))

    def _gains(self, seen: _Seen, rows: np.ndarray, certain: Mapping[str, float]) -> np.ndarray:
        """EHVI of candidates (N, knobs), (N,); `certain` are costs that are known of all of them."""
        levels = np.concatenate([seen.levels, self._levels(rows)])
        features, loss, foretold = self._features(levels)
        own = len(seen.rows)

        def completed(values: np.ndarray, found: Predicted) -> np.ndarray:
            # A network on its way counts as found, with what is expected of it.
            return np.where(seen.pending & np.isnan(values), found.mean[:own], values)

        def of_candidates(found: Predicted) -> Predicted:
            return Predicted(found.mean[own:], found.error[own:])

        with_loss = np.concatenate([features, loss], axis=1)
        found = self._regressed(ACCURACY, with_loss, _compressed(seen.worth), self.goal.noise(seen.worth))
        # What was found by luck is no better than what is expected of it: else the search would chase luck.
        counts = seen.pending | ~np.isnan(seen.worth)
        worth, candidates = np.where(counts, found.mean[:own], np.nan), of_candidates(found)
        costs, theirs = {}, {}
        for name, values in seen.costs.items():
            found = self._regressed(name, features, values - foretold[:own])
            found = Predicted(found.mean + foretold, found.error)
            costs[name], theirs[name] = completed(values, found), of_candidates(found)
            if name in certain:
                known = self.goal.cost(name, certain[name])
                theirs[name] = Predicted(np.full(len(rows), known), np.full(len(rows), CERTAIN))
        return self._integrated(replace(seen, worth=worth, costs=costs), candidates, theirs)

    def _features(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, features), in which a family weighs as much as one choice; foretold losses (N, 1 or 0) and costs (N,)."""
        weights = np.concatenate(
            [np.ones(len(self._space.choices))]
            + [np.full(len(family.members), len(family.members) ** -0.5) for family in self._space.families]
        )
        own = levels / np.maximum(self._space.tops(), 1) * weights
        if self._foretold is None:
            return own, np.zeros((len(levels), 0)), np.zeros(len(levels))
        other, loss, cost = self._foretold(levels)
        return np.concatenate([own, FORETOLD * _standard(other)], axis=1), _standard(loss[:, None]), cost

    def _regressed(
        self, name: str, features: np.ndarray, values: np.ndarray, noise: np.ndarray | None = None
    ) -> Predicted:
        """Of a figure at all rows of `features`, of which the first have `values`, NaN where they are not known."""
        known, seed = np.flatnonzero(~np.isnan(values)), int(self._rng.integers(2**31))
        own = None if noise is None else noise[known]
        return self._regressions[name].predict(features[known], values[known], features, seed, own)

    def _integrated(self, seen: _Seen, worth: Predicted, costs: Mapping[str, Predicted]) -> np.ndarray:
        """The integral at the head of this module, (N,), in parts of the box of costs that it goes over.

        The box reaches from the cheapest that is likely to the dense network, or else to the dearest that was found.
        """
        goal = self.goal
        reached = seen.stacked(goal.costs)
        counts = ~np.isnan(seen.worth) & ~np.isnan(reached).any(1)
        bounds = {name: goal.cost(name, bound) for name, bound in goal.bounds.items() if name in costs}
        for name, bound in bounds.items():
            counts &= ~(seen.costs[name] > bound)
        dearest = np.nanmax(reached, axis=0)
        if goal.dense_costs is not None:
            dearest = np.array([goal.cost(name, goal.dense_costs[name]) for name in goal.costs])
        cheapest = np.nanmin(reached, axis=0)
        cheapest = np.minimum(cheapest, [(costs[name].mean - 2 * costs[name].error).min() for name in goal.costs])
        points = cheapest + _unit_points(len(goal.costs)) * np.maximum(dearest - cheapest, 1e-9)
        best = np.full(len(points), max(0.0, goal.worth(goal.least_accuracy)))
        for row, value in zip(reached[counts], seen.worth[counts], strict=True):
            beside = (row <= points).all(1)
            best[beside] = np.maximum(best[beside], value)
        chance = np.ones((len(worth.mean), len(points)))
        for place, name in enumerate(goal.costs):
            chance *= norm.cdf((points[None, :, place] - costs[name].mean[:, None]) / costs[name].error[:, None])
        for name, bound in bounds.items():
            chance *= norm.cdf((bound - costs[name].mean) / costs[name].error)[:, None]
        mean, error = worth.mean[:, None], worth.error[:, None]
        improvement = _improvement(mean, error, best[None]) - _improvement(mean, error, np.array([[MOST]]))
        return np.asarray((chance * np.maximum(improvement, 0.0)).mean(1))

    def _pool(self, seen: _Seen) -> np.ndarray:
        """Candidates (N, knobs), none of which comes to the levels of a plan that was taken."""
        costs = seen.stacked(self.goal.costs)
        known = np.flatnonzero(~np.isnan(seen.worth) & ~np.isnan(costs).any(1))
        points = np.column_stack([-seen.worth[known], costs[known]])
        best = known[non_dominated(points, maximise=False)]
        near = self._moved(seen.rows[self._rng.choice(best, CANDIDATES // 2)])
        pool = np.concatenate([self._drawn(CANDIDATES - len(near)), near])
        levels = self._levels(pool)
        _, first = np.unique(levels, axis=0, return_index=True)
        taken = {row.tobytes() for row in seen.levels}
        fresh = [place for place in first if levels[place].tobytes() not in taken]
        return pool[fresh] if fresh else self._drawn(1)

    def _drawn(self, count: int) -> np.ndarray:
        """Common levels at random; deviations of none, of some, or of all members."""
        rows = self._rng.integers(self._low, self._high, size=(count, len(self._low)), endpoint=True)
        share = self._rng.choice([0.0, 0.25, 1.0], size=(count, 1))
        still = self._deviates & (self._rng.random(rows.shape) >= share)
        return np.where(still, np.clip(0, self._low, self._high), rows)

    def _moved(self, rows: np.ndarray) -> np.ndarray:
        """Every row with one to three knobs moved by one level or two."""
        count = self._rng.integers(1, 4, size=(len(rows), 1))
        order = self._rng.random(rows.shape).argsort(1)
        step = self._rng.choice([-2, -1, 1, 2], p=[0.15, 0.35, 0.35, 0.15], size=rows.shape)
        return np.clip(rows + np.where(order < count, step, 0), self._low, self._high)


def _standard(values: np.ndarray) -> np.ndarray:
    """Columns (N, features) shifted to a mean of 0 and, unless they are constant, scaled to a variance of 1."""
    spread = values.std(0)
    return np.asarray((values - values.mean(0)) / np.where(spread > 0, spread, 1.0))


def _compressed(worth: np.ndarray) -> np.ndarray:
    """Logarithmic below 0: networks that collapsed would drown other differences, and yet say where it gets worse."""
    return np.where(worth < 0, -np.log1p(-np.minimum(worth, 0)), worth)


def _improvement(mean: np.ndarray, error: np.ndarray, best: np.ndarray) -> np.ndarray:
    """E[max(0, a − best)] of a normal a."""
    z = (mean - best) / error
    return np.asarray(error * (z * norm.cdf(z) + norm.pdf(z)))


def _unit_points(dimensions: int) -> np.ndarray:
    """Evenly over the unit cube, (`POINTS`, dimensions)."""
    if dimensions == 1:
        return ((np.arange(POINTS) + 0.5) / POINTS)[:, None]
    return np.asarray(qmc.Sobol(dimensions, scramble=False).random(POINTS))
