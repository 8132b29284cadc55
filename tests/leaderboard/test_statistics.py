"""Statistics against textbooks, other definitions and simulations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from leaderboard import (
    LeaderboardError,
    bootstrap_interval,
    estimate,
    geometric,
    hierarchical_bootstrap,
    holm,
    paired,
    resolution,
    shared_ranks,
)

# Hours of additional sleep by two drugs: Student, The probable error of a mean, Biometrika 6, 1908; R calls it `sleep`.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
values = st.lists(st.integers(-50, 50).map(lambda x: x / 8), min_size=2, max_size=8)
p_values = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.05, 0.3, 1.0]) | st.floats(0, 1), max_size=6)


def test_students_own_data() -> None:
    """As R's documentation of t.test prints them: t.test(extra ~ group, data = sleep, paired = TRUE)."""
    difference, p = paired(DRUG_1, DRUG_2)
    assert difference.mean == pytest.approx(-1.58)
    assert (difference.low, difference.high) == (pytest.approx(-2.4598858), pytest.approx(-0.7001142))
    assert p == pytest.approx(0.002833, abs=5e-7)
    assert difference.n == 10


@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40)), min_size=2, max_size=8))
def test_paired_is_scipys_paired_test(pairs: list[tuple[int, int]]) -> None:
    a, b = ([x / 8 for x in side] for side in zip(*pairs, strict=True))
    difference, p = paired(a, b)
    steps = {x - y for x, y in zip(a, b, strict=True)}
    if len(steps) == 1:
        assert p == float(steps == {0.0}) and difference.low == difference.high == difference.mean
        return
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval()
    assert p == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert paired(b, a)[1] == pytest.approx(p)


def test_differences_that_only_rounding_tells_apart_are_no_evidence() -> None:
    a = [0.1 + 0.2, 0.7 + 0.1, 0.3]
    assert paired(a, [0.3, 0.8, 0.1 + 0.2])[1] == 1.0


@given(values)
def test_an_estimate_is_mean_and_sample_deviation(x: list[float]) -> None:
    found = estimate(x)
    assert found.mean == pytest.approx(np.mean(x)) and found.sd == pytest.approx(np.std(x, ddof=1), abs=1e-9)
    half = stats.t.ppf(0.975, len(x) - 1) * stats.sem(x)
    assert (found.low, found.high) == (pytest.approx(np.mean(x) - half), pytest.approx(np.mean(x) + half))


def test_one_replicate_has_no_interval() -> None:
    found = estimate([0.5])
    assert (found.mean, found.sd, found.low, found.high, found.n) == (0.5, None, None, None, 1)
    assert bootstrap_interval([0.5]) is None
    assert paired([0.5], [0.2])[1] is None


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6))
def test_geometric_means_of_ratios_and_of_their_inverses_agree(ratios: list[float]) -> None:
    found, inverse = geometric(ratios), geometric([1 / ratio for ratio in ratios])
    assert found.mean == pytest.approx(np.prod(ratios) ** (1 / len(ratios)))
    assert found.mean * inverse.mean == pytest.approx(1)
    if found.sd is not None and found.low is not None and inverse.high is not None:
        assert found.low * inverse.high == pytest.approx(1) and found.sd == pytest.approx(inverse.sd)
        assert found.sd >= 1


def test_intervals_cover_what_they_say_and_the_bootstrap_covers_less() -> None:
    """Five values of a normal distribution: 95 % by t, and the 84 % of the percentile bootstrap that the page names."""
    random = np.random.default_rng(0)
    samples = random.normal(0.5, 0.1, size=(2500, 5))
    by_t, by_bootstrap = 0, 0
    for sample in samples:
        found, resampled = estimate(sample), bootstrap_interval(sample)
        assert found.low is not None and found.high is not None and resampled is not None
        by_t += found.low <= 0.5 <= found.high
        by_bootstrap += resampled[0] <= 0.5 <= resampled[1]
    # Three standard errors of a share of 2500 are 1.3 and 2.2 %.
    assert by_t / len(samples) == pytest.approx(0.95, abs=0.013)
    assert by_bootstrap / len(samples) == pytest.approx(0.84, abs=0.022)


def test_holms_correction_of_a_known_example() -> None:
    """p = 0.01, 0.04, 0.03, 0.005 at 5 %: the fourth and the first are rejected, then 0.03 > 0.05 ÷ 2 ends it.

    The example of the article "Holm–Bonferroni method" of Wikipedia, worked by hand.
    """
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(p_values)
def test_holm_is_the_closure_of_bonferroni(p: list[float]) -> None:
    """A test's adjusted p is the largest Bonferroni p of any set of tests with it (Marcus, Peritz and Gabriel 1976)."""
    subsets = [set(s) for k in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), k)]
    expected = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s) for i in range(len(p))]
    assert holm(p).tolist() == pytest.approx(expected)


