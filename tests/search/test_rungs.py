"""Rungs and the screen: the right candidates go on, and none that might still win is let go."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from search.rungs import Rungs, best_first
from search.screening import clearly_beaten

POINTS = arrays(float, st.tuples(st.integers(1, 12), st.integers(2, 3)), elements=st.integers(0, 5).map(float))


def beats(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one <= other).all() and (one < other).any())


@given(POINTS)
def test_best_first_is_a_permutation_in_which_nobody_stands_before_who_beats_them(points: np.ndarray) -> None:
    order = best_first(points)
    assert sorted(order) == list(range(len(points)))
    for earlier, later in itertools.combinations(order, 2):
        assert not beats(points[later], points[earlier])


def test_within_a_rank_the_far_ends_come_first() -> None:
    line = np.array([[x, 10 - x] for x in (0, 1, 2, 3, 10)], dtype=float)
    assert best_first(line)[:2] == [0, 4]


def test_one_of_two_is_promoted_and_the_highest_rung_goes_first() -> None:
    rungs = Rungs((0.1, 0.3))
    rungs.add(0, 7, (3.0, 1.0))
    assert rungs.promote() is None
    rungs.add(0, 8, (2.0, 1.0))
    assert rungs.promote() == (8, 0) and rungs.promote() is None
    rungs.add(1, 8, (2.0, 1.0))
    rungs.add(0, 9, (1.0, 1.0))
    rungs.add(0, 10, (1.5, 1.0))
    assert rungs.promote() == (9, 0)
    rungs.add(1, 9, (1.0, 1.0))
    assert rungs.promote() == (9, 1)
    assert rungs.promote() == (10, 0)  # two of four on the lower rung, of which 8 has left already


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30), st.integers(2, 4))
def test_no_candidate_leaves_a_rung_twice_and_at_most_one_in_so_many_does(values: list, reduction: int) -> None:
    rungs, left = Rungs((0.5,), reduction), []
    for number, value in enumerate(values):
        rungs.add(0, number, value)
        while (promoted := rungs.promote()) is not None:
            left.append(promoted[0])
    assert len(left) == len(set(left)) and rungs.waiting == len(values) - len(left)
    # Asynchronous: who was among the best once is gone, also where better ones came later.
    assert len(left) >= len(values) // reduction
    while (waiting := rungs.best_waiting()) is not None:
        left.append(waiting[0])
    assert sorted(left) == list(range(len(values))) and rungs.waiting == 0


@given(
    arrays(float, st.tuples(st.integers(0, 8), st.just(2)), elements=st.integers(0, 4).map(float)),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.floats(0, 1),
    st.data(),
)
def test_who_is_let_go_is_beaten_on_every_cost_and_by_more_than_its_error(
    others: np.ndarray, costs: tuple[int, int], accuracy: float, data: st.DataObject
) -> None:
    accuracies = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(others), max_size=len(others))))
    beaten = clearly_beaten(costs, accuracy, others, accuracies, images=100)
    better = [a for row, a in zip(others, accuracies, strict=True) if row[0] <= costs[0] and row[1] <= costs[1]]
    if beaten:
        assert max(better) > accuracy + 0.02
    if better and max(better) > accuracy + 0.15:  # two standard errors of a difference are at most 0.1415
        assert beaten


def test_chance_beats_nobody() -> None:
    assert not clearly_beaten([1.0], 0.10, [[0.5]], [0.12], images=1000)
    assert clearly_beaten([1.0], 0.10, [[0.5]], [0.20], images=1000)
