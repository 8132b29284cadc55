"""Indicators beside the hypervolume: distance from a reference front, attainment, fixed speeds and drops, progress.

Sets of points have shape (n, 2), larger is better in both columns. `igd_plus` and `epsilon_additive` take points of the
`unit_square`, so that a tenth of the scale of accuracy weighs as much as a tenth of that of speed.
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .benchmark import REFERENCE_DROP
from .errors import LeaderboardError
from .pareto import hypervolume

ATTAINMENT = (0.1, 0.5, 0.9)
"""Shares of runs whose attainment surfaces are drawn."""
# A drop of exactly one point is within one point, whatever the subtraction leaves.
_ROUNDING = 1e-12


def igd_plus(points: ArrayLike, reference: ArrayLike) -> float:
    """Mean distance from the reference points to what `points` dominate; 0 where they reach all, smaller is better.

    Shapes (n, 2) and (m, 2), m ≥ 1. An empty set counts as (0, 0), the corner of the `unit_square` that every point in
    it dominates. IGD+ of Ishibuchi, Masuda, Tanigaki and Nojima, EMO 2015; unlike IGD it never prefers the dominated.
    """
    return float(moocore.igd_plus(_with_corner(points), ref=_reference(reference), maximise=True))


def epsilon_additive(points: ArrayLike, reference: ArrayLike) -> float:
    """The least that must be added to both coordinates of all `points` for them to reach every reference point.

    Arguments as in `igd_plus`; below 0 where the set is ahead of the reference everywhere. Zitzler et al., Performance
    assessment of multiobjective optimizers, IEEE Transactions on Evolutionary Computation 7, 2003.
    """
    return float(moocore.epsilon_additive(_with_corner(points), ref=_reference(reference), maximise=True))


def attainment(runs: Sequence[ArrayLike], share: float) -> NDArray[np.float64]:
    """Corners of the border of what at least `share` (in 0…1, not 0) of the runs reach, shape (k, 2), fastest first.

    A run is a set of points, shape (n, 2), in any units, empty where it reached nothing; it reaches all that one of its
    points equals or beats in both columns. Empty where too few runs reach anything in common. Grunert da Fonseca,
    Fonseca and Hall, Inferential performance assessment of stochastic optimisers and the attainment function, EMO 2001.
    """
    sets = [np.asarray(run, dtype=float).reshape(-1, 2) for run in runs]
    if not (0 < share <= 1) or not all(np.isfinite(points).all() for points in sets):
        raise LeaderboardError(f"share {share} of {len(sets)} runs: above 0 up to 1, of finite points, is expected")
    # Left out, an empty set would not count among the runs; it stands as a point that no other is behind.
    nowhere = np.array([[-np.inf, -np.inf]])
    labels = np.repeat(np.arange(len(sets)), [max(len(points), 1) for points in sets])
    points = np.concatenate([points if len(points) else nowhere for points in sets]) if sets else np.zeros((0, 2))
    if not np.isfinite(points).any():
        return np.zeros((0, 2))
    found = -np.asarray(moocore.eaf(-points, labels, percentiles=[100 * share]))[:, :2]
    found = found[np.isfinite(found).all(axis=1)]
    return found[np.argsort(-found[:, 0], kind="stable")]


def at_gain(gain: ArrayLike, validation: ArrayLike, wanted: float) -> int | None:
    """Index of the network to take for a gain of at least `wanted`: the best on validation of those that have it, the
    fastest of equals; None where none has it. Shapes (n,).

    Chosen so, its test accuracy is not flattered by the choice, as that of the best on test would be.
    """
    g, v = np.asarray(gain, dtype=float), np.asarray(validation, dtype=float)
    fit = np.flatnonzero(g >= wanted)
    return int(fit[np.lexsort((g[fit], v[fit]))[-1]]) if len(fit) else None


def at_drop(gain: ArrayLike, drop: ArrayLike, allowed: float) -> int | None:
    """Index of the fastest network whose validation accuracy lies at most `allowed` below the dense one, the most
    accurate of equals; None where none does. `drop` (fractions) and `gain` have shape (n,); NaN is no known drop.
    """
    g, d = np.asarray(gain, dtype=float), np.asarray(drop, dtype=float)
    fit = np.flatnonzero(d <= allowed + _ROUNDING)
    return int(fit[np.lexsort((-d[fit], g[fit]))[-1]]) if len(fit) else None


def running_hypervolume(
    gain: ArrayLike, accuracy: ArrayLike, dense_accuracy: float, cap: float, reference_drop: float = REFERENCE_DROP
) -> NDArray[np.float64]:
    """Hypervolume of the first 1, 2, … n networks of a search, shape (n,); a gain of NaN adds nothing."""
    g, a = np.asarray(gain, dtype=float), np.asarray(accuracy, dtype=float)
    known = ~np.isnan(g)
    if not known.any():
        return np.zeros(len(g))
    counted = [
        hypervolume(g[known][:count], a[known][:count], dense_accuracy, cap, reference_drop)
        for count in range(1, int(known.sum()) + 1)
    ]
    return np.concatenate([[0.0], counted])[np.cumsum(known)]


def step(at: ArrayLike, times: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Where a curve that takes `values` at rising `times`, shape (n,) each, stands at `at`, shape (m,); 0 before."""
    place = np.searchsorted(np.asarray(times, dtype=float), np.asarray(at, dtype=float), side="right")
    return np.concatenate([[0.0], np.asarray(values, dtype=float)])[place]


def _with_corner(points: ArrayLike) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(points, dtype=float).reshape(-1, 2), [[0.0, 0.0]]])


def _reference(reference: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(reference, dtype=float)
    if values.ndim != 2 or values.shape[1] != 2 or not len(values):
        raise LeaderboardError(f"reference front of shape {values.shape}: (m, 2) with m ≥ 1 is expected")
    return values
