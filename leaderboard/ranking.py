"""The ranking of strategies on one benchmark, as plain data that the table, the page and the files are drawn from.

What a statistician would ask, and what is done about it:

- What is n? The number of search seeds. The fresh seeds of one search's finalists are averaged first: they tell how a
  network trains, not how the strategy's next search would end. Which seeds count is frozen in the benchmark, so that no
  one can search on until the order pleases.
- Multiplicity. All pairs of strategies are tested, and Holm's correction is over all of them, shown or not: the chance
  that anyone is wrongly called better is at most 5 %. Intervals of differences are each for itself, and one that leaves
  out 0 is not yet a difference of ranks.
- Pairing. Two strategies are compared search seed by search seed, in each on the fresh seeds that both have; where
  some are missing, the difference need not be that of the two means.
- Ties. Whoever cannot be told apart shares a rank: it says that no difference was shown, not that there is none. With
  few seeds most ranks are shared. Equal points stand on a front together.
- Winner's curse. Points were chosen by validation accuracy of a search, trained again on fresh seeds and scored on the
  test split; fixed speeds and drops are chosen by validation and scored on test too. What stays: whoever is first of
  many is partly lucky, and the curves of searches show accuracies by which their networks were chosen.
- Survivors. A strategy that was searched and has no finalists, or one search only, is listed without a rank, and one
  whose budget or seeds are not those of the benchmark with what deviates. Means at a fixed speed are over the searches
  that reached it: those of two strategies compare only where both did in all.
- The t-interval supposes means of about normal distribution, which three seeds cannot show; the bootstrap beside it
  does not, but covers less than it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from .benchmark import Benchmark
from .controls import DenseControl, StructureControl, dense_controls, structure_controls
from .errors import LeaderboardError, quoted
from .finals import Final, Searched
from .replicates import DENSE, Arranged, Run, arrange, gain, grouped, mean, on_front, points, runs
from .standing import Ranked, Results, ranked
from .statistics import ALPHA, Estimate, hierarchical_bootstrap, holm, paired, resolution, shared_ranks

if TYPE_CHECKING:
    from .store import Store

MANDATORY = {
    "random": "random channels",
    "uniform": "one ratio everywhere",
    "l1": "layer-wise magnitude",
    "global_l1": "global magnitude",
}
"""Pruners that every ranking needs, for others to be better than."""
DRAWS = 1000
"""Of the bootstrap of fronts, for each search seed."""


@dataclass(frozen=True)
class Pair:
    """Mean hypervolume of `first` − that of `second`, paired by search seed; `first` has the higher mean."""

    first: str
    second: str
    difference: Estimate | None
    p: float | None
    adjusted: float | None
    """p of the paired t-test alone, and after Holm over all pairs; None for fewer than two common search seeds."""
    better: str | None
    worse: str | None
    """Which is which, where the difference is significant."""


@dataclass(frozen=True)
class Ranking:
    """Strategies by mean hypervolume, highest first; those without one come last."""

    benchmark: Benchmark
    strategies: tuple[Ranked, ...]
    pairs: tuple[Pair, ...]
    dense: tuple[DenseControl, ...]
    structure: tuple[StructureControl, ...]
    notes: tuple[str, ...]
    """What was left out, and what is missing for all."""

    def only(self, names: Sequence[str]) -> Ranking:
        """This ranking with these strategies shown: their ranks and corrections stay those among all.

        Raises `LeaderboardError` for a name that it does not hold.
        """
        there = [one.strategy for one in self.strategies]
        for name in names:
            if name not in there:
                known = f"there are {', '.join(map(quoted, there))}" if there else "nothing is ranked yet"
                raise LeaderboardError(f"strategy {quoted(name)} is not in the ranking; {known}")
        return Ranking(
            self.benchmark,
            tuple(one for one in self.strategies if one.strategy in names),
            tuple(pair for pair in self.pairs if pair.first in names and pair.second in names),
            self.dense,
            tuple(one for one in self.structure if one.strategy in names),
            self.notes,
        )

    def deviations(self) -> list[str]:
        """What is not as the benchmark asks for, a line each, after the names of the strategies that it is true of."""
        found: dict[str, list[str]] = {}
        for one in self.strategies:
            for line in one.deviations:
                found.setdefault(line, []).append(one.strategy)
        everyone = [one.strategy for one in self.strategies]
        return [
            f"{'all strategies' if len(names) > 1 and names == everyone else ', '.join(names)}: {line}"
            for line, names in found.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return {**asdict(self), "benchmark": self.benchmark.model_dump(mode="json")}


def rank(benchmark: Benchmark, finals: Sequence[Final], searched: Sequence[Searched]) -> Ranking:
    """Ranks strategies by the protocol of `benchmark`; `finals` and `searched` are those of its workload and key.

    Points chosen on validation are scored on test: a run's hypervolume is that of a strategy's finalists of one search
    on one fresh seed, a replicate's the mean over the runs of its search seed. The same input gives the same ranking,
    in whatever order it comes.
    """
    arranged = arrange(benchmark, finals)
    results = sorted(
        _results(benchmark, arranged, [one for one in searched if one.seed in benchmark.search_seeds]),
        key=lambda own: -np.inf if own.hypervolume is None else own.hypervolume.mean,
        reverse=True,
    )
    pairs = _pairs({own.strategy: _volumes(own.runs) for own in results})
    won = {(pair.better, pair.worse) for pair in pairs}
    better = np.array([[(a.strategy, b.strategy) in won for b in results] for a in results], dtype=bool)
    ranks = shared_ranks(better.reshape(len(results), len(results)))
    probabilities = _front_probabilities(benchmark, arranged)
    seen = {f.seed: f.validation for f in arranged.dense.values()}
    dense_validation = mean(seen.values()) if seen else benchmark.dense_accuracy
    return Ranking(
        benchmark,
        tuple(
            ranked(benchmark, own, int(place), probabilities.get(own.strategy), dense_validation)
            for own, place in zip(results, ranks, strict=True)
        ),
        tuple(pairs),
        tuple(dense_controls(benchmark, arranged)),
        tuple(structure_controls(arranged)),
        (*_told(pairs), *arranged.notes, *_missing(benchmark, arranged, [own.strategy for own in results])),
    )


def stored_ranking(store: Store, benchmark: Benchmark) -> Ranking:
    """The ranking of what a storage holds of the benchmark's workload and key; raises `LeaderboardError`."""
    finals = store.finals(benchmark.workload, benchmark.key)
    studies = sorted({f.study for f in finals if f.study is not None})
    return rank(benchmark, finals, store.searched(benchmark.workload, benchmark.key, studies))


