"""The measuring loop on clocks that the test winds, and the statistics on noise whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.timing import MIN_BLOCKS, Effort, bootstrap_interval, calm_pairs, compare, median_ratio


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
    effort = Effort(goal=0.01, budget=30.0, pairs=150)
    tight = compare(*calm.pair(0.001, 0.001), effort, clock=calm, rng=np.random.default_rng(0))
    wide = compare(*rough.pair(0.001, 0.001), effort, clock=rough, rng=np.random.default_rng(0))
    assert tight.half_width <= 0.01 and tight.candidate.size >= 150 and tight.seconds < 2
    assert wide.half_width > 0.01 and 20 < wide.seconds <= 31


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
