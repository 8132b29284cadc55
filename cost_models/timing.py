"""How long something takes beside something else, on a machine that drifts: interleaved pairs, medians of ratios.

A machine shared with others drifts by tens of percent within minutes. What drifts slowly hits both sides of a pair that is timed back
to back, so it cancels in their ratio (google/benchmark, "random interleaving"; Duet benchmarking, Bulej et al., ICPE 2020).
What differs from one set-up to the next (where memory landed) does not cancel: every block starts from a fresh set-up, and
the interval is bootstrapped over blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Run = Callable[[], object]
"""One inference."""
Clock = Callable[[], float]
"""Seconds that only grow."""

WARM_UP = 2
"""Runs at least before a sample counts: the first allocates, and caches fill."""
MIN_BLOCKS = 3
"""Fewer blocks give no interval, so a budget that is too short for them is exceeded."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: until the interval is tight, at least `pairs` pairs, at most `budget` seconds."""

    goal: float = 0.01
    """Half width of the 95 % interval of the ratio, relative to the ratio."""
    budget: float = 3.0
    """Seconds, set-up and warm-up included."""
    pairs: int = 150
    sample: float = 3e-4
    """One sample repeats the inference until it lasts this many seconds or more: timers and interrupts get small beside it."""


@dataclass(frozen=True)
class Comparison:
    """Samples of both sides in seconds an inference, shape (blocks, pairs a block), and what follows from them."""

    candidate: np.ndarray
    reference: np.ndarray
    ratio: float
    """Candidate ÷ reference: less than 1 is faster."""
    low: float
    high: float
    """95 % interval of the ratio."""
    seconds: float
    """That the measurement took."""

    @property
    def half_width(self) -> float:
        """Of the interval, relative to the ratio."""
        return (self.high - self.low) / 2 / self.ratio


def compare(
    prepare: Callable[[], tuple[Run, Run]],
    effort: Effort | None = None,
    clock: Clock = time.perf_counter,
    rng: np.random.Generator | None = None,
) -> Comparison:
    """Times candidate and reference in interleaved pairs, each pair in random order.

    `prepare` makes a fresh (candidate, reference) and is called once a block; a block has as many pairs as take about as long
    as preparing it did, so that blocks stay many. Both are warmed up with what is then timed.
    """
    effort = effort or Effort()
    rng = rng or np.random.default_rng()
    start = clock()
    blocks: list[np.ndarray] = []  # (pairs, 2) each: candidate, reference
    repetitions, pairs, next_look = (1, 1), 1, MIN_BLOCKS
    while True:
        before = clock()
        runs = prepare()
        for run, repeated in zip(runs, repetitions, strict=True):
            _sample(run, WARM_UP + repeated, clock)
        if not blocks:
            ready = clock()
            repetitions = _repetitions(runs[0], effort.sample, clock), _repetitions(runs[1], effort.sample, clock)
            pair = max(sum(_sample(run, n, clock) * n for run, n in zip(runs, repetitions, strict=True)), 1e-9)
            # At least five pairs, unless so few blocks then fit into the budget that there is no interval to speak of.
            pairs = max(1, min(max(5, math.ceil((ready - before) / pair)), int(effort.budget / 12 / pair)))
        block = np.empty((pairs, 2))
        for row, candidate_first in zip(block, rng.random(pairs) < 0.5, strict=True):
            for side in (0, 1) if candidate_first else (1, 0):
                row[side] = _sample(runs[side], repetitions[side], clock)
        blocks.append(block)
        spent = clock() - start
        over = spent * (1 + 1 / len(blocks)) > effort.budget
        if len(blocks) < MIN_BLOCKS or not (over or (len(blocks) >= next_look and len(blocks) * pairs >= effort.pairs)):
            continue
        samples = np.stack(blocks)
        ratio, low, high = median_ratio(samples[..., 0], samples[..., 1])
        next_look = math.ceil(len(blocks) * 1.2)  # the bootstrap itself takes milliseconds
        if over or (high - low) / 2 <= effort.goal * ratio:
            return Comparison(samples[..., 0], samples[..., 1], ratio, low, high, clock() - start)


def median_ratio(candidate: np.ndarray, reference: np.ndarray, resamples: int = 400) -> tuple[float, float, float]:
    """Median of candidate ÷ reference over all pairs, and its 95 % percentile interval bootstrapped over blocks.

    Both are of shape (blocks, pairs), in one unit. Deterministic: the resampling has a fixed seed.
    """
    ratios = candidate / reference
    low, high = bootstrap_interval(ratios, resamples)
    return float(np.median(ratios)), low, high


def bootstrap_interval(values: np.ndarray, resamples: int = 400) -> tuple[float, float]:
    """95 % percentile interval of the median of `values`, shape (blocks, values a block), resampled by whole blocks."""
    blocks = len(values)
    chosen = np.random.default_rng(0).integers(blocks, size=(resamples, blocks))
    medians = np.median(values[chosen].reshape(resamples, -1), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def _repetitions(run: Run, sample: float, clock: Clock) -> int:
    """Calls of `run` that last `sample` seconds or longer, judged by the fastest of three."""
    return max(1, math.ceil(sample / max(min(_sample(run, 1, clock) for _ in range(3)), 1e-9)))


def _sample(run: Run, repetitions: int, clock: Clock) -> float:
    """Seconds of one inference, averaged over back-to-back repetitions."""
    start = clock()
    for _ in range(repetitions):
        run()
    return (clock() - start) / repetitions
