"""What finalists are held against: the dense network, and the same structure trained in another way."""

from __future__ import annotations

from dataclasses import dataclass

from .benchmark import Benchmark
from .finals import Final
from .replicates import Arranged, gain, geometric_mean, grouped, mean
from .statistics import Estimate, estimate, geometric


@dataclass(frozen=True)
class DenseControl:
    """The dense network, in fp32 or a number format, beside the finalists. Estimates are over the seeds of its own."""

    strategy: str
    accuracy: Estimate
    validation: Estimate
    gain: Estimate | None


@dataclass(frozen=True)
class StructureControl:
    """What a strategy's finalist is ahead of a control of the same structure, such as one trained from scratch.

    `difference` is the test accuracy of the finalist − that of the control of the same origin and fresh seed, in means
    over fresh seeds, then over search seeds. Intervals are each for itself; nothing is tested here.
    """

    strategy: str
    control: str
    """What follows the @ in its name."""
    difference: Estimate
    epochs: float
    finalist_epochs: float
    """Means."""


def dense_controls(benchmark: Benchmark, arranged: Arranged) -> list[DenseControl]:
    """One for each number format."""
    found = []
    for name, own in grouped(
        (f for f in arranged.others if f.role == "control" and f.study is None), lambda f: f.strategy
    ):
        by_seed = [same for _, same in grouped(own, lambda f: f.seed)]
        gains = [geometric_mean(gain(benchmark, f) for f in same) for same in by_seed]
        known = [value for value in gains if value is not None]
        found.append(
            DenseControl(
                strategy=name,
                accuracy=estimate([mean(f.accuracy for f in same) for same in by_seed]),
                validation=estimate([mean(f.validation for f in same) for same in by_seed]),
                gain=geometric(known) if known else None,
            )
        )
    return found


def structure_controls(arranged: Arranged) -> list[StructureControl]:
    """One for each strategy and control: pruner@control+format beside pruner+format."""
    finalists = {_origin(f.strategy, f): f for f in (*arranged.others, *arranged.finals) if f.role == "finalist"}
    matched: list[tuple[str, str, Final, Final]] = []
    for f in arranged.others:
        pruner, plus, formats = f.strategy.partition("+")
        method, _, control = pruner.rpartition("@")
        finalist = finalists.get(_origin(f"{method}{plus}{formats}", f))
        if f.role == "control" and finalist is not None:
            matched.append((finalist.strategy, control, f, finalist))
    return [
        StructureControl(
            strategy=strategy,
            control=control,
            difference=estimate(
                [
                    mean(finalist.accuracy - f.accuracy for _, _, f, finalist in same)
                    for _, same in grouped(own, lambda match: match[2].search_seed)
                ]
            ),
            epochs=mean(f.epochs for _, _, f, _ in own),
            finalist_epochs=mean(finalist.epochs for *_, finalist in own),
        )
        for (strategy, control), own in grouped(matched, lambda match: match[:2])
    ]


def _origin(strategy: str, final: Final) -> tuple[str, str | None, int | None, int]:
    return strategy, final.study, final.trial, final.seed
