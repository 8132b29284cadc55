"""The measuring loop on clocks that the test winds and on a recorded machine; statistics on noise of known truth."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.timing import (
    DRIFT,
    MIN_BLOCKS,
    Comparison,
    Effort,
    bootstrap_interval,
    calm_pairs,
    compare,
    median_ratio,
    tail,
    thread_timer,
    with_drift,
)

# Made by: python scripts/benchmarks/record_trace.py --rounds 11 --out tests/cost_models/traces/resnet20_int8.npz
TRACE = np.load(Path(__file__).parent / "traces" / "resnet20_int8.npz")


class Machine:
    """A clock that runs on by what each call costs, drifting and noisy as told."""

    def __init__(self, drift=0.0, noise=0.0, placement=0.0, setup=0.0):
        self.now, self.drift, self.noise, self.placement, self.setup = 0.0, drift, noise, placement, setup
        self.rng = np.random.default_rng(3)
        self.prepared = 0

    def __call__(self):
        return self.now

    def pair(self, candidate, reference):
        return self.prepare(candidate), self.prepare(reference)

    def prepare(self, seconds):
        def prepare():
            self.prepared += 1
            self.now += self.setup / 2
            return self.run(seconds)

        return prepare

    def run(self, seconds):
        placed = seconds * math.exp(self.rng.normal(0, self.placement))

        def call():
            self.now += placed * (1 + self.drift * self.now) * math.exp(self.rng.normal(0, self.noise))

        return call


def test_drift_cancels_in_the_ratio_and_not_in_the_plain_median():
    ratios, plain = [], []
    for drift in (0.0, 0.5, 2.0):
        machine = Machine(drift=drift)
        result = compare(
            *machine.pair(0.002, 0.004), Effort(budget=2.0, pairs=10_000), clock=machine, rng=np.random.default_rng(0)
        )
        ratios.append(result.ratio)
        plain.append(np.median(result.candidate))
    assert ratios == pytest.approx([0.5] * 3, rel=0.01)
    assert max(plain) / min(plain) > 1.5


def test_pairs_go_in_both_orders():
    machine, order, set_up = Machine(), [], []

    def side(name):
        def call():
            order.append(name)
            machine.now += 1e-3

        def prepare():
            set_up.append(name)
            return call

        return prepare

    compare(side("candidate"), side("reference"), Effort(pairs=200), clock=machine, rng=np.random.default_rng(0))
    pairs = list(zip(order[-200::2], order[-199::2], strict=True))
    first = sum(a == "candidate" for a, b in pairs if a != b)
    assert 0.2 * len(pairs) < first < 0.8 * len(pairs)
    # Which side is set up first, and so gets the better place in memory, is as random.
    assert 0.2 < np.mean([name == "candidate" for name in set_up[::2]]) < 0.8


def test_it_stops_at_the_goal_and_goes_on_without_it():
    calm, rough = Machine(noise=0.02, setup=0.001), Machine(noise=0.5, placement=0.3, setup=0.001)
    effort = Effort(goal=0.02, budget=12.0, pairs=150)
    tight = compare(*calm.pair(0.001, 0.001), effort, clock=calm, rng=np.random.default_rng(0))
    wide = compare(*rough.pair(0.001, 0.001), effort, clock=rough, rng=np.random.default_rng(0))
    assert tight.half_width <= 0.02 and tight.candidate.size >= 150 and tight.seconds < 2
    assert wide.half_width > 0.02 and 9 < wide.seconds <= 12.5


def test_every_block_is_prepared_anew_and_a_short_budget_still_gives_an_interval():
    machine = Machine(noise=0.01)
    result = compare(*machine.pair(5.0, 5.0), Effort(budget=1.0), clock=machine, rng=np.random.default_rng(0))
    assert result.candidate.shape == (MIN_BLOCKS, 1) and machine.prepared == 2 * MIN_BLOCKS
    assert result.low <= result.ratio <= result.high


def test_a_short_inference_is_repeated_within_a_sample():
    machine, calls = Machine(), 0

    def call():
        nonlocal calls
        calls += 1
        machine.now += 1e-5

    result = compare(lambda: call, lambda: call, Effort(sample=1e-3), clock=machine, rng=np.random.default_rng(0))
    assert calls >= 2 * 100 * result.candidate.size
    assert result.candidate == pytest.approx(1e-5)


class TwoStates(Machine):
    """Disturbed for the given share of every 100 ms: the reference is then 16 % slower, the candidate 50 %."""

    def __init__(self, disturbed):
        super().__init__(noise=0.01)
        self.disturbed = disturbed

    def sides(self):
        return self.set_up(0.0007, 1.5), self.set_up(0.001, 1.16)

    def set_up(self, seconds, slowdown):
        def prepare():
            self.now += 0.001
            return self.side(seconds, slowdown)

        return prepare

    def side(self, seconds, slowdown):
        def call():
            slower = slowdown if self.now % 0.1 < 0.1 * self.disturbed else 1.0
            self.now += seconds * slower * math.exp(self.rng.normal(0, self.noise))

        return call


@pytest.mark.parametrize("disturbed", [0.0, 0.3, 0.8])
def test_only_calm_pairs_count(disturbed):
    machine = TwoStates(disturbed)
    result = compare(*machine.sides(), Effort(), 0.001, clock=machine, rng=np.random.default_rng(0))
    assert result.found_calm and result.ratio == pytest.approx(0.7, rel=0.01)
    assert result.calm.mean() == pytest.approx(1 - disturbed, abs=0.15)


def test_a_machine_that_never_gets_calm_says_so():
    machine = TwoStates(1.0)
    result = compare(*machine.sides(), Effort(budget=1.0), 0.001, clock=machine, rng=np.random.default_rng(0))
    assert not result.found_calm


def test_it_moves_away_from_what_disturbs_it():
    machine, moves = TwoStates(1.0), []

    def move():
        moves.append(machine.now)
        machine.disturbed = 0.0

    result = compare(*machine.sides(), Effort(), 0.001, move, clock=machine, rng=np.random.default_rng(0))
    assert len(moves) == 1 and result.found_calm and result.ratio == pytest.approx(0.7, rel=0.01)


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
def test_choosing_calm_pairs_does_not_bias_plain_noise(noise):
    rng = np.random.default_rng(11)
    candidate, reference = np.exp(rng.normal(0, noise, size=(2, 4000, 5)))
    calm, _ = calm_pairs(candidate, reference)
    assert calm.mean() > 0.01
    standard_error = 1.2533 * math.sqrt(2) * noise / math.sqrt(calm.sum())  # of the median of log ratios
    assert abs(np.log(np.median((candidate / reference)[calm]))) < 3 * standard_error


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Block-wise noise (placement) and noise within blocks; the median ratio is 0.8 by construction."""
    rng, covered, trials = np.random.default_rng(7), 0, 200
    for _ in range(trials):
        placement = np.exp(rng.normal(0, 0.03, size=(30, 1)))
        pairs = np.exp(rng.standard_t(3, size=(30, 6)) * 0.02)
        _, low, high = median_ratio(0.8 * placement * pairs, np.ones((30, 6)))
        covered += low <= 0.8 <= high
    assert 0.88 <= covered / trials <= 0.99


