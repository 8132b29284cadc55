"""What a study has found out: which layers matter, what the front looks like, and what the stages saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.model_selection import KFold

from leaderboard import non_dominated
from strategies import Space, Strategy
from workloads import Dense, Progress

from .families import understood
from .objectives import Objective, values
from .surrogate import FEWEST_ROWS, FOLDS, levels, rank_correlation, regressor
from .table import FULL, START, Row, Table

REPEATS = 10
"""Of every permutation."""


@dataclass(frozen=True)
class Matters:
    """How much one level decides about a value."""

    level: str
    share: float
    """Of all that permuting one level or another adds to the squared error on held-out rows; 0…1."""
    spearman: float | None
    """Rank correlation between level and value; None where the level never changed."""


@dataclass(frozen=True)
class Losses:
    """Increase of the loss where one member alone is at a level, before any training."""

    members: tuple[str, ...]
    levels: np.ndarray
    """Ascending, (levels,)."""
    losses: np.ndarray
    """In nats, (members, levels)."""


@dataclass(frozen=True)
class Importance:
    """Which levels decide about one value of a network, the most important first."""

    value: str
    rows: int
    trust: float | None
    """Rank correlation of the surrogate on held-out rows: near 0 its importances mean nothing."""
    levels: tuple[Matters, ...]


@dataclass(frozen=True)
class Stage:
    """What became of the candidates that came to one stop."""

    name: str
    stop: float
    candidates: int
    let_go: dict[str, int]
    """Reason → how many went no further."""
    failed: int
    """Candidates whose next job came to nothing."""
    seconds: float
    """Of all steps that ended here."""
    median: float
    """Of one."""


@dataclass(frozen=True)
class Saved:
    """What the stages before a full evaluation cost and spared; seconds."""

    let_go: int
    avoided: float
    """Candidates let go × the median seconds of the stages that they did not go through."""
    spent_on_let_go: float
    """On their screens and rungs."""
    spent: float
    """The same of all candidates; for the others costs and training are part of the full evaluation."""

    @property
    def net(self) -> float:
        """Avoided, less what was spent on those let go."""
        return self.avoided - self.spent_on_let_go


def sensitivity(
    dense: Dense, method: Strategy, widths: frozenset[int], progress: Progress | None = None
) -> dict[str, Losses]:
    """Family → what its members lose before any training; from the cache where the search has measured it.

    Of the families that a guide understands, which may be none.
    """
    parts = understood(dense, method, method.space(dense, widths))
    found = {}
    for part in parts:
        curves = part.curves(dense, progress or (lambda done, steps: None))
        levels = np.array(part.family.levels, dtype=float)
        losses = np.array([curves[member].loss_at(levels) for member in part.family.members])
        found[part.family.name] = Losses(part.family.members, levels, losses)
    return found


def importances(table: Table, space: Space, objectives: Sequence[Objective]) -> list[Importance]:
    """Of the accuracy and of every objective; empty where there are too few full evaluations to say."""
    if len(table.full) < FEWEST_ROWS:
        return []
    points = np.array([values(row.known[FULL], objectives) for row in table.full])
    named = [levels(space, row.knobs) for row in table.full]
    x = np.array([list(row.values()) for row in named], dtype=float)
    moved = np.flatnonzero(np.ptp(x, axis=0) > 0)
    names = np.array(list(named[0]))[moved]
    x = x[:, moved]
    found = []
    for name, column in zip(["accuracy", *map(str, objectives)], points.T, strict=True):
        y = np.log(column) if name != "accuracy" and (column > 0).all() else column
        if np.ptp(y) == 0 or not len(names):
            continue
        shares = permutation_shares(x, y)
        told = [
            Matters(str(level), float(share), float(spearmanr(x[:, i], y).statistic))
            for i, (level, share) in enumerate(zip(names, shares, strict=True))
        ]
        ordered = tuple(sorted(told, key=lambda one: -one.share))
        found.append(Importance(name, len(y), rank_correlation(x, y), ordered))
    return found


def permutation_shares(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """How much the squared error on held-out rows grows when one column is permuted, as shares of the sum; (columns,).

    Breiman, Random Forests, Machine Learning 45, 2001, section 10. `x` (n, columns), `y` (n,).
    """
    rows, told = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    columns = rows.shape[1]
    rng = np.random.default_rng(0)
    growth = np.zeros(columns)
    for fitted, held in KFold(FOLDS, shuffle=True, random_state=0).split(rows):
        model = regressor().fit(rows[fitted], told[fitted])
        permuted = np.broadcast_to(rows[held], (columns, REPEATS, *rows[held].shape)).copy()
        for column in range(columns):
            for repeat in range(REPEATS):
                permuted[column, repeat, :, column] = rng.permutation(rows[held][:, column])
        predicted = model.predict(permuted.reshape(-1, columns)).reshape(columns, REPEATS, len(held))
        before = np.square(model.predict(rows[held]) - told[held]).mean()
        growth += np.square(predicted - told[held]).mean(axis=(1, 2)) - before
    growth = np.maximum(growth, 0.0)
    return growth / growth.sum() if growth.sum() > 0 else growth


def fanova(study: optuna.Study, objectives: Sequence[Objective]) -> dict[str, dict[str, float]]:
    """Value → the sampler's knob → Optuna's fANOVA importance over full evaluations; empty where they are too few."""
    told = [trial for trial in study.get_trials(deepcopy=False) if "entry" in trial.user_attrs]
    if len(told) < FEWEST_ROWS or not told[0].params:
        return {}
    full = optuna.create_study(directions=study.directions)
    full.add_trials(told)
    found = {}
    for column, name in enumerate(["accuracy", *map(str, objectives)]):
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(full, evaluator=evaluator, target=_value(column))
        found[name] = {knob: float(share) for knob, share in shares.items()}
    return found


def by_weight(found: Sequence[Importance]) -> list[str]:
    """Levels, those first that decide most, all values counting alike."""
    shares: dict[str, float] = {}
    for one in found:
        for matters in one.levels:
            shares[matters.level] = shares.get(matters.level, 0.0) + matters.share
    return sorted(shares, key=lambda level: -shares[level])


def front(table: Table, objectives: Sequence[Objective]) -> list[Row]:
    """Full evaluations that no other beats in accuracy and all objectives, the most accurate first."""
    if not table.full:
        return []
    points = np.array([values(row.known[FULL], objectives) for row in table.full])
    kept = np.flatnonzero(non_dominated(points, [True, *(objective.larger_is_better for objective in objectives)]))
    return [table.full[i] for i in sorted(kept, key=lambda i: -points[i, 0])]


def stages(table: Table) -> list[Stage]:
    """Every stop that some candidate came to, in the order of the training."""
    found = []
    for stop in sorted({row.reached for row in table.rows} | {end for _, end in table.parts}):
        took = [seconds for row in table.rows for (_, end), seconds in row.seconds.items() if end == stop]
        here = [row for row in table.rows if row.reached == stop]
        reasons = Counter(_reason(row) for row in here if row.let_go)
        came = sum(row.reached == stop or any(end == stop for _, end in row.seconds) for row in table.rows)
        failed = sum(row.failed for row in here)
        middle = median(took) if took else 0.0
        found.append(Stage(stage_name(stop), stop, came, dict(sorted(reasons.items())), failed, sum(took), middle))
    return found


def saved(table: Table) -> Saved:
    """What the stages of a study cost and spared; what nobody has gone through counts nothing."""
    gone = [row for row in table.rows if row.let_go]
    avoided = sum(table.median_seconds(row.reached, FULL) or 0.0 for row in gone)
    return Saved(len(gone), avoided, sum(map(_before_the_end, gone)), sum(map(_before_the_end, table.rows)))


def stage_name(stop: float) -> str:
    """Of the stage that ends at a stop."""
    return {START: "nothing", 0.0: "screen", FULL: "full"}.get(stop, f"rung at {100 * stop:.0f} %")


def _value(column: int) -> Callable[[optuna.trial.FrozenTrial], float]:
    def value(trial: optuna.trial.FrozenTrial) -> float:
        return float(trial.values[column])

    return value


def _reason(row: Row) -> str:
    return "left waiting" if row.ended == "paused" else row.ended


def _before_the_end(row: Row) -> float:
    return sum(seconds for (_, end), seconds in row.seconds.items() if end != FULL)
