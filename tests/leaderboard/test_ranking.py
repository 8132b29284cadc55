"""The ranking of simulated boards whose order and overlap are known."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
from oracles import area, square
from ranking_samples import DENSE, benchmark, board, dense, final, searched

from leaderboard import Final, LeaderboardError, Ranked, Ranking, attainment, epsilon_additive, holm, igd_plus, rank

FIVE = (0, 1, 2, 3, 4)


def place(ranking: Ranking, strategy: str) -> Ranked:
    return next(one for one in ranking.strategies if one.strategy == strategy)


def several(changed: Callable[[Final], dict[str, Any] | None], finals: Sequence[Final]) -> list[Final]:
    """`finals` with changes, without those for which there is None."""
    made = [(one, changed(one)) for one in finals]
    return [dataclasses.replace(one, **changes) for one, changes in made if changes is not None]


def test_clear_differences_are_ranked_and_equals_share() -> None:
    bench = benchmark(search_seeds=FIVE)
    levels = {"first": 0.03, "second": 0.0, "also second": 0.0, "last": -0.04}
    finals, tried = board(levels, seed=3, searches=FIVE, between=0.001, shared=0.01)
    found = rank(bench, finals, tried)
    assert [one.rank for one in found.strategies] == [1, 2, 2, 4]
    assert found.strategies[0].strategy == "first" and found.strategies[-1].strategy == "last"
    assert all(one.deviations == () for one in found.strategies)
    pair = next(pair for pair in found.pairs if {pair.first, pair.second} == {"second", "also second"})
    assert pair.better is None and pair.adjusted is not None and pair.adjusted >= 0.05


def test_every_pair_is_in_the_family_that_is_corrected() -> None:
    finals, tried = board({"a": 0.03, "b": 0.0, "c": 0.0, "d": -0.05}, seed=4, between=0.001)
    pairs = rank(benchmark(), finals, tried).pairs
    assert len(pairs) == 6
    assert [pair.adjusted for pair in pairs] == pytest.approx(holm([pair.p or 0.0 for pair in pairs]).tolist())
    judged = [(pair.adjusted or 0) < 0.05 for pair in pairs]
    assert any(judged) and not all(judged)
    for pair, differs in zip(pairs, judged, strict=True):
        assert (pair.better, pair.worse) == ((pair.first, pair.second) if differs else (None, None))


def test_equal_strategies_are_rarely_given_different_ranks() -> None:
    bench, levels = benchmark(search_seeds=FIVE, final_seeds=1), dict.fromkeys(("a", "b", "c", "d"), 0.0)
    told = 0
    for seed in range(20):
        finals, tried = board(levels, seed, searches=FIVE, fresh=1, points=2, shared=0.01)
        told += {one.rank for one in rank(bench, finals, tried).strategies} != {1}
    assert told <= 4  # of 20 at 5 %: more has a chance of 0.3 %


def test_a_replicate_is_a_search_seed_with_the_mean_of_its_fresh_seeds() -> None:
    bench = benchmark(cap=16.0, reference_drop=0.08, front=[(4.0, 0.94), (8.0, 0.93)], front_source="a pilot")
    finals, tried = board({"one": 0.0, "two": -0.02}, seed=1, fresh=2)
    found = rank(bench, finals, tried)
    for one in found.strategies:
        by_search: dict[int, list[list[tuple[float, float]]]] = {}
        for search in (0, 1, 2):
            for fresh in (0, 1):
                run = [f for f in finals if (f.strategy, f.search_seed) == (one.strategy, search)]
                points = [(f.speedup or 0.0, f.accuracy) for f in run if f.seed % 1000 == fresh]
                by_search.setdefault(search, []).append(points)
        volumes = [np.mean([area(points, DENSE, 16, 0.08) for points in of]) for of in by_search.values()]
        assert one.hypervolume is not None and one.hypervolume.n == 3
        assert one.hypervolume.mean == pytest.approx(np.mean(volumes))
        assert one.hypervolume.sd == pytest.approx(np.std(volumes, ddof=1))
        surfaces = {surface.share: surface.points for surface in one.attainment}
        for share in (0.1, 0.5, 0.9):
            assert list(surfaces[share]) == list(map(tuple, attainment(list(chain(*by_search.values())), share)))
        reference = square(bench.front, DENSE, 16, 0.08)
        for estimate, indicator in ((one.igd_plus, igd_plus), (one.epsilon, epsilon_additive)):
            distances = [
                np.mean([indicator(square(p, DENSE, 16, 0.08), reference) for p in of]) for of in by_search.values()
            ]
            assert estimate is not None and estimate.mean == pytest.approx(np.mean(distances))


def test_the_order_of_the_input_does_not_matter() -> None:
    finals, tried = board({"one": 0.01, "two": 0.0, "three": -0.01}, seed=4)
    expected = rank(benchmark(), finals, tried).to_dict()
    for seed in range(3):
        shuffled = random.Random(seed)
        mixed = rank(benchmark(), shuffled.sample(finals, len(finals)), shuffled.sample(tried, len(tried)))
        assert mixed.to_dict() == expected


def test_a_network_that_another_of_its_search_beats_changes_no_figure_of_the_test() -> None:
    finals, tried = board({"one": 0.01, "two": 0.0}, seed=5)
    behind = several(
        lambda f: (
            {"id": f"{f.id}+", "trial": 90, "speedup": 0.9 * (f.speedup or 0), "accuracy": f.accuracy - 0.001}
            if f.role == "finalist" and f.trial == 0
            else None
        ),
        finals,
    )
    plain, more = rank(benchmark(), finals, tried), rank(benchmark(), [*finals, *behind], tried)
    for one, other in zip(plain.strategies, more.strategies, strict=True):
        assert (one.rank, one.strategy, one.hypervolume) == (other.rank, other.strategy, other.hypervolume)
        assert one.attainment == other.attainment
        assert one.front_probability == other.front_probability
    assert plain.pairs == more.pairs


def test_what_was_no_faster_or_lost_too_much_or_has_no_speed_adds_nothing() -> None:
    finals = [final(search_seed=seed, fresh=i, accuracy=0.9) for seed in (0, 1, 2) for i in (0, 1)]
    kinds = ({"speedup": 1.0, "accuracy": 1.0}, {"speedup": 60.0, "accuracy": DENSE - 0.1}, {"speedup": None})
    nothing = [
        dataclasses.replace(f, id=f"{f.id}{i}", trial=1 + i, **changes)
        for i, changes in enumerate(kinds)
        for f in finals
    ]
    plain, more = (place(rank(benchmark(), given, []), "one") for given in (finals, [*finals, *nothing]))
    assert plain.hypervolume == more.hypervolume
    assert plain.hypervolume is not None and plain.hypervolume.mean == pytest.approx(0.5 / 6 / 1.1)
    assert "6 of 24 entries have no gain and add nothing" in more.deviations
    assert plain.front_probability == more.front_probability == 1.0


def test_strategies_with_the_same_results_tie_exactly() -> None:
    finals = [final(name, search, fresh=i) for name in ("a", "b") for search in (0, 1, 2) for i in (0, 1)]
    found = rank(benchmark(), finals, [])
    (pair,) = found.pairs
    assert (pair.p, pair.adjusted, pair.better) == (1.0, 1.0, None)
    assert [(one.rank, one.front_probability) for one in found.strategies] == [(1, 1.0), (1, 1.0)]
    assert all(point.front for one in found.strategies for point in one.points)


def test_pairs_are_compared_on_common_searches_and_fresh_seeds() -> None:
    finals, _ = board({"one": 0.0, "two": -0.01}, seed=6)
    lacking = several(
        lambda f: (
            None if f.strategy == "two" and (f.search_seed == 2 or (f.search_seed, f.seed % 1000) == (1, 1)) else {}
        ),
        finals,
    )
    (pair,) = rank(benchmark(), lacking, []).pairs

    def volume(strategy: str, search: int, fresh: Sequence[int]) -> float:
        runs = [
            [
                (f.speedup or 0.0, f.accuracy)
                for f in finals
                if (f.strategy, f.search_seed, f.seed % 1000) == (strategy, search, i)
            ]
            for i in fresh
        ]
        return float(np.mean([area(run, DENSE, 64) for run in runs]))

    first, second = pair.first, pair.second
    expected = [volume(first, 0, (0, 1)) - volume(second, 0, (0, 1)), volume(first, 1, (0,)) - volume(second, 1, (0,))]
    assert pair.difference is not None and pair.difference.n == 2
    assert pair.difference.mean == pytest.approx(np.mean(expected))


def test_one_search_has_no_interval_and_no_rank_and_is_not_dropped() -> None:
    finals, tried = board({"one": 0.0, "two": -0.01}, seed=7)
    lacking = several(lambda f: None if f.strategy == "two" and f.search_seed else {}, finals)
    found = place(rank(benchmark(), lacking, tried), "two")
    assert found.hypervolume is not None and found.hypervolume.n == 1
    assert (found.rank, found.hypervolume.low, found.bootstrap) == (None, None, None)
    assert "no finalists of search seed 1, 2" in found.deviations
    assert "one search seed, so no interval and no rank" in found.deviations


def test_a_strategy_that_was_searched_and_has_no_finalists_comes_last() -> None:
    finals, tried = board({"one": 0.0}, seed=8)
    found = rank(benchmark(), finals, [*tried, *(searched("two", seed, t) for seed in (0, 1, 2) for t in range(4))])
    last = found.strategies[-1]
    assert (last.strategy, last.rank, last.hypervolume, last.front_probability) == ("two", None, None, None)
    assert last.deviations == ("no finalists of search seed 0, 1, 2",)
    assert [curve.against for curve in last.progress] == ["trials", "evaluation_seconds", "training_seconds"]


def test_an_empty_board_is_an_empty_ranking() -> None:
    found = rank(benchmark(), [], [])
    assert (found.strategies, found.pairs, found.dense, found.structure) == ((), (), (), ())


def test_only_what_the_benchmark_names_is_ranked_and_told_once() -> None:
    finals, tried = board({"one": 0.0}, seed=9)
    pilots, _ = board({"one": 0.04}, seed=10, searches=(7,))
    again = several(lambda f: {"id": f"z{f.id}", "accuracy": 1.0} if f.role == "finalist" else None, finals[:5])
    elsewhere = several(
        lambda f: {"id": f"x{f.id}", "trial": 50, "chosen": False, "accuracy": 1.0} if f.role == "finalist" else None,
        finals,
    )
    plain = rank(benchmark(), finals, tried)
    found = rank(benchmark(), [*finals, *pilots, *again, *elsewhere], tried)
    assert found.strategies == plain.strategies and found.dense == plain.dense
    told = " ".join(found.notes)
    assert "6 entries of search seeds 7 are left out" in told
    assert f"{len(again)} entries of a finalist and fresh seed that are there already are left out" in told


def test_fixed_speeds_and_drops_are_chosen_by_validation_and_told_on_test() -> None:
    """Two networks of a search: the one that is better on validation is worse on test, and is taken all the same."""
    finals = [dense(search, i) for search in (0, 1, 2) for i in (0, 1)]
    for search in (0, 1, 2):
        for i in (0, 1):
            finals.append(final("one", search, 0, i, 2.0, validation=0.948, accuracy=0.930 + 0.002 * i))
            finals.append(final("one", search, 1, i, 2.5, validation=0.942, accuracy=0.949))
            if search < 2:
                finals.append(final("one", search, 2, i, 5.0 + 3.0 * i, validation=0.935, accuracy=0.935))
    found = place(rank(benchmark(), finals, []), "one")
    at = {one.wanted: one for one in found.at_gain}
    assert at[1.5].accuracy is not None and at[1.5].accuracy.mean == pytest.approx(0.931)
    assert at[1.5].drop is not None and at[1.5].drop.mean == pytest.approx(DENSE - 0.931)
    assert at[3.0].accuracy is not None and (at[3.0].reached, at[3.0].seeds, at[3.0].accuracy.n) == (2, 3, 2)
    assert at[3.0].gain is not None and at[3.0].gain.mean == pytest.approx(np.sqrt(5 * 8))
    drops = {one.wanted: one for one in found.at_drop}
    assert drops[0.005].gain is not None and drops[0.005].gain.mean == pytest.approx(2.0)
    assert drops[0.01].gain is not None and drops[0.01].gain.mean == pytest.approx(2.5)
    assert drops[0.01].drop is not None and drops[0.01].drop.mean == pytest.approx(0.001)
    assert (drops[0.02].reached, drops[0.005].accuracy) == (3, at[1.5].accuracy)


def test_without_the_dense_network_drops_are_unknown_and_that_is_said() -> None:
    finals, _ = board({"one": 0.0}, seed=11)
    found = rank(benchmark(), [f for f in finals if f.role == "finalist"], [])
    assert all(at.reached == 0 and at.gain is None for at in place(found, "one").at_drop)
    assert any("no control dense in 6 of 6 final studies" in note for note in found.notes)


def test_the_probability_of_the_front_is_over_searches_and_fresh_seeds() -> None:
    """`two` is ahead in one of two searches, and there on one of two fresh seeds, by so much that one draw decides."""
    bench = benchmark(search_seeds=(0, 1))
    finals = [final("one", search, fresh=i, accuracy=0.93) for search in (0, 1) for i in (0, 1)]
    finals += [final("two", 0, fresh=i, accuracy=0.90) for i in (0, 1)]
    finals += [final("two", 1, fresh=i, accuracy=accuracy) for i, accuracy in ((0, 0.90), (1, 0.97))]
    found = rank(bench, finals, [])
    # In search 1 both fresh seeds are drawn as the first with a chance of ¼; then `two` is behind.
    assert place(found, "two").front_probability == pytest.approx(0.5 * 0.75, abs=0.03)
    assert place(found, "one").front_probability == pytest.approx(0.5 + 0.5 * 0.25, abs=0.03)
    fronts = {(p.strategy, p.search_seed): p.front for one in found.strategies for p in one.points}
    assert fronts == {("one", 0): True, ("two", 0): False, ("one", 1): False, ("two", 1): True}


def test_controls_are_held_against_what_they_control() -> None:
    finals, _ = board({"one+int": 0.0}, seed=12)
    scratch = several(
        lambda f: (
            {
                "id": f"s{f.id}",
                "strategy": "one@scratch-e+int",
                "role": "control",
                "chosen": False,
                "epochs": 10.0,
                "accuracy": f.accuracy - 0.01 * (1 + (f.search_seed or 0)),
            }
            if f.role == "finalist" and f.trial == 1
            else None
        ),
        finals,
    )
    (found,) = rank(benchmark(), [*finals, *scratch], []).structure
    assert (found.strategy, found.control, found.difference.n) == ("one+int", "scratch-e", 3)
    assert found.difference.mean == pytest.approx(0.02) and found.difference.sd == pytest.approx(0.01)
    assert (found.epochs, found.finalist_epochs) == (10.0, 2.0)
    plain, integers = rank(benchmark(), finals, []).dense
    assert (plain.strategy, integers.strategy, plain.accuracy.n) == ("dense", "dense+int", 6)
    assert plain.accuracy.mean == pytest.approx(DENSE) and plain.gain is not None and plain.gain.mean == 1.0


def test_progress_is_the_hypervolume_of_what_a_search_had_found() -> None:
    tried = [
        searched(seed=seed, trial=t, gain=gain, accuracy=0.93, evaluation_seconds=seconds)
        for seed, gains, seconds in ((0, (2.0, 4.0, 3.0), 1.0), (1, (4.0, 2.0, 8.0), 2.0))
        for t, gain in enumerate(gains)
    ]
    finals = [final(search_seed=seed, fresh=i) for seed in (0, 1) for i in (0, 1)]
    finals += [dense(seed, i, validation=0.94) for seed in (0, 1) for i in (0, 1)]
    trials, evaluated, trained = place(rank(benchmark(search_seeds=(0, 1)), finals, tried), "one").progress
    per_doubling = area([(2.0, 0.93)], 0.94, 64)  # against the dense network on validation
    assert trials.at == (1.0, 2.0, 3.0)
    assert trials.mean == pytest.approx([1.5 * per_doubling, 2 * per_doubling, 2.5 * per_doubling])
    assert evaluated.at == (1.0, 2.0, 3.0, 4.0, 6.0)
    assert evaluated.mean == pytest.approx([k * per_doubling for k in (0.5, 2.0, 2.0, 2.0, 2.5)])
    assert trained.at == (3.0, 6.0, 9.0)
    backwards = [dataclasses.replace(one, created=f"2026-11-22T03:{9 - one.trial:02}:00Z") for one in tried]
    (first, *_), *_ = (
        curve.mean for curve in place(rank(benchmark(search_seeds=(0, 1)), finals, backwards), "one").progress
    )
    assert first == pytest.approx((np.log2(3) + 3) / 2 * per_doubling)  # what ended first counts first
    untimed = [dataclasses.replace(one, evaluation_seconds=None) for one in tried[:1]] + tried[1:]
    found = place(rank(benchmark(search_seeds=(0, 1)), finals, untimed), "one")
    assert [curve.against for curve in found.progress] == ["trials", "training_seconds"]
    assert found.training is not None and found.training.search_seconds is None
    assert found.training.search_training_seconds is not None and found.training.search_training_seconds.mean == 9.0


def test_on_the_track_of_parameters_their_number_is_the_gain() -> None:
    bench = benchmark(track="parameters", reference_latency=None)
    finals = [
        final(search_seed=s, fresh=i, gain=None, accuracy=DENSE, parameters=4500) for s in (0, 1, 2) for i in (0, 1)
    ]
    found = place(rank(bench, finals, []), "one")
    assert found.hypervolume is not None and found.hypervolume.mean == pytest.approx(1 / 6 / 1.1)
    assert found.points[0].gain == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (lambda f: None if f.search_seed == 1 else {}, "no finalists of search seed 1"),
        (lambda f: None if f.seed == 1001 else {}, "search seed 0: 1 final seeds, 2 are asked for"),
        (
            lambda f: None if (f.seed, f.trial) == (1001, 2) else {},
            "search seed 0: 1 of 6 trainings of finalists missing",
        ),
        (lambda f: {"speedup": None} if f.trial == 0 else {}, "6 of 18 entries have no gain and add nothing"),
        (
            lambda f: {"epochs": 3.0, "total_epochs": 13.0} if f.trial == 0 else {},
            "6 of 18 entries were trained for more epochs than the budget",
        ),
        (
            lambda f: {"latency": 2 * (f.latency or 0)} if f.trial == 0 else {},
            "6 of 18 entries were timed against another reference latency",
        ),
        (
            lambda f: {"unstable": True} if f.trial == 0 else {},
            "6 of 18 timings did not settle: their gains are less certain than they look",
        ),
        (
            lambda f: {"study": "other"} if f.search_seed == 0 and f.trial == 0 else {},
            "search seed 0 was searched 2 times, in 'other', 'search-0'",
        ),
        (lambda f: {"study": "other"}, "budget unknown: searches 'other' are not in this storage"),
        (
            lambda f: {"seed": 0} if f.seed == 1000 else {},
            "search seed 0: trained on the seed of its search, which chose it for that training",
        ),
    ],
)
def test_what_deviates_from_the_benchmark_is_said(
    changed: Callable[[Final], dict[str, Any] | None], expected: str
) -> None:
    finals, tried = board({"one": 0.0}, seed=13)
    own = several(lambda f: changed(f) if f.role == "finalist" else {}, finals)
    assert place(rank(benchmark(), finals, tried), "one").deviations == ()
    assert expected in place(rank(benchmark(), own, tried), "one").deviations


def test_fresh_seeds_that_serve_several_searches_are_said() -> None:
    finals, tried = board({"one": 0.0}, seed=13)
    assert not any("serve several" in note for note in rank(benchmark(), finals, tried).notes)
    reused = several(lambda f: {"seed": 1000} if f.seed == 2001 else {}, finals)
    told = "fresh seeds 1000 serve several search seeds, whose results then share their luck"
    assert told in rank(benchmark(), reused, tried).notes


def test_other_budgets_of_the_search_are_said() -> None:
    finals, tried = board({"one": 0.0}, seed=14)
    short = place(rank(benchmark(), finals, tried[:-1]), "one")
    assert short.deviations == ("search seed 2: 3 trials in 'search-2', the budget is 4",)
    crowded = place(rank(benchmark(points=2), finals, tried), "one")
    assert "search seed 0: 3 finalists, 2 are allowed" in crowded.deviations
    fresh = several(lambda f: {"epochs": 10.0, "total_epochs": 10.0} if f.role == "finalist" else {}, finals)
    assert place(rank(benchmark(), fresh, tried), "one").deviations == ()  # from initial weights, as long as allowed


def test_a_ranking_is_plain_data() -> None:
    finals, tried = board({"one": 0.0, "two": -0.01}, seed=15)
    found = rank(benchmark(), finals, tried)
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read["benchmark"]["name"] == "digits-cnn-fpga-z7020"
    assert [one["strategy"] for one in read["strategies"]] == [one.strategy for one in found.strategies]
    assert read["pairs"][0]["p"] == found.pairs[0].p


def test_showing_some_strategies_changes_no_rank() -> None:
    finals, tried = board({"one": 0.03, "two": 0.0, "three": -0.05}, seed=16, between=0.001)
    whole = rank(benchmark(), finals, tried)
    shown = whole.only(["three", "one"])
    assert shown.strategies == tuple(one for one in whole.strategies if one.strategy != "two")
    (pair,) = shown.pairs
    assert pair in whole.pairs
    with pytest.raises(LeaderboardError, match="'four' is not in the ranking; there are 'one', 'two', 'three'"):
        whole.only(["four"])
