"""Pareto maths on arrays: who is not beaten, the front, and the hypervolume that ranks strategies."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .benchmark import REFERENCE_DROP
from .errors import LeaderboardError

# The protocol, point 7: accuracy counts up to a tenth above the dense network of what counts below it.
_MAX_V = 1.1


def non_dominated(points: ArrayLike, maximise: bool | Sequence[bool] = True) -> NDArray[np.bool_]:
    """Which rows of `points`, shape (n, m), no other row beats; equal rows stand or fall together. Shape (n,).

    `maximise` says for every column, or for all, whether larger is better. Raises `LeaderboardError` for NaN.
    """
    values = np.asarray(points, dtype=float)
    if values.ndim != 2 or np.isnan(values).any():
        raise LeaderboardError(f"points of shape {values.shape}: (n, m) without NaN is expected")
    if not len(values):
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(values, maximise=maximise, keep_weakly=True), dtype=bool)


def front(speedup: ArrayLike, accuracy: ArrayLike) -> NDArray[np.intp]:
    """Indices of the front that maximises both arrays, shape (n,) each; fastest first, equal points in given order."""
    points = np.column_stack([np.asarray(speedup, dtype=float), np.asarray(accuracy, dtype=float)])
    kept = np.flatnonzero(non_dominated(points))
    return kept[np.argsort(-points[kept, 0], kind="stable")]


def unit_square(
    gain: ArrayLike, accuracy: ArrayLike, dense_accuracy: float, cap: float, reference_drop: float = REFERENCE_DROP
) -> NDArray[np.float64]:
    """The points (u, v) of a set of networks that count, shape (k, 2) with k ≤ n: both larger is better.

    `gain` (ratios, such as speed-ups) and `accuracy` (fractions) have shape (n,). u = min(log2 gain ÷ log2 cap, 1) and
    v = clip((A − A_ref) ÷ (A_dense − A_ref), 0, 1.1), A_ref = A_dense − `reference_drop`. Networks of gain ≤ 1 or
    v = 0 do not count. `cap` is 8 for measured targets, 64 for modelled ones. Raises `LeaderboardError` for a cap ≤ 1,
    a drop ≤ 0 or figures that are not finite.
    """
    s, a = np.asarray(gain, dtype=float), np.asarray(accuracy, dtype=float)
    if s.ndim != 1 or s.shape != a.shape or not (np.isfinite(s).all() and np.isfinite(a).all()):
        raise LeaderboardError(f"gains {s.shape} and accuracies {a.shape}: finite, of one shape (n,), is expected")
    if not (np.isfinite([cap, dense_accuracy, reference_drop]).all() and cap > 1 and reference_drop > 0):
        raise LeaderboardError(
            f"cap {cap}, dense accuracy {dense_accuracy}, reference drop {reference_drop}: a cap above 1, a finite "
            "accuracy and a drop above 0 are expected"
        )
    faster = s > 1
    u = np.minimum(np.log2(s[faster]) / np.log2(cap), 1.0)
    v = np.clip((a[faster] - (dense_accuracy - reference_drop)) / reference_drop, 0.0, _MAX_V)
    return np.column_stack([u, v])[v > 0]


def hypervolume(
    gain: ArrayLike, accuracy: ArrayLike, dense_accuracy: float, cap: float, reference_drop: float = REFERENCE_DROP
) -> float:
    """How much of the trade-off between speed and accuracy a set of networks covers, in 0…1.

    It is the area that their points in the `unit_square` dominate from (0, 0), divided by 1.1; arguments and errors are
    those of `unit_square`.
    """
    points = unit_square(gain, accuracy, dense_accuracy, cap, reference_drop)
    if not len(points):
        return 0.0
    return float(moocore.hypervolume(points, ref=[0.0, 0.0], maximise=True)) / _MAX_V