@given(
    st.integers(1, 8).flatmap(
        lambda blocks: st.lists(
            st.lists(st.floats(0.01, 100), min_size=3, max_size=3), min_size=blocks, max_size=blocks
        )
    ),
    st.floats(0.1, 10),
)
def test_the_interval_lies_within_the_data_and_scales_with_it(values, factor):
    array = np.array(values)
    everything = np.ones(array.shape, dtype=bool)
    low, high = bootstrap_interval(array, everything)
    assert array.min() <= low <= high <= array.max()
    assert bootstrap_interval(array * factor, everything) == pytest.approx((low * factor, high * factor), rel=1e-9)


def test_swapping_the_sides_inverts_the_ratio():
    rng = np.random.default_rng(5)
    a, b = np.exp(rng.normal(0, 0.1, size=(21, 5))), np.exp(rng.normal(0, 0.1, size=(21, 5)))
    ratio, low, high = median_ratio(a, b)
    inverse, inverse_low, inverse_high = median_ratio(b, a)
    assert (ratio, low, high) == pytest.approx((1 / inverse, 1 / inverse_high, 1 / inverse_low), rel=0.01)


def test_calm_that_lasts_for_one_block_only_is_not_enough():
    machine = TwoStates(0.0)
    candidate, reference = machine.sides()

    def prepare():
        machine.disturbed = float(machine.now > 0.02)
        return candidate()

    result = compare(prepare, reference, Effort(budget=1.0), 0.001, clock=machine, rng=np.random.default_rng(0))
    assert result.calm.any() and not result.found_calm


