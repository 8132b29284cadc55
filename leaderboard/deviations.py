"""Where a strategy's results are not those that a benchmark asks for: less replicated, or bought with more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .benchmark import Benchmark
from .errors import quoted
from .finals import Final, Searched
from .replicates import gain, grouped

# A latency is written in seconds with all its digits; this much is another reference, and no rounding.
_SAME_LATENCY = 0.01


def deviations(benchmark: Benchmark, finals: Sequence[Final], searched: Sequence[Searched]) -> Iterator[str]:
    """What a reader has to know of one strategy, a line each: `finals` are its ranked ones, `searched` its searches."""
    seeds = {final.search_seed for final in finals}
    missing = sorted(set(benchmark.search_seeds) - seeds)
    if missing:
        yield f"no finalists of search seed {', '.join(map(str, missing))}"
    if len(seeds) == 1:
        yield "one search seed, so no interval and no rank"
    for seed, own in grouped(finals, lambda f: f.search_seed):
        studies = sorted({str(f.study) for f in own})
        if len(studies) > 1:
            yield f"search seed {seed} was searched {len(studies)} times, in {', '.join(map(quoted, studies))}"
        yield from _of_search(benchmark, seed, own)
    for seed, tried in grouped(searched, lambda s: s.seed):
        for study, of_study in grouped(tried, lambda s: s.study):
            if len(of_study) != benchmark.trials:
                yield f"search seed {seed}: {len(of_study)} trials in {quoted(study)}, the budget is {benchmark.trials}"
    unseen = sorted({str(f.study) for f in finals} - {s.study for s in searched})
    if unseen:
        yield f"budget unknown: searches {', '.join(map(quoted, unseen))} are not in this storage"
    yield from _of_entries(benchmark, finals)


def _of_search(benchmark: Benchmark, seed: int, own: Sequence[Final]) -> Iterator[str]:
    fresh = {f.seed for f in own}
    if len(fresh) != benchmark.final_seeds:
        yield f"search seed {seed}: {len(fresh)} final seeds, {benchmark.final_seeds} are asked for"
    for _, of_study in grouped(own, lambda f: f.study):
        trials, seeds = {f.trial for f in of_study}, {f.seed for f in of_study}
        if len(trials) > benchmark.points:
            yield f"search seed {seed}: {len(trials)} finalists, {benchmark.points} are allowed"
        absent = len(trials) * len(seeds) - len(of_study)
        if absent:
            yield f"search seed {seed}: {absent} of {len(trials) * len(seeds)} trainings of finalists missing"
    if seed in fresh:
        yield f"search seed {seed}: trained on the seed of its search, which chose it for that training"


def _of_entries(benchmark: Benchmark, finals: Sequence[Final]) -> Iterator[str]:
    without = sum(gain(benchmark, f) is None for f in finals)
    if without:
        yield f"{without} of {len(finals)} entries have no gain and add nothing"
    unsettled = sum(f.unstable for f in finals)
    if unsettled and benchmark.track != "parameters":
        yield f"{unsettled} of {len(finals)} timings did not settle: their gains are less certain than they look"
    longer = sum(f.epochs > _epochs(benchmark, f) * (1 + 1e-9) for f in finals)
    if longer:
        yield f"{longer} of {len(finals)} entries were trained for more epochs than the budget"
    if benchmark.reference_latency is not None:
        others = [f for f in finals if f.latency and f.speedup and not _same_reference(benchmark.reference_latency, f)]
        if others:
            yield f"{len(others)} of {len(finals)} entries were timed against another reference latency"


def _epochs(benchmark: Benchmark, final: Final) -> float:
    # One that starts from the trained network has that network's epochs in its total too.
    started_trained = final.total_epochs > final.epochs
    return benchmark.epochs if started_trained else max(benchmark.epochs, benchmark.training_epochs)


def _same_reference(latency: float, final: Final) -> bool:
    assert final.latency is not None and final.speedup is not None
    return abs(final.latency * final.speedup / latency - 1) <= _SAME_LATENCY