def _results(benchmark: Benchmark, arranged: Arranged, searched: Sequence[Searched]) -> list[Results]:
    """By name, of every strategy that was searched or has finalists."""
    everything: tuple[Sequence[Any], ...] = (
        arranged.finals,
        runs(benchmark, arranged.finals),
        points(benchmark, arranged),
        searched,
    )
    by_name = [dict(grouped(items, lambda item: item.strategy)) for items in everything]
    return [Results(name, *(found.get(name, []) for found in by_name)) for name in sorted(set().union(*by_name))]


def _volumes(runs: Iterable[Run]) -> dict[int, dict[int, float]]:
    """Hypervolume by search seed and fresh seed."""
    return {
        seed: {fresh: mean(r.hypervolume for r in same) for fresh, same in grouped(own, lambda run: run.seed)}
        for seed, own in grouped(runs, lambda run: run.search_seed)
    }


def _pairs(volumes: Mapping[str, dict[int, dict[int, float]]]) -> list[Pair]:
    """All pairs, tested and corrected; who comes first in `volumes` comes first in a pair."""
    pairs = [Pair(a, b, *_compared(volumes[a], volumes[b]), None, None, None) for a, b in combinations(volumes, 2)]
    adjusted = iter(holm([pair.p for pair in pairs if pair.p is not None]))
    return [pair if pair.p is None else _judged(pair, float(next(adjusted))) for pair in pairs]


