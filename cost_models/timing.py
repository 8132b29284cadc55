"""How long something takes beside something else, on a machine that is shared: interleaved pairs, medians of ratios.

Two things make one latency differ from measurement to measurement on a shared machine, and each has its answer here.

- It drifts, by tens of percent within minutes. What drifts slowly hits both sides of a pair that is timed back to back
  and cancels in their ratio (google/benchmark, "random interleaving"; Duet benchmarking, Bulej et al., ICPE 2020).
- It changes between a calm and a disturbed state, for milliseconds to minutes; most likely a neighbour on the same
  physical core takes a share of its arithmetic units. That does *not* cancel: it was seen to slow an fp32 network by 16
  % and its int8 version by 50 %, so that their ratio was 0.71 in one process and 0.95 in the next, each within 1 % by
  its own interval. So only pairs count round which the reference ran at its calm speed; a disturbed block is followed
  by a move to another CPU.

Turns of other processes on the same CPU do not count where samples are timed in the thread's own time
(`thread_timer`).

Where a network lies in memory decides over a percent or two. Address randomisation between processes was seen to make
no difference; what does is that a heap hands out again what it took back last, so that fresh set-ups landed where the
last ones had been, and seconds went by in one lucky or unlucky place. So each block starts from a set-up behind random
pieces of memory (`_spacers`: medians of half a second varied by 0.24 % and 0.37 % with them, by 0.47 % and 0.48 %
without, for two networks by turns in one process), and the interval is bootstrapped over blocks. What is left drifts
within calm over seconds, longer than a measurement lasts, and cannot be seen by it: `DRIFT` widens the interval by it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Run = Callable[[], object]
"""One inference."""
Prepare = Callable[[], Run]
"""Sets the network up anew, where memory happens to be free now."""
Clock = Callable[[], float]
"""Seconds that only grow."""

WARM_UP = 2
"""Runs at least before a sample counts: the first allocates, and caches fill."""
MIN_BLOCKS = 6
"""Fewer calm blocks give no interval: from least to greatest, six hold a median in 97 % of cases, five in 94 %.

A budget too short for as many blocks, calm or not, is exceeded."""
CALM = 1.06
"""Up to this factor above the calm level the reference is calm: states seen lie 15 to 40 % apart, calm samples 3 %."""
SAME_STATE = 1.12
"""Up to this factor above a level that was known before, the calm of a measurement is the same state.

Calm itself drifts from hour to hour: one machine ran 5 to 11 % slower than in the hour before. The speed-ups of five
networks were the same to half a percent, but with the limit of `CALM` each waited 15 s for what never came back.
"""

DRIFT = 0.005
"""Standard deviation between measurements of one ratio, relative to it, beyond what the blocks of one measurement show.

