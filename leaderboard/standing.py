"""One strategy's results on a benchmark: its figures with their intervals, and what they were made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .benchmark import Benchmark
from .deviations import deviations
from .finals import Final, Searched
from .indicators import ATTAINMENT, at_drop, at_gain, attainment
from .progress import Progress, curves, search_seconds
from .replicates import Point, Run, by_seed, gain, grouped
from .statistics import Estimate, bootstrap_interval, estimate, geometric

GAINS = (1.25, 1.5, 2.0, 3.0, 4.0)
"""At which accuracies are compared."""
DROPS = (0.005, 0.01, 0.02)
"""At which gains are compared, in fractions."""


@dataclass(frozen=True)
class At:
    """A strategy at a gain of at least `wanted`, or at most `wanted` below the dense network on validation.

    Estimates are over the `reached` of `seeds` searches that have such a network, and None where none has.
    """

    wanted: float
    reached: int
    seeds: int
    gain: Estimate | None
    """Geometric."""
    accuracy: Estimate | None
    drop: Estimate | None
    """Test accuracy, and how far it is below that of the dense networks of the same seeds; fractions."""


@dataclass(frozen=True)
class Surface:
    """Border of what a share of a strategy's runs (a search and a fresh seed each) reaches on the test split."""

    share: float
    points: tuple[tuple[float, float], ...]
    """(gain, accuracy) of its corners, fastest first."""


@dataclass(frozen=True)
class TrainingCost:
    """What a finalist of a strategy takes to train, means over its finalists and then over search seeds; seconds."""

    epochs: Estimate
    seconds: Estimate
    total_epochs: Estimate
    total_seconds: Estimate
    """From fresh weights to the result, the dense network's training included where the recipe starts from it."""
    epoch_fp32: Estimate | None
    dense_epoch_fp32: Estimate | None
    """An epoch of the shrunk network and one of the dense network, where they were timed."""
    search_seconds: Estimate | None
    search_training_seconds: Estimate | None
    """All full evaluations of one search, and the training among it; None where its entries do not tell."""


@dataclass(frozen=True)
class Ranked:
    """One strategy on a benchmark. Figures are of the test split; estimates are over search seeds."""

    rank: int | None
    """1 + the number of strategies that are significantly better; None for fewer than two search seeds."""
    strategy: str
    hypervolume: Estimate | None
    """None where it has no finalists."""
    bootstrap: tuple[float, float] | None
    """Percentile bootstrap interval of the mean hypervolume, beside the t-interval."""
    front_probability: float | None
    """That it adds a point to the front of all strategies, over searches and fresh seeds."""
    igd_plus: Estimate | None
    epsilon: Estimate | None
    """Distances from the benchmark's reference front in the unit square; None where it has none."""
    at_gain: tuple[At, ...]
    at_drop: tuple[At, ...]
    training: TrainingCost | None
    runs: tuple[Run, ...]
    points: tuple[Point, ...]
    attainment: tuple[Surface, ...]
    progress: tuple[Progress, ...]
    deviations: tuple[str, ...]
    """What is not as the benchmark asks for."""


@dataclass(frozen=True)
class Results:
    """All that there is of one strategy on a benchmark."""

    strategy: str
    finals: Sequence[Final]
    runs: Sequence[Run]
    points: Sequence[Point]
    searched: Sequence[Searched]

    @property
    def hypervolume(self) -> Estimate | None:
        """Over search seeds, of the means over their runs; None without a run."""
        return _over_seeds(self.runs, lambda run: run.hypervolume)


def ranked(
    benchmark: Benchmark, own: Results, rank: int, front_probability: float | None, dense_validation: float
) -> Ranked:
    """The line of one strategy; `dense_validation` is the dense accuracy on the split that searches look at."""
    replicates = by_seed(own.runs, lambda run: run.hypervolume)
    at = own.points
    return Ranked(
        rank=rank if len(replicates) > 1 else None,
        strategy=own.strategy,
        hypervolume=own.hypervolume,
        bootstrap=bootstrap_interval(list(replicates.values())) if replicates else None,
        front_probability=front_probability,
        igd_plus=_over_seeds(own.runs, lambda run: run.igd_plus),
        epsilon=_over_seeds(own.runs, lambda run: run.epsilon),
        at_gain=tuple(_at(at, wanted, at_gain, lambda p: p.validation) for wanted in GAINS) if at else (),
        at_drop=tuple(_at(at, wanted, at_drop, _validation_drop) for wanted in DROPS) if at else (),
        training=_training(own) if own.finals else None,
        runs=tuple(own.runs),
        points=tuple(at),
        attainment=_surfaces(benchmark, own.finals) if own.finals else (),
        progress=tuple(curves(benchmark, own.searched, dense_validation)),
        deviations=tuple(deviations(benchmark, own.finals, own.searched)),
    )


def _at(
    points: Sequence[Point],
    wanted: float,
    choose: Callable[[Any, Any, float], int | None],
    by: Callable[[Point], float],
) -> At:
    """The point of each search that `choose` takes from gains and what `by` tells, and what it has on test."""
    seeds = grouped(points, lambda p: p.search_seed)
    taken = []
    for _, own in seeds:
        known = [p for p in own if p.gain is not None]
        index = choose([p.gain for p in known], [by(p) for p in known], wanted)
        if index is not None:
            taken.append(known[index])
    drops = [p.drop for p in taken if p.drop is not None]
    return At(
        wanted=wanted,
        reached=len(taken),
        seeds=len(seeds),
        gain=geometric([p.gain for p in taken if p.gain is not None]) if taken else None,
        accuracy=estimate([p.accuracy for p in taken]) if taken else None,
        drop=estimate(drops) if drops else None,
    )


def _training(own: Results) -> TrainingCost:
    def over(of: Callable[[Final], float]) -> Estimate:
        return estimate(list(by_seed(own.finals, of).values()))

    return TrainingCost(
        epochs=over(lambda f: f.epochs),
        seconds=over(lambda f: f.seconds),
        total_epochs=over(lambda f: f.total_epochs),
        total_seconds=over(lambda f: f.total_seconds),
        epoch_fp32=_over_seeds(own.finals, lambda f: f.epoch_fp32),
        dense_epoch_fp32=_over_seeds(own.finals, lambda f: f.dense_epoch_fp32),
        search_seconds=search_seconds(own.searched, "evaluation_seconds"),
        search_training_seconds=search_seconds(own.searched, "training_seconds"),
    )


def _surfaces(benchmark: Benchmark, finals: Sequence[Final]) -> tuple[Surface, ...]:
    by_run = grouped(finals, lambda f: (f.search_seed, f.study, f.seed))
    reached = [[(value, f.accuracy) for f in own if (value := gain(benchmark, f)) is not None] for _, own in by_run]
    return tuple(
        Surface(share, tuple((float(g), float(a)) for g, a in attainment(reached, share))) for share in ATTAINMENT
    )


def _over_seeds(items: Sequence[Any], of: Callable[[Any], float | None]) -> Estimate | None:
    """Over search seeds, of the items that tell; None where none does."""
    told = [item for item in items if of(item) is not None]
    return estimate(list(by_seed(told, lambda item: of(item) or 0.0).values())) if told else None


def _validation_drop(point: Point) -> float:
    return np.nan if point.validation_drop is None else point.validation_drop
