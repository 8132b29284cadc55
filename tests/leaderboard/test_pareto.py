"""Pareto maths against brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import area

from leaderboard import LeaderboardError, front, hypervolume, non_dominated

# Few distinct values, so that ties in one column and equal points are common.
coordinate = st.integers(-3, 3).map(float) | st.floats(-10, 10)


@given(
    st.integers(1, 4).flatmap(
        lambda m: st.tuples(
            st.lists(st.tuples(*[coordinate] * m), max_size=25), st.lists(st.booleans(), min_size=m, max_size=m)
        )
    )
)
def test_non_dominated_is_what_the_definition_says(case: tuple[list[tuple[float, ...]], list[bool]]) -> None:
    points, maximise = case
    signed = [[x if up else -x for x, up in zip(point, maximise, strict=True)] for point in points]
    expected = [not any(all(q >= p for p, q in zip(a, b, strict=True)) and a != b for b in signed) for a in signed]
    array = np.array(points, dtype=float).reshape(len(points), len(maximise))
    assert non_dominated(array, maximise).tolist() == expected


@given(st.lists(st.tuples(st.integers(1, 5).map(float), st.integers(0, 5).map(lambda x: x / 5)), max_size=30))
def test_front_goes_from_fast_to_slow(points: list[tuple[float, float]]) -> None:
    s, a = [p[0] for p in points], [p[1] for p in points]
    kept = front(s, a)
    assert sorted(kept) == [
        i for i, p in enumerate(points) if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)
    ]
    assert all(s[i] >= s[j] and a[i] <= a[j] for i, j in itertools.pairwise(kept))


@given(
    st.lists(st.tuples(st.floats(0.1, 100) | st.sampled_from([1.0, 2.0, 8.0]), st.floats(0, 1)), max_size=20),
    st.floats(0.2, 1.0),
    st.sampled_from([8.0, 64.0]),
    st.sampled_from([0.1, 0.05, 0.3]),
)
def test_hypervolume_is_the_area_of_the_protocol(
    points: list[tuple[float, float]], dense: float, cap: float, drop: float
) -> None:
    s, a = [p[0] for p in points], [p[1] for p in points]
    found = hypervolume(s, a, dense, cap, drop)
    assert found == pytest.approx(area(points, dense, cap, drop), abs=1e-9)
    assert 0 <= found <= 1 + 1e-9


def test_hypervolume_of_known_cases() -> None:
    assert hypervolume([], [], 0.9, 8) == 0
    assert hypervolume([1.0, 0.5], [0.9, 0.99], 0.9, 8) == 0  # not faster
    assert hypervolume([8.0], [0.8], 0.9, 8) == 0  # ten points lost
    assert hypervolume([8.0], [0.9], 0.9, 8) == pytest.approx(1 / 1.1)
    assert hypervolume([80.0], [1.0], 0.9, 8) == pytest.approx(1)  # both capped
    assert hypervolume([2.0], [0.85], 0.9, 8) == pytest.approx(1 / 3 * 0.5 / 1.1)


@given(st.lists(st.tuples(st.floats(0.5, 20), st.floats(0.5, 1)), min_size=1, max_size=10))
def test_only_the_front_counts_and_more_never_hurts(points: list[tuple[float, float]]) -> None:
    s, a = np.array(points).T
    kept = front(s, a)
    whole = hypervolume(s, a, 0.9, 8)
    assert hypervolume(s[kept], a[kept], 0.9, 8) == pytest.approx(whole)
    assert hypervolume(s[1:], a[1:], 0.9, 8) <= whole + 1e-12


@pytest.mark.parametrize(
    "call",
    [
        lambda: non_dominated([[float("nan"), 1.0]]),
        lambda: non_dominated([1.0, 2.0]),
        lambda: hypervolume([1.0, 2.0], [0.5], 0.9, 8),
        lambda: hypervolume([float("inf")], [0.5], 0.9, 8),
        lambda: hypervolume([2.0], [0.5], 0.9, 1),
        lambda: hypervolume([2.0], [0.5], float("nan"), 8),
        lambda: hypervolume([2.0], [0.5], 0.9, 8, reference_drop=0.0),
    ],
)
def test_bad_arrays(call: Any) -> None:
    with pytest.raises(LeaderboardError) as caught:
        call()
    assert "\n" not in str(caught.value)