def _judged(pair: Pair, adjusted: float) -> Pair:
    if adjusted >= ALPHA or pair.difference is None:
        return replace(pair, adjusted=adjusted)
    ahead = pair.difference.mean > 0
    better, worse = (pair.first, pair.second) if ahead else (pair.second, pair.first)
    return replace(pair, adjusted=adjusted, better=better, worse=worse)


def _compared(a: dict[int, dict[int, float]], b: dict[int, dict[int, float]]) -> tuple[Estimate | None, float | None]:
    """Difference of two strategies by search seed, in each on the fresh seeds that both have."""
    means = []
    for seed in sorted(a.keys() & b.keys()):
        common = sorted(a[seed].keys() & b[seed].keys())
        if common:
            means.append((mean(a[seed][fresh] for fresh in common), mean(b[seed][fresh] for fresh in common)))
    return paired(*zip(*means, strict=True)) if means else (None, None)


def _front_probabilities(benchmark: Benchmark, arranged: Arranged) -> dict[str, float]:
    """How often a strategy adds a point to the joint front, where searches and their fresh seeds are drawn anew.

    In a draw a point stands at its means over the drawn fresh seeds; a strategy's probability is the mean over the
    search seeds that it has finalists of.
    """
    groups, owners = [], []
    for _, of_seed in grouped(arranged.finals, lambda f: f.search_seed):
        rows = {fresh: i for i, fresh in enumerate(sorted({f.seed for f in of_seed}))}
        columns = {key: i for i, key in enumerate(sorted({(f.strategy, f.study, f.trial) for f in of_seed}))}
        group = np.full((len(rows), len(columns), 2), np.nan)
        for f in of_seed:
            value = gain(benchmark, f)
            if value is not None:
                place = columns[f.strategy, f.study, f.trial]
                group[rows[f.seed], place] = np.log(value), f.accuracy
        groups.append(group)
        owners.append(np.array([strategy for strategy, _, _ in columns]))
    hits: dict[tuple[int, str], int] = {(i, str(name)): 0 for i, names in enumerate(owners) for name in names}
    for index, means in hierarchical_bootstrap(groups, DRAWS):
        at = np.column_stack([np.exp(means[:, 0]), means[:, 1]])
        for name in set(owners[index][on_front(benchmark, at)]):
            hits[index, str(name)] += 1
    return {
        name: mean(count / DRAWS for _, count in same)
        for name, same in grouped([(name, count) for (_, name), count in hits.items()], lambda pair: pair[0])
    }


def _told(pairs: Sequence[Pair]) -> list[str]:
    """What the tests could tell at all: with few seeds and many strategies, hardly anything."""
    tested = [pair.difference.n for pair in pairs if pair.difference is not None and pair.p is not None]
    if not tested:
        return []
    needed = resolution(max(tested), len(tested))
    pairs_told = f"{len(tested)} pairs" if len(tested) > 1 else "one pair"
    return [
        f"with {pairs_told} on {max(tested)} search seeds the clearest difference must be {needed:.1f} times its "
        "standard deviation to count; more search seeds tell more"
    ]


def _missing(benchmark: Benchmark, arranged: Arranged, ranked: Sequence[str]) -> list[str]:
    """What the protocol asks for and nobody has."""
    named = {f.strategy for f in arranged.others if f.role == "control"}
    kinds = {name.partition("+")[0].partition("@")[2] for name in named}
    there = {
        "the dense network in a number format": any(name.startswith(f"{DENSE}+") for name in named),
        "scratch-e": "scratch-e" in kinds,
        "scratch-b": "scratch-b" in kinds,
    }
    pruners = {name.partition("+")[0] for name in ranked}
    missing = [name for name, found in there.items() if not found]
    missing += [f"{what} ({name})" for name, what in MANDATORY.items() if name not in pruners]
    notes = [f"controls missing: {', '.join(missing)}"] if missing and arranged.finals else []
    if not benchmark.front:
        notes.append(f"{benchmark.id} has no reference front: IGD+ and epsilon are absent")
    return notes