def test_a_network_beside_itself_is_as_fast_whatever_comes_first():
    """The side set up first is 3 % slower and bursts last for a sample or two: neither may favour one side."""
    rng = np.random.default_rng(1)
    machine, set_up = Machine(), []

    def prepare():
        set_up.append(None)
        seconds = 0.001 * (1.03 if len(set_up) % 2 else 1.0)

        def call():
            burst = 1.3 if rng.random() < 0.2 else 1.0
            machine.now += seconds * burst * math.exp(rng.normal(0, 0.005))

        return call

    ratios = [
        compare(prepare, prepare, Effort(), clock=machine, rng=np.random.default_rng(seed)).ratio for seed in range(12)
    ]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.006)


def test_a_study_that_starts_in_disturbance_takes_it_for_calm_only_without_a_level():
    """The whole measurement is disturbed: without the level of an earlier day nothing tells, and 0.9 passes for 0.7."""
    machine = TwoStates(1.0)
    deceived = compare(*machine.sides(), Effort(), clock=machine, rng=np.random.default_rng(0))
    assert deceived.found_calm and deceived.ratio == pytest.approx(0.7 * 1.5 / 1.16, rel=0.01)
    machine = TwoStates(1.0)
    warned = compare(*machine.sides(), Effort(), 0.001, clock=machine, rng=np.random.default_rng(0))
    assert not warned.found_calm
    assert warned.seconds > 3 * deceived.seconds  # it waits for calm until the budget is spent


def test_figures_come_even_where_both_sides_are_never_calm_at_once():
    """One side is disturbed while the other is not, by turns that are longer than a judgement looks."""
    turn = np.arange(400) // 20 % 2
    candidate, reference = (np.where(turn == side, 1.5, 1.0).reshape(40, 10) for side in (0, 1))
    calm, found = calm_pairs(candidate, reference)
    assert calm.any() and not found
    ratio, low, high = median_ratio(candidate, reference, calm)
    assert low <= ratio <= high


@given(st.floats(0.1, 10), st.floats(0, 0.2), st.floats(0, 0.2), st.floats(0.01, 1))
def test_drift_widens_the_interval_the_more_the_less_was_calm(ratio, below, above, calm):
    low, high = ratio * (1 - below), ratio * (1 + above)
    same, wide_low, wide_high = with_drift(ratio, low, high, calm)
    assert same == ratio and 0 <= wide_low <= low and high <= wide_high
    assert wide_high - ratio >= 1.96 * DRIFT * ratio / calm * (1 - 1e-9)
    _, wider_low, wider_high = with_drift(ratio, low, high, calm / 2)
    assert wider_low <= wide_low and wide_high < wider_high


def test_intervals_hold_the_long_run_value_when_the_machine_drifts_between_measurements():
    """Every measurement has its own ratio, DRIFT apart: its blocks do not tell, the interval holds it all the same."""
    rng, held, held_by_blocks = np.random.default_rng(2), 0, 0
    trials = 60
    for trial in range(trials):
        machine = Machine(noise=0.01, placement=0.005, setup=0.004)
        own = 0.5 * math.exp(rng.normal(0, DRIFT))
        result = compare(*machine.pair(0.001 * own, 0.001), clock=machine, rng=np.random.default_rng(trial))
        held += result.low <= 0.5 <= result.high
        _, low, high = median_ratio(result.candidate, result.reference, result.calm)
        held_by_blocks += low <= 0.5 <= high
    assert held / trials >= 0.9 and held_by_blocks / trials < 0.8


def samples(count, repetitions=1):
    candidate = np.random.default_rng(4).exponential(size=(1, count))
    everything = np.ones(candidate.shape, dtype=bool)
    return Comparison(candidate, candidate, everything, True, 1.0, 0.9, 1.1, 1.0, repetitions)


