"""How searches went on: hypervolume on the validation split against trials and seconds, and what a search took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .benchmark import Benchmark
from .finals import Searched
from .indicators import running_hypervolume, step
from .replicates import gain, grouped
from .statistics import Estimate, estimate

Against = Literal["trials", "evaluation_seconds", "training_seconds"]
_SECONDS: dict[Against, Callable[[Searched], float | None]] = {
    "evaluation_seconds": lambda one: one.evaluation_seconds,
    "training_seconds": lambda one: one.seconds,
}


@dataclass(frozen=True)
class Progress:
    """Hypervolume of a strategy's search on the validation split after so many trials or seconds of its evaluations.

    Means over search seeds, with t-intervals; trials as far as all its searches went, seconds as if one trial were
    evaluated at a time. Networks were chosen by these accuracies: for comparing searches, never to be set beside the
    hypervolume of the test.
    """

    against: Against
    seeds: int
    at: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


def curves(benchmark: Benchmark, searched: Sequence[Searched], dense_validation: float) -> list[Progress]:
    """Of one strategy; against seconds only where all its entries tell them.

    `dense_validation` stands for the dense accuracy of the benchmark, which is that of the test split.
    """
    searches = _searches(searched)
    if not searches:
        return []
    seeds = [seed for seed, _ in searches]
    volumes = [_volumes(benchmark, own, dense_validation) for _, own in searches]
    shortest = min(map(len, volumes))
    found = [_mean("trials", np.arange(1, shortest + 1), seeds, [values[:shortest] for values in volumes])]
    for against, of in _SECONDS.items():
        spent = [_told(own, of) for _, own in searches]
        if None in spent:
            continue
        times = [np.cumsum(seconds) for seconds in spent if seconds is not None]
        at = np.unique(np.concatenate(times))
        found.append(_mean(against, at, seeds, [step(at, t, values) for t, values in zip(times, volumes, strict=True)]))
    return found


def search_seconds(searched: Sequence[Searched], against: Against) -> Estimate | None:
    """Seconds that one search of a strategy took, over search seeds; None where its entries do not tell."""
    totals = []
    for seed, own in _searches(searched):
        seconds = _told(own, _SECONDS[against])
        if seconds is None:
            return None
        totals.append((seed, sum(seconds)))
    by_seed = grouped(totals, lambda total: total[0])
    return estimate([float(np.mean([seconds for _, seconds in same])) for _, same in by_seed]) if by_seed else None


def _searches(searched: Sequence[Searched]) -> list[tuple[int, list[Searched]]]:
    """(search seed, its evaluations in the order in which they ended) of every search."""
    by_search = grouped(searched, lambda one: (one.seed, one.study))
    return [(seed, sorted(own, key=lambda one: (one.created, one.trial))) for (seed, _), own in by_search]


def _volumes(benchmark: Benchmark, own: Sequence[Searched], dense: float) -> NDArray[np.float64]:
    gains = [np.nan if (value := gain(benchmark, one)) is None else value for one in own]
    return running_hypervolume(gains, [one.accuracy for one in own], dense, benchmark.cap, benchmark.reference_drop)


def _told(own: Sequence[Searched], of: Callable[[Searched], float | None]) -> list[float] | None:
    values = [value for one in own if (value := of(one)) is not None]
    return values if len(values) == len(own) else None


def _mean(against: Against, at: NDArray[Any], seeds: Sequence[int], curves: Sequence[NDArray[np.float64]]) -> Progress:
    """Over search seeds, of curves that stand at `at`; several of one seed are averaged first."""
    labels = np.array(seeds)
    by_seed = np.array(
        [
            np.mean([c for c, s in zip(curves, labels, strict=True) if s == seed], axis=0)
            for seed in dict.fromkeys(seeds)
        ]
    )
    found = [estimate(column) for column in by_seed.T]
    return Progress(
        against,
        len(by_seed),
        tuple(float(x) for x in at),
        tuple(one.mean for one in found),
        tuple(one.low for one in found),
        tuple(one.high for one in found),
    )
