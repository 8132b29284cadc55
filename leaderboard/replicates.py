"""Finals arranged for the statistics: what counts for a benchmark, its runs, and its points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .benchmark import Benchmark
from .finals import Final, Searched
from .indicators import epsilon_additive, igd_plus
from .pareto import hypervolume, non_dominated, unit_square

DENSE = "dense"
"""Name of the control that every batch of finalists holds; `dense+FORMAT` is the same network in a number format."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Run:
    """A strategy's finalists of one search on one fresh seed, scored together on the test split."""

    strategy: str
    search_seed: int
    study: str
    seed: int
    points: int
    hypervolume: float
    igd_plus: float | None
    epsilon: float | None
    """From the benchmark's reference front; None where it has none."""


@dataclass(frozen=True)
class Point:
    """A finalist: one network of one search, in means over the fresh seeds that it was trained on.

    Means of gains, latencies and energies are geometric. Accuracies and drops are fractions; a drop is measured from
    the dense network of the same fresh seed, and None where that is missing.
    """

    strategy: str
    search_seed: int
    study: str
    trial: int
    seeds: int
    front: bool
    """On the front of all strategies' points of its search seed, on the test split."""
    gain: float | None
    low: float | None
    high: float | None
    """Means of the ends of its measurements' 95 % intervals; None on a track that measures nothing."""
    latency: float | None
    energy: float | None
    validation: float
    validation_drop: float | None
    accuracy: float
    accuracy_sd: float | None
    """Over its fresh seeds: of this network, and not of the strategy."""
    drop: float | None
    parameters: float
    macs: float
    bytes: float


@dataclass(frozen=True)
class Arranged:
    """The finals that a benchmark ranks, in an order that does not depend on that in which they were given."""

    finals: tuple[Final, ...]
    """Chosen finalists of the benchmark's search seeds, each once for every fresh seed."""
    dense: dict[str, Final]
    """Dense fp32 control by final study."""
    others: tuple[Final, ...]
    """Finalists and controls that are shown beside them and not ranked: of the same final studies."""
    notes: tuple[str, ...]


def arrange(benchmark: Benchmark, finals: Iterable[Final]) -> Arranged:
    """Sorts out what is ranked by `benchmark`, with a note on all that is left out."""
    ordered = sorted(finals, key=lambda f: (f.strategy, str(f.study), _or(f.trial), f.seed, f.final_study, f.id))
    chosen = [f for f in ordered if f.role == "finalist" and f.chosen]
    ranked, outside, again = dict[Any, Final](), list[Final](), 0
    for final in chosen:
        if final.search_seed not in benchmark.search_seeds:
            outside.append(final)
            continue
        first = ranked.setdefault((final.strategy, final.study, final.trial, final.search_seed, final.seed), final)
        again += first is not final
    studies = {final.final_study for final in ranked.values()}
    beside = [f for f in ordered if f.final_study in studies and not (f.role == "finalist" and f.chosen)]
    dense = {f.final_study: f for f in beside if f.role == "control" and f.strategy == DENSE}
    notes = []
    if outside:
        seeds = sorted({_or(f.search_seed) for f in outside})
        notes.append(
            f"{len(outside)} entries of search seeds {_listed(seeds)} are left out: {benchmark.id} ranks by "
            f"{_listed(sorted(benchmark.search_seeds))}, set before anything was ranked"
        )
    if again:
        notes.append(f"{again} entries of a finalist and fresh seed that are there already are left out")
    shared = [
        fresh for fresh, own in grouped(ranked.values(), lambda f: f.seed) if len({f.search_seed for f in own}) > 1
    ]
    if shared:
        notes.append(f"fresh seeds {_listed(shared)} serve several search seeds, whose results then share their luck")
    without = sorted(studies - dense.keys())
    if without:
        notes.append(f"no control {DENSE} in {len(without)} of {len(studies)} final studies: drops there are unknown")
    return Arranged(tuple(ranked.values()), dense, tuple(beside), tuple(notes))


def gain(benchmark: Benchmark, of: Final | Searched) -> float | None:
    """What counts on the benchmark's track: the speed-up, or how many times fewer the parameters are."""
    if benchmark.track == "parameters":
        return of.dense_parameters / of.parameters if of.parameters and of.dense_parameters else None
    return of.speedup