@pytest.mark.parametrize(("quantile", "least"), [(0.90, 64), (0.99, 662)])
def test_a_tail_is_told_from_enough_single_inferences_only(quantile, least):
    assert tail(samples(least - 1), quantile) is None
    assert tail(samples(10 * least, repetitions=2), quantile) is None
    enough = samples(least)
    assert np.mean(enough.candidate <= tail(enough, quantile)) == pytest.approx(quantile, abs=1 / least)


def test_a_tail_counts_what_was_disturbed_too():
    found = samples(1000)
    hidden = Comparison(**(vars(found) | {"calm": found.candidate < 1.0}))
    assert tail(hidden, 0.99) == tail(found, 0.99) > 3


def test_the_threads_own_time_stands_still_while_it_sleeps():
    if thread_timer() is not time.thread_time:
        pytest.skip("this system does not count the time of a thread finely")
    own, wall = thread_timer()(), time.perf_counter()
    time.sleep(0.05)
    assert thread_timer()() - own < 0.5 * (time.perf_counter() - wall)


class Replay:
    """The recorded machine: a run takes what it took there at that time, on the wall and in the thread's own time.

    A set-up goes on to where the recording set up next, and after the end comes the beginning.
    """

    BLOCK = 10  # pairs between set-ups, as recorded

    def __init__(self, state, start=0.0):
        self.starts = TRACE[state][:, 0] * 1e-5
        self.seconds = TRACE[state][:, 1:] * 1e-8
        self.length = self.starts[-1] + 1e-3
        self.wall, self.thread = start, 0.0
        self.set_ups = 0

    def candidate(self):
        return self.prepare(0)

    def reference(self):
        return self.prepare(2)

    def prepare(self, column):
        if self.set_ups % 2 == 0:
            now = self.wall % self.length
            blocks = self.starts[:: self.BLOCK]
            later = blocks[blocks > now]
            self.wall += (later[0] if later.size else self.length) - now + 1e-9
        self.set_ups += 1

        def run():
            row = self.seconds[np.searchsorted(self.starts, self.wall % self.length, side="right") - 1]
            self.wall += row[column]
            self.thread += row[column + 1]

        return run


def replayed(state, start, level=None, timer="thread"):
    machine = Replay(state, start)
    return compare(
        machine.candidate, machine.reference, level=level, clock=lambda: machine.wall,
        timer=lambda: getattr(machine, timer), rng=np.random.default_rng(round(start)),
    )  # fmt: skip


STARTS = (0.0, 1.5, 3.0, 4.5)


@pytest.fixture(scope="module")
def quiet():
    """Ratio, and calm level of the reference, where nothing much disturbed."""
    measured = [replayed("quiet", start) for start in STARTS]
    calm = np.median([np.median(found.reference[found.calm]) for found in measured])
    return np.median([found.ratio for found in measured]), calm


@pytest.mark.parametrize("state", ["quiet", "natural", "hog_on_the_other_core", "hog_on_the_same_core"])
def test_on_a_recorded_machine_the_ratio_is_that_of_quiet(state, quiet):
    ratio, calm = quiet
    measured = [replayed(state, start, calm) for start in STARTS]
    assert all(found.found_calm for found in measured)
    assert [found.ratio / ratio for found in measured] == pytest.approx([1.0] * len(STARTS), abs=0.02)
    assert all(found.low <= ratio <= found.high for found in measured)


@pytest.mark.parametrize("state", ["natural", "buried"])
def test_on_a_recorded_machine_the_plain_median_is_not_that_of_quiet(state):
    assert np.median(TRACE[state][:, 1]) > 1.05 * np.median(TRACE["quiet"][:, 1])


def test_a_recorded_machine_that_was_hardly_ever_calm_is_called_calm_only_where_its_ratio_is_that_of_quiet(quiet):
    ratio, calm = quiet
    measured = [replayed("buried", start, calm) for start in (*STARTS, 0.75, 2.25, 3.75, 5.25)]
    off = {True: [], False: []}
    for found in measured:
        off[found.found_calm].append(abs(found.ratio / ratio - 1))
    assert max(off[True]) < 0.015 < min(off[False])
