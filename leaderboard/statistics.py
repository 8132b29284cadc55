"""Statistics of a ranking on arrays: intervals, paired differences, Holm's correction, shared ranks, resampling.

What is replicated is the caller's to say: every function takes one value for each independent replicate. Values of one
replicate, such as several trainings of one search's networks, are averaged before; counted one by one they would claim
a precision that is not there (Hurlbert, Pseudoreplication, Ecological Monographs 54, 1984).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .errors import LeaderboardError

LEVEL = 0.95
"""Of every interval."""
ALPHA = 0.05
"""Below it an adjusted p-value is significant."""
# Values that only rounding tells apart are equal: a t of 1e16 would otherwise come from differences that do not vary.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` independent replicates, their standard deviation (n − 1), and the 95 % t-interval `low`…`high`.

    Of one replicate nothing is known but its value: `sd`, `low` and `high` are then None.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int


def estimate(values: ArrayLike) -> Estimate:
    """Mean of `values`, shape (n,), one per independent replicate, with Student's t-interval.

    The interval supposes values from about a normal distribution, and says nothing of a bounded scale: that of a share
    may reach beyond 0 or 1. Raises `LeaderboardError` for no value or one that is not finite.
    """
    x = _finite(values)
    n, mean = len(x), float(x.mean())
    if n < 2:
        return Estimate(mean, None, None, None, n)
    sd = float(x.std(ddof=1))
    if sd <= _ROUNDING * np.abs(x).max():
        sd = 0.0
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * sd / float(np.sqrt(n))
    return Estimate(mean, sd, mean - half, mean + half, n)


def geometric(ratios: ArrayLike) -> Estimate:
    """As `estimate` on the logarithm, and back: for ratios such as speed-ups. `sd` is a factor, 1 where all are equal.

    The mean of speed-ups is larger than the inverse of the mean of slow-downs; the geometric one is the same either way
    (Fleming and Wallace, How not to lie with statistics, CACM 29, 1986). Raises `LeaderboardError` for a ratio ≤ 0.
    """
    x = _finite(ratios)
    if (x <= 0).any():
        raise LeaderboardError(f"ratio {x.min()}: above 0 is expected")
    found = estimate(np.log(x))
    mean, sd, low, high = (
        None if v is None else float(np.exp(v)) for v in (found.mean, found.sd, found.low, found.high)
    )
    assert mean is not None
    return Estimate(mean, sd, low, high, found.n)


def paired(a: ArrayLike, b: ArrayLike) -> tuple[Estimate, float | None]:
    """Mean of a − b, shape (n,) each, with its t-interval, and the two-sided p-value of Student's paired t-test.

    a[i] and b[i] belong to one replicate: what makes it easy or hard for both cancels. The p-value is None for fewer
    than two replicates; where all differences are equal it is the limit, 1 if they are zero and 0 otherwise.
    """
    x, y = _finite(a), _finite(b)
    if x.shape != y.shape:
        raise LeaderboardError(f"{len(x)} and {len(y)} values: one of each for every replicate is expected")
    found = estimate(x - y)
    if found.sd is None:
        return found, None
    scale = _ROUNDING * max(1.0, float(np.abs(np.concatenate([x, y])).max()))
    if found.sd <= scale:
        return found, float(abs(found.mean) <= scale)
    t = found.mean / (found.sd / np.sqrt(found.n))
    return found, float(2 * stats.t.sf(abs(t), found.n - 1))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values, shape (m,), of a family of m tests with the p-values `p`.

    Where they are held against 0.05, the chance that any test of the family rejects wrongly is at most 5 %, however the
    tests depend on one another. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979.
    """
    values = np.asarray(p, dtype=float)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise LeaderboardError(f"p-values of shape {values.shape}: (m,), each in 0…1, is expected")
    order = np.argsort(values, kind="stable")
    stepped = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def resolution(n: int, m: int) -> float:
    """Standard deviations between 0 and a mean of n ≥ 2 differences from which on Holm rejects the first of m tests."""
    return float(stats.t.ppf(1 - ALPHA / (2 * m), n - 1) / np.sqrt(n))


def shared_ranks(better: ArrayLike) -> NDArray[np.intp]:
    """Rank of each of k, shape (k,): one more than there are others better; better[i, j] says that i is better than j.

    Those that cannot be told apart share a rank. It is what was shown, not a guess at the order: one whose values vary
    much can be told from few, and may hold a better rank than another with a higher mean.
    """
    return 1 + np.asarray(better, dtype=bool).sum(axis=0)


def bootstrap_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap interval (95 %) of the mean of `values`, shape (n,); None for fewer than two.

    It supposes no distribution, but of five normal values it covers only 84 %: a second opinion, no more. Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    x = _finite(values)
    if len(x) < 2:
        return None
    found = stats.bootstrap((x,), np.mean, confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(seed))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def hierarchical_bootstrap(
    groups: Sequence[NDArray[np.float64]], draws: int, seed: int = 0
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Resamples on two levels: a group (a search), then as many of its members (trainings) as it has, and their means.

    A group has shape (members, …); NaN is absent and left out of a mean, which is NaN where nothing is left. Yields
    `draws` times for each group its index and the means, shape (…): groups are equally likely, and taken in turns they
    give the same expectation as drawn ones with less noise. Davison and Hinkley, Bootstrap Methods, 1997, section 3.8.
    """
    random = np.random.default_rng(seed)
    for index, group in enumerate(groups):
        there = ~np.isnan(group)
        for drawn in random.integers(len(group), size=(draws, len(group))):
            count = there[drawn].sum(axis=0)
            total = group[drawn].sum(axis=0, where=there[drawn])
            yield index, np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise LeaderboardError(f"values of shape {x.shape}: (n,) with n ≥ 1, all finite, is expected")
    return x