def runs(benchmark: Benchmark, finals: Iterable[Final]) -> list[Run]:
    """One for each strategy, search and fresh seed; finals without a gain add nothing to theirs."""
    square = (benchmark.dense_accuracy, benchmark.cap, benchmark.reference_drop)
    reference = unit_square([g for g, _ in benchmark.front], [a for _, a in benchmark.front], *square)
    found = []
    for (strategy, seed, study, fresh), own in grouped(finals, lambda f: (f.strategy, f.search_seed, f.study, f.seed)):
        known = [(value, f.accuracy) for f in own if (value := gain(benchmark, f)) is not None]
        gains, accuracies = [value for value, _ in known], [accuracy for _, accuracy in known]
        points = unit_square(gains, accuracies, *square)
        distances = (
            (igd_plus(points, reference), epsilon_additive(points, reference)) if len(reference) else (None,) * 2
        )
        volume = hypervolume(gains, accuracies, *square)
        found.append(Run(strategy, seed, study, fresh, len(own), volume, *distances))
    return found


def points(benchmark: Benchmark, arranged: Arranged) -> list[Point]:
    """One for each finalist, with its place on the joint front of its search seed."""
    found = [
        _point(benchmark, own, arranged.dense)
        for _, own in grouped(arranged.finals, lambda f: (f.strategy, f.search_seed, f.study, f.trial))
    ]
    placed = []
    for _, of_seed in grouped(found, lambda p: p.search_seed):
        at = np.array([[np.nan if p.gain is None else p.gain, p.accuracy] for p in of_seed])
        placed += [replace(p, front=bool(on)) for p, on in zip(of_seed, on_front(benchmark, at), strict=True)]
    return placed


def on_front(benchmark: Benchmark, points: ArrayLike) -> NDArray[np.bool_]:
    """Which (gain, accuracy) of `points`, shape (n, 2), are on the front of those that count in the hypervolume.

    Shape (n,), False for NaN. What is no faster than the dense network or has lost too much is part of no trade-off.
    """
    at = np.asarray(points, dtype=float).reshape(-1, 2)
    counts = (at[:, 0] > 1) & (at[:, 1] > benchmark.dense_accuracy - benchmark.reference_drop)
    on = np.zeros(len(at), dtype=bool)
    on[counts] = non_dominated(at[counts])
    return on


def grouped(items: Iterable[_T], key: Callable[[_T], Any]) -> list[tuple[Any, list[_T]]]:
    """Items by key, keys in order, items in the order given."""
    return [(found, list(own)) for found, own in groupby(sorted(items, key=key), key=key)]


def mean(values: Iterable[float]) -> float:
    """Of at least one value."""
    return float(np.mean(list(values)))


def by_seed(items: Iterable[Any], of: Callable[[Any], float]) -> dict[int, float]:
    """Search seed → mean of what its items tell."""
    return {seed: mean(map(of, own)) for seed, own in grouped(items, lambda item: item.search_seed)}


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of what is there and above 0; None where nothing is."""
    there = [value for value in values if value is not None and value > 0]
    return float(np.exp(np.mean(np.log(there)))) if there else None


def _point(benchmark: Benchmark, own: Sequence[Final], dense: dict[str, Final]) -> Point:
    first = own[0]
    assert first.search_seed is not None and first.study is not None and first.trial is not None
    beside = [(f, dense[f.final_study]) for f in own if f.final_study in dense]
    accuracies = [f.accuracy for f in own]
    return Point(
        strategy=first.strategy,
        search_seed=first.search_seed,
        study=first.study,
        trial=first.trial,
        seeds=len(own),
        front=False,
        gain=geometric_mean(gain(benchmark, f) for f in own),
        low=geometric_mean(f.low for f in own) if benchmark.track != "parameters" else None,
        high=geometric_mean(f.high for f in own) if benchmark.track != "parameters" else None,
        latency=geometric_mean(f.latency for f in own),
        energy=geometric_mean(f.energy for f in own),
        validation=mean(f.validation for f in own),
        validation_drop=mean(d.validation - f.validation for f, d in beside) if beside else None,
        accuracy=mean(accuracies),
        accuracy_sd=float(np.std(accuracies, ddof=1)) if len(own) > 1 else None,
        drop=mean(d.accuracy - f.accuracy for f, d in beside) if beside else None,
        parameters=mean(f.parameters for f in own),
        macs=mean(f.macs for f in own),
        bytes=mean(f.bytes for f in own),
    )


def _or(number: int | None) -> int:
    return -1 if number is None else number


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