Four runs of scripts/benchmarks/latency_repeatability.py, 160 measurements in all, gave 0.0039 to 0.0058; it is printed
there as "beyond the blocks". Three runs on a quieter machine gave 0.003 later. Intervals without it held the long-run
value in 57 to 84 % of the cases.
"""


@dataclass(frozen=True)
class Effort:
    """How long to measure: until the interval is tight, at least `pairs` calm pairs, at most `budget` seconds."""

    goal: float = 0.02
    """Half width of the 95 % interval of the ratio, relative to the ratio; `DRIFT` leaves none below 0.01."""
    budget: float = 4.0
    """Seconds, set-up and warm-up included."""
    pairs: int = 150
    sample: float = 3e-4
    """Seconds that a sample lasts at least, by repeating the inference: timers and interrupts get small beside it."""


@dataclass(frozen=True)
class Comparison:
    """Samples of both sides in seconds an inference, shape (blocks, pairs a block), and what follows from them."""

    candidate: np.ndarray
    reference: np.ndarray
    calm: np.ndarray
    """Which pairs count, bool of the same shape."""
    found_calm: bool
    """False where fewer than `MIN_BLOCKS` blocks were as calm as the known level: these figures are of disturbance."""
    ratio: float
    """Candidate ÷ reference: less than 1 is faster."""
    low: float
    high: float
    """95 % interval of the ratio."""
    seconds: float
    """That the measurement took."""
    repetitions: int
    """Inferences of the candidate that every sample is an average of."""

    @property
    def half_width(self) -> float:
        """Of the interval, relative to the ratio."""
        return (self.high - self.low) / 2 / self.ratio


def compare(
    candidate: Prepare,
    reference: Prepare,
    effort: Effort | None = None,
    level: float | None = None,
    move: Callable[[], None] = lambda: None,
    clock: Clock = time.perf_counter,
    timer: Clock | None = None,
    rng: np.random.Generator | None = None,
) -> Comparison:
    """Times candidate and reference in interleaved pairs, each pair in random order.

    Both are set up anew once a block, in random order in one and the other way round in the next: of two equal networks
    the one that was set up first was seen to be 1 to 3 % slower. A block has as many pairs as take about as long as
    setting up did, so that blocks stay many. Both are warmed up with what is then timed. `level` is the reference's
    calm latency in seconds where it is known; `move` is called after a block that was mostly disturbed, to try another
    CPU. `clock` watches the budget, `timer` (by default the same) times the samples.
    """
    effort = effort or Effort()
    timer = timer or clock
    rng = rng or np.random.default_rng()
    start = clock()
    blocks: list[np.ndarray] = []  # (pairs, 2) each: candidate, reference
    repetitions, pairs, next_look = (1, 1), 1, MIN_BLOCKS
    prepare, order = (candidate, reference), [0, 1]
    runs: list[Run] = [_nothing, _nothing]
    while True:
        before = clock()
        runs[:] = _nothing, _nothing  # the last block's memory is free before the next is laid out
        order = order[::-1] if len(blocks) % 2 else rng.permutation(2).tolist()
        gaps = []
        for side in order:
            gaps.append(_spacers(rng))
            runs[side] = prepare[side]()
        for side in order:
            _sample(runs[side], WARM_UP + repetitions[side], timer)
        if not blocks:
            ready = clock()
            repetitions = _repetitions(runs[0], effort.sample, timer), _repetitions(runs[1], effort.sample, timer)
            pair = max(sum(_sample(run, n, timer) * n for run, n in zip(runs, repetitions, strict=True)), 1e-9)
            # At least five pairs, unless so few blocks then fit into the budget that there is no interval to speak of.
            pairs = max(1, min(max(5, math.ceil((ready - before) / pair)), int(effort.budget / 12 / pair)))
        block = np.empty((pairs, 2))
        for row, candidate_first in zip(block, rng.random(pairs) < 0.5, strict=True):
            for side in (0, 1) if candidate_first else (1, 0):
                row[side] = _sample(runs[side], repetitions[side], timer)
        blocks.append(block)
        samples = np.stack(blocks)
        calm, any_calm = calm_pairs(samples[..., 0], samples[..., 1], level)
        if not any_calm or np.mean(calm[-1]) < 0.5:
            move()
        found = any_calm and bool(np.count_nonzero(calm.any(axis=1)) >= MIN_BLOCKS)
        spent = clock() - start
        over = spent * (1 + 1 / len(blocks)) > effort.budget
        enough = found and calm.sum() >= effort.pairs and len(blocks) >= next_look
        if len(blocks) < MIN_BLOCKS or not (over or enough):
            continue
        ratio, low, high = with_drift(*median_ratio(samples[..., 0], samples[..., 1], calm), float(calm.mean()))
        next_look = math.ceil(len(blocks) * 1.2)  # the bootstrap itself takes milliseconds
        if over or (high - low) / 2 <= effort.goal * ratio:
            return Comparison(
                samples[..., 0], samples[..., 1], calm, found, ratio, low, high, clock() - start, repetitions[0]
            )


def tail(found: Comparison, quantile: float) -> float | None:
    """That quantile of the candidate's samples in seconds, calm or not; None where they do not tell it.

    Fewer than 662 samples say nothing of a 99th percentile, fewer than 64 nothing of a 90th; averages of several
    inferences hide single slow ones.
    """
    few = found.candidate.size < {0.90: 64, 0.99: 662}[quantile]
    return None if few or found.repetitions > 1 else float(np.quantile(found.candidate, quantile))


def thread_timer() -> Clock:
    """CPU seconds of the calling thread where the system counts them finely, the wall clock elsewhere (Windows).

    For work that runs in the calling thread and never waits, both are the same on an idle machine.
    """
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    return time.thread_time if fine else time.perf_counter


def calm_pairs(candidate: np.ndarray, reference: np.ndarray, level: float | None = None) -> tuple[np.ndarray, bool]:
    """Which pairs were taken in calm, and whether there was any calm to find.

    Both are of shape (blocks, pairs), in the order of time. A pair is judged by the pairs round it, never by itself:
    where the machine is merely noisy, choosing samples for being small would bias the ratio. Both sides are judged
    alike, each against its own calm level, or else the side that is judged would be favoured. The calm level is the
    5th percentile of the medians of four neighbours. `level` is the reference's as it was known before: calm that is
    much slower is none.
    """
    own = _neighbours(candidate), _neighbours(reference)
    lowest = [float(np.quantile(around, 0.05)) for around in own]
    found = level is None or lowest[1] <= SAME_STATE * level
    beside = own[1] <= CALM * lowest[1]
    both = (own[0] <= CALM * lowest[0]) & beside
    # Where the two are never calm at once, some figure is better than none, and it is not called calm.
    return (both, found) if both.any() else (beside, False)


def _neighbours(samples: np.ndarray) -> np.ndarray:
    """Median of the two samples before and the two after each, of the shape of `samples`."""
    around = np.pad(samples.ravel(), 2, mode="edge")
    return np.median([around[:-4], around[1:-3], around[3:-1], around[4:]], axis=0).reshape(samples.shape)


def median_ratio(
    candidate: np.ndarray, reference: np.ndarray, calm: np.ndarray | None = None, resamples: int = 400
) -> tuple[float, float, float]:
    """Median of candidate ÷ reference over the calm pairs, and its 95 % percentile interval bootstrapped over blocks.

    All are of shape (blocks, pairs), `calm` None for all pairs. Deterministic: the resampling has a fixed seed.
    """
    ratios = candidate / reference
    calm = np.ones(ratios.shape, dtype=bool) if calm is None else calm
    low, high = bootstrap_interval(ratios, calm, resamples)
    return float(np.median(ratios[calm])), low, high


def with_drift(ratio: float, low: float, high: float, calm: float) -> tuple[float, float, float]:
    """The ratio with its interval widened by `DRIFT`, in quadrature; `calm` is the share of pairs that counted.

    The fewer pairs were calm, the less calm those are that count: measurements with a quarter of calm pairs were seen
    to vary by three to four times as much as those with nearly all.
    """
    drift = 1.96 * DRIFT * ratio / max(calm, 1e-9)
    # Never 0: a speed-up is the inverse.
    least = min(low, 1e-3 * ratio)
    return ratio, max(ratio - math.hypot(ratio - low, drift), least), ratio + math.hypot(high - ratio, drift)


def bootstrap_interval(values: np.ndarray, counted: np.ndarray, resamples: int = 400) -> tuple[float, float]:
    """95 % percentile interval of the median of the values that are `counted`, resampled by whole blocks.

    Both are of shape (blocks, values a block); at least one value is counted.
    """
    block = np.nonzero(counted)[0]
    kept = np.unique(block)
    rng = np.random.default_rng(0)
    drawn = np.zeros((resamples, len(values)))
    drawn[:, kept] = rng.multinomial(len(kept), np.full(len(kept), 1 / len(kept)), size=resamples)
    # The median of a resample is that of all values, each weighted by how often its block was drawn.
    order = np.argsort(values[counted], kind="stable")
    weight = np.cumsum(drawn[:, block[order]], axis=1)
    medians = values[counted][order][np.argmax(weight >= weight[:, -1:] / 2, axis=1)]
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def _spacers(rng: np.random.Generator) -> list[bytearray]:
    """Holds a megabyte or so in random pieces of 64 B to 400 kB, so that what is set up next lies elsewhere."""
    sizes = np.exp(rng.uniform(math.log(64), math.log(400_000), rng.integers(5, 40)))
    return [bytearray(int(size)) for size in sizes]


def _nothing() -> None:
    """Stands for a network that is not set up."""


def _repetitions(run: Run, sample: float, clock: Clock) -> int:
    """Calls of `run` that last `sample` seconds or longer, judged by the fastest of three."""
    return max(1, math.ceil(sample / max(min(_sample(run, 1, clock) for _ in range(3)), 1e-9)))


def _sample(run: Run, repetitions: int, clock: Clock) -> float:
    """Seconds of one inference, averaged over back-to-back repetitions."""
    start = clock()
    for _ in range(repetitions):
        run()
    return (clock() - start) / repetitions
