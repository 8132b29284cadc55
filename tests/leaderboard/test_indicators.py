"""Indicators against their definitions, spelled out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderboard import (
    LeaderboardError,
    at_drop,
    at_gain,
    attainment,
    epsilon_additive,
    hypervolume,
    igd_plus,
    running_hypervolume,
    step,
)

# Few distinct values, so that ties and equal points are common.
unit = st.integers(0, 4).map(lambda x: x / 4) | st.floats(0, 1.1)
in_square = st.lists(st.tuples(unit, unit), max_size=8)
coordinate = st.integers(-3, 3).map(float)
runs = st.lists(st.lists(st.tuples(coordinate, coordinate), max_size=5), min_size=1, max_size=6)


@given(in_square, in_square.filter(bool))
def test_igd_plus_is_the_mean_distance_to_what_is_dominated(
    points: list[tuple[float, float]], reference: list[tuple[float, float]]
) -> None:
    there = points or [(0.0, 0.0)]
    expected = np.mean([min(math.hypot(max(r - p, 0), max(s - q, 0)) for p, q in there) for r, s in reference])
    assert igd_plus(points, reference) == pytest.approx(expected, abs=1e-12)


@given(in_square, in_square.filter(bool))
def test_epsilon_is_the_least_shift_that_reaches_the_reference(
    points: list[tuple[float, float]], reference: list[tuple[float, float]]
) -> None:
    there = points or [(0.0, 0.0)]
    expected = max(min(max(r - p, s - q) for p, q in there) for r, s in reference)
    found = epsilon_additive(points, reference)
    assert found == pytest.approx(expected, abs=1e-12)
    shifted = [(p + found + 1e-9, q + found + 1e-9) for p, q in there]
    assert all(any(p >= r and q >= s for p, q in shifted) for r, s in reference)


@given(in_square.filter(bool), in_square.filter(bool), st.integers(0, 7), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_dominated_point_changes_no_indicator(
    points: list[tuple[float, float]], reference: list[tuple[float, float]], which: int, worse: float, also: float
) -> None:
    p, q = points[which % len(points)]
    more = [*points, (max(p - worse, 0.0), max(q - also, 0.0))]
    assert igd_plus(more, reference) == pytest.approx(igd_plus(points, reference), abs=1e-12)
    assert epsilon_additive(more, reference) == pytest.approx(epsilon_additive(points, reference), abs=1e-12)
    assert attainment([more], 1.0).tolist() == attainment([points], 1.0).tolist()
    gains = [[2.0 ** (3 * u) for u, _ in some] for some in (points, more)]
    accuracies = [[0.8 + v / 10 for _, v in some] for some in (points, more)]
    assert hypervolume(gains[1], accuracies[1], 0.9, 8) == pytest.approx(hypervolume(gains[0], accuracies[0], 0.9, 8))


def _reached(run: list[tuple[float, float]], at: tuple[float, float]) -> bool:
    return any(p >= at[0] and q >= at[1] for p, q in run)


@given(runs, st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0]))
def test_attainment_is_the_border_of_what_a_share_of_the_runs_reaches(
    given_runs: list[list[tuple[float, float]]], share: float
) -> None:
    corners = [tuple(corner) for corner in attainment(given_runs, share)]
    needed = math.ceil(share * len(given_runs) - 1e-9)
    for at in itertools.product(np.arange(-3.5, 4, 0.5), repeat=2):
        enough = sum(_reached(run, at) for run in given_runs) >= needed
        assert _reached(corners, at) is enough
    for a, b in itertools.pairwise(corners):
        assert a[0] > b[0] and a[1] < b[1]  # fastest first, none behind another


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)), max_size=8), st.integers(1, 4))
def test_fixed_gains_and_drops_choose_by_validation(networks: list[tuple[int, int, int]], wanted: int) -> None:
    gains, accuracies, drops = ([n[i] for n in networks] for i in range(3))
    index = at_gain(gains, accuracies, wanted)
    fit = [(a, g) for g, a, _ in networks if g >= wanted]
    assert (None if index is None else (accuracies[index], gains[index])) == max(fit, default=None)
    index = at_drop(gains, [d / 100 for d in drops], 0.01)
    fit = [(g, -d) for g, _, d in networks if d <= 1]
    assert (None if index is None else (gains[index], -drops[index])) == max(fit, default=None)


def test_a_drop_that_rounding_lifts_over_the_limit_is_within_it_and_an_unknown_one_is_not() -> None:
    assert 0.98 - 0.97 > 0.01
    assert at_drop([2.0], [0.98 - 0.97], 0.01) == 0
    assert at_drop([2.0, 9.0], [0.0, float("nan")], 0.01) == 0


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 1.5, 3.0, 9.0, math.nan]), st.sampled_from([0.7, 0.85, 0.9])), max_size=8)
)
def test_a_running_hypervolume_is_that_of_the_first_networks(networks: list[tuple[float, float]]) -> None:
    gains, accuracies = [g for g, _ in networks], [a for _, a in networks]
    found = running_hypervolume(gains, accuracies, 0.9, 8)
    for count in range(1, len(networks) + 1):
        known = [(g, a) for g, a in networks[:count] if not math.isnan(g)]
        assert found[count - 1] == pytest.approx(hypervolume([g for g, _ in known], [a for _, a in known], 0.9, 8))
    assert len(found) == len(networks)


def test_a_step_holds_its_value_from_its_time_on() -> None:
    assert step([0.0, 0.9, 1.0, 2.5, 3.0, 9.0], [1.0, 3.0], [0.2, 0.5]).tolist() == [0, 0, 0.2, 0.2, 0.5, 0.5]


@pytest.mark.parametrize(
    "call",
    [
        lambda: igd_plus([(0.5, 0.5)], []),
        lambda: epsilon_additive([(0.5, 0.5)], [0.5, 0.5]),
        lambda: attainment([[(1.0, 1.0)]], 0.0),
        lambda: attainment([[(1.0, float("nan"))]], 0.5),
    ],
)
def test_bad_arrays(call: Any) -> None:
    with pytest.raises(LeaderboardError) as caught:
        call()
    assert "\n" not in str(caught.value)