def _better(scores: Any, corrected: bool = True) -> np.ndarray:
    """Who is significantly better, of scores with shape (strategies, replicates)."""
    k = len(scores)
    pairs = list(itertools.combinations(range(k), 2))
    found = [paired(scores[a], scores[b]) for a, b in pairs]
    p = [value for _, value in found if value is not None]
    better = np.zeros((k, k), dtype=bool)
    for (a, b), (difference, _), value in zip(pairs, found, holm(p) if corrected else p, strict=True):
        if value < 0.05:
            better[(a, b) if difference.mean > 0 else (b, a)] = True
    return better


def test_strategies_that_are_equal_are_rarely_told_apart() -> None:
    """Family-wise error of ten pairs at five seeds, whose seeds are easier or harder for all: at most 5 %."""
    random = np.random.default_rng(1)
    families, wrong, uncorrected = 600, 0, 0
    for _ in range(families):
        scores = 0.5 + random.normal(0, 0.1, size=5) + random.normal(0, 0.02, size=(5, 5))
        wrong += _better(scores).any()
        uncorrected += _better(scores, corrected=False).any()
    assert wrong / families <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / families)
    assert uncorrected / families > 0.15  # what the correction is for


def test_strategies_that_differ_clearly_are_told_apart_though_seeds_differ_more() -> None:
    random = np.random.default_rng(2)
    levels = np.array([0.7, 0.6, 0.6, 0.3])
    told = 0
    for _ in range(50):
        scores = levels[:, None] + random.normal(0, 0.1, size=5) + random.normal(0, 0.008, size=(4, 5))
        told += shared_ranks(_better(scores)).tolist() in ([1, 2, 2, 4], [1, 2, 3, 4], [1, 3, 2, 4])
    assert told >= 45


def test_the_resolution_is_where_holm_begins_to_reject() -> None:
    n, m = 4, 10
    spread = np.array([-1.0, -0.2, 0.4, 0.8])
    unit = (spread - spread.mean()) / spread.std(ddof=1)
    for factor, rejected in ((1.001, True), (0.999, False)):
        _, p = paired(unit + factor * resolution(n, m), np.zeros(n))
        assert p is not None
        assert (holm([p] + [0.9] * (m - 1))[0] < 0.05) is np.bool_(rejected)


def test_who_cannot_be_told_apart_shares_a_rank() -> None:
    assert shared_ranks(np.zeros((3, 3), dtype=bool)).tolist() == [1, 1, 1]
    ordered = np.triu(np.ones((4, 4), dtype=bool), 1)
    assert shared_ranks(ordered).tolist() == [1, 2, 3, 4]
    ordered[1, 2] = False
    assert shared_ranks(ordered).tolist() == [1, 2, 2, 4]
    assert shared_ranks(np.zeros((0, 0), dtype=bool)).tolist() == []


def test_the_hierarchical_bootstrap_draws_members_as_all_resamples_would() -> None:
    groups = [np.array([[1.0], [2.0], [6.0]]), np.array([[10.0], [14.0]])]
    drawn: dict[int, list[float]] = {0: [], 1: []}
    for index, means in hierarchical_bootstrap(groups, draws=4000):
        drawn[index].append(float(means[0]))
    for index, group in enumerate(groups):
        every = [np.mean(r) for r in itertools.product(group[:, 0], repeat=len(group))]
        assert set(np.round(drawn[index], 9)) <= set(np.round(every, 9))
        assert np.mean(drawn[index]) == pytest.approx(np.mean(every), abs=4 * np.std(every) / np.sqrt(4000))
        assert np.std(drawn[index]) == pytest.approx(np.std(every), rel=0.06)


def test_what_is_absent_is_left_out_of_a_resampled_mean() -> None:
    group = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    means = np.array([means for _, means in hierarchical_bootstrap([group], draws=200)])
    assert set(means[:, 0]) == {1.0, 2.0, 3.0}
    assert set(means[~np.isnan(means[:, 1]), 1]) == {5.0}
    assert np.isnan(means[:, 1]).mean() == pytest.approx(0.25, abs=0.1)  # neither draw hits the second member
    assert np.isnan(means[:, 2]).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: estimate([]),
        lambda: estimate([1.0, float("nan")]),
        lambda: estimate([[1.0]]),
        lambda: geometric([1.0, 0.0]),
        lambda: paired([1.0, 2.0], [1.0]),
        lambda: holm([0.5, 1.1]),
        lambda: holm([[0.5]]),
    ],
)
def test_bad_arrays(call: Any) -> None:
    with pytest.raises(LeaderboardError) as caught:
        call()
    assert "\n" not in str(caught.value)
