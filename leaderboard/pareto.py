"""Pareto maths on arrays: who is not beaten, the front, and the hypervolume that ranks strategies."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import LeaderboardError

# The protocol, point 7: accuracy counts from ten points below the dense network up to a tenth of that above it.
_REFERENCE_DROP = 0.10
_MAX_GAIN = 1.1


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


def hypervolume(speedup: ArrayLike, accuracy: ArrayLike, dense_accuracy: float, cap: float) -> float:
    """How much of the trade-off between speed and accuracy a set of networks covers, in 0…1.

    `speedup` (ratios) and `accuracy` (fractions) have shape (n,). With u = min(log2 s ÷ log2 cap, 1) and
    v = clip((A − A_ref) ÷ (A_dense − A_ref), 0, 1.1), A_ref = A_dense − 0.10, it is the area that the points dominate
    from (0, 0), divided by 1.1. Points with speed-up ≤ 1 or v = 0 add nothing. `cap` is 8 for measured targets, 64 for
    modelled ones. Raises `LeaderboardError` for a cap ≤ 1 or figures that are not finite.
    """
    s, a = np.asarray(speedup, dtype=float), np.asarray(accuracy, dtype=float)
    if s.ndim != 1 or s.shape != a.shape or not (np.isfinite(s).all() and np.isfinite(a).all()):
        raise LeaderboardError(f"speed-ups {s.shape} and accuracies {a.shape}: finite, of one shape (n,), is expected")
    if not (np.isfinite(cap) and cap > 1 and np.isfinite(dense_accuracy)):
        raise LeaderboardError(
            f"cap {cap}, dense accuracy {dense_accuracy}: a cap above 1 and a finite accuracy expected"
        )
    faster = s > 1
    u = np.minimum(np.log2(s[faster]) / np.log2(cap), 1.0)
    v = np.clip((a[faster] - (dense_accuracy - _REFERENCE_DROP)) / _REFERENCE_DROP, 0.0, _MAX_GAIN)
    points = np.column_stack([u, v])[v > 0]
    if not len(points):
        return 0.0
    return float(moocore.hypervolume(points, ref=[0.0, 0.0], maximise=True)) / _MAX_GAIN
