"""What a recorded study says of plans that it has not seen: one regressor for every value, and how far to trust it.

Syne Tune replays tables in the same way (Salinas et al., AutoML 2022). A forest of extremely randomised trees (Geurts,
Ernst, Wehenkel, Machine Learning 63, 2006) needs no tuning; it never predicts beyond what was recorded, so that a
replay cannot find a better network than the study did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from strategies import Space
from workloads import InputError

from .gain import Gain
from .objectives import Limit, Objective
from .table import FULL, START, Part, Row, Table

TREES = 40
FOLDS = 5
FEWEST_ROWS = 20
"""Full evaluations below which nothing is fitted: five folds then hold four rows each."""
FEWEST_TIMED = 2 * FOLDS
"""Steps of one kind below which their median stands for their seconds."""


@dataclass(frozen=True)
class Fit:
    """How well a value is predicted."""

    value: str
    rows: int
    spearman: float | None
    """Rank correlation of predictions for rows that were left out of the fit; None where there is nothing to rank."""


class Forest:
    """Predicts one number from levels; positive ones, whose ratios matter, by their logarithm."""

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64], logarithm: bool = False) -> None:
        """`x` of shape (n, levels), `y` of shape (n,)."""
        self._logarithm = logarithm
        self._trees = [tree.tree_ for tree in regressor().fit(x, np.log(y) if logarithm else y).estimators_]

    def __call__(self, x: NDArray[np.float64]) -> float:
        """For one row, shape (levels,). Asks the trees themselves: scikit-learn's checks take 20 times as long."""
        row = x.astype(np.float32).reshape(1, -1)
        mean = float(np.mean([tree.predict(row)[0, 0] for tree in self._trees]))
        return float(np.exp(mean)) if self._logarithm else mean


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float | None:
    """Spearman's between `y`, shape (n,), and its predictions from `x`, (n, levels), each by a fit without its fold.

    None where it is not defined: fewer rows than folds, or all values the same.
    """
    rows, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(values) < FOLDS or np.ptp(values) == 0:
        return None
    predicted = cross_val_predict(regressor(), rows, values, cv=KFold(FOLDS, shuffle=True, random_state=0))
    return None if np.ptp(predicted) == 0 else float(spearmanr(values, predicted).statistic)


def levels(space: Space, knobs: Mapping[str, int]) -> dict[str, int]:
    """What a plan's knobs come to: the level of every choice, and that of every layer, as indices into the levels.

    A sampler's knobs are a common level and a step of every layer; their sum is what a network knows. Fitted to it, the
    rank correlation of accuracies was 0.70 to 0.85 on three studies of digits/cnn, and 0.56 to 0.69 on the knobs.
    """
    names = [choice.name for choice in space.choices]
    names += [f"{family.name}.{member}" for family in space.families for member in family.members]
    (row,) = space.indices({name: np.array([value]) for name, value in knobs.items()}, 1)
    return dict(zip(names, map(int, row), strict=True))


class Surrogate:
    """Accuracies, objectives and seconds of any plan of the study's space."""

    def __init__(
        self, table: Table, space: Space, objectives: Sequence[Objective], limits: Sequence[Limit], gain: Gain
    ) -> None:
        """Raises `InputError` where the table is too small."""
        if len(table.full) < FEWEST_ROWS:
            raise InputError(
                f"the study has {len(table.full)} full evaluations, at least {FEWEST_ROWS} are needed to predict from; "
                "search on with --resume and more --trials"
            )
        self.table, self.gain = table, gain
        self._space = space
        self.fits: list[Fit] = []
        self._accuracy = {
            stop: self._fitted(_accuracy_name(stop), rows, _accuracy(stop)) for stop, rows in table.judged.items()
        }
        asked = [*objectives, *(limit.objective for limit in limits if limit.objective is not None)]
        self._figures = {
            objective: self._fitted(str(objective), table.rows, _figure(objective), logarithm=True)
            for objective in dict.fromkeys(asked)
        }
        self._gain = self._fitted(str(gain), table.full, _gain(gain), logarithm=True) if gain.told else None
        self._seconds: dict[Part, Forest] = {}
        for part, rows in table.parts.items():
            if len(rows) >= FEWEST_TIMED:
                self._seconds[part] = self._fitted(_seconds_name(part), rows, _took(part), logarithm=True)

    def levels(self, knobs: Mapping[str, int]) -> NDArray[np.float64]:
        """Shape (levels,): `levels` of a plan's knobs."""
        return np.array(list(levels(self._space, knobs).values()), dtype=float)

    def accuracy(self, x: NDArray[np.float64], stop: float) -> float:
        """A fraction; raises `InputError` for a stop at which the study asked for no accuracy."""
        if stop not in self._accuracy:
            raise InputError(
                f"the study never asked for the {_accuracy_name(stop)}; replay it with --stages as it was searched, "
                "or none"
            )
        return min(max(self._accuracy[stop](x), 0.0), 1.0)

    def figures(self, x: NDArray[np.float64]) -> dict[Objective, float]:
        """Of the objectives and of what limits bound."""
        return {objective: forest(x) for objective, forest in self._figures.items()}

    def speedup(self, x: NDArray[np.float64]) -> float | None:
        """None where the study tells none."""
        return None if self._gain is None else self._gain(x)

    def seconds(self, x: NDArray[np.float64], begun: float, until: float) -> float:
        """From one stop to another, step by step where nobody went the whole way at once."""
        total = 0.0
        for part in self.table.path(begun, until) or self.table.path(START, until):
            forest = self._seconds.get(part)
            total += (self.table.median_seconds(*part) or 0.0) if forest is None else forest(x)
        return total

    def _fitted(
        self, name: str, rows: Sequence[Row], value: Callable[[Row], float | None], logarithm: bool = False
    ) -> Forest:
        told = [(self.levels(row.knobs), found) for row in rows if (found := value(row)) is not None]
        x, y = np.array([level for level, _ in told]), np.array([found for _, found in told])
        logarithm = logarithm and bool((y > 0).all())
        self.fits.append(Fit(name, len(y), rank_correlation(x, np.log(y) if logarithm else y)))
        return Forest(x, y, logarithm)


def regressor() -> ExtraTreesRegressor:
    """What every value is predicted with."""
    return ExtraTreesRegressor(TREES, random_state=0)


def _accuracy_name(stop: float) -> str:
    names = {0.0: "accuracy before training", FULL: "accuracy"}
    return names.get(stop, f"accuracy at {100 * stop:.0f} % of the training")


def _seconds_name(part: Part) -> str:
    names = {START: "start", 0.0: "screen", FULL: "end"}
    begun, until = (names.get(stop, f"{100 * stop:.0f} %") for stop in part)
    return f"seconds from {begun} to {until}"


def _accuracy(stop: float) -> Callable[[Row], float | None]:
    return lambda row: row.known[stop].accuracy


def _figure(objective: Objective) -> Callable[[Row], float | None]:
    return lambda row: objective.value(row.known[max(row.known)]) if row.known else None


def _gain(gain: Gain) -> Callable[[Row], float | None]:
    return lambda row: gain.of(row.entry) if row.entry is not None else None


def _took(part: Part) -> Callable[[Row], float | None]:
    return lambda row: row.seconds[part]
