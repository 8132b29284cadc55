"""What a ranking is made from: finals on the test split, apart from searches on validation, and frozen benchmarks."""

from __future__ import annotations

from typing import Any

import pytest
from board_samples import benchmark, cost, entry, training

from leaderboard import Entry, LeaderboardError, Query, Reference, Store, current_benchmark, render

KEY = "cpu-onnxruntime@ab12cd34"
TESTED = {
    "validation": {"top1": 0.97, "top5": 1.0},
    "test": {"top1": 0.95, "top5": 0.99},
    "dense_validation": 0.98,
    "dense_test": 0.96,
}


def finalist(**changed: Any) -> Entry:
    origin = {"entry": "ab" * 8, "study": "first", "trial": 7, "seed": 1, "targets": [KEY]}
    return entry(**{"study": "final", "role": "finalist", "seed": 101, "accuracy": TESTED, "origin": origin, **changed})


def test_searches_and_finals_are_never_in_one_board(store: Store) -> None:
    store.add_many([entry(), finalist(trial=1)])
    (searched,) = store.query(Query()).rows
    (final,) = store.query(Query(finals=True)).rows
    assert (searched.trial, searched.final, searched.accuracy, searched.drop) == (0, False, 0.97, 1.0)
    assert (final.trial, final.final, final.accuracy, final.drop) == (1, True, 0.95, 1.0)
    assert searched.front and final.front
    assert [row.trial for row in store.pareto("digits/cnn", KEY)] == [0]
    assert store.query(Query(finals=True, where="top1 > 0.96")).rows == []  # that of the test split too
    store.freeze_reference("digits/cnn", KEY, Reference(1e-3, 0.98))
    (on_validation,), (on_test,) = (store.query(Query(finals=finals)).tracks for finals in (False, True))
    assert (on_validation.reference_latency, on_validation.reference_accuracy) == (1e-3, 0.98)
    assert (on_test.reference_latency, on_test.reference_accuracy) == (1e-3, None)
    assert "test split" in render.legend(on_test, "speed") and "test split" not in render.legend(on_validation, "speed")


def test_a_final_says_where_it_comes_from_and_whether_it_was_chosen_for_the_track(store: Store) -> None:
    as_run = {"runtime_accuracy": {"top1": 0.96}, "runtime_test": {"top1": 0.94}}
    costs = [cost(KEY, 2.0, **as_run), cost("fpga-z7020", 8.0)]
    both = {"trial": 1, "evaluation_seconds": 9.0, "costs": costs}
    dense = {"strategy": "dense", "role": "control", "origin": None, "costs": [cost(KEY, 1.0)]}
    given = [
        finalist(**both, training=training(epoch_fp32=0.5, dense_epoch_fp32=1.0)),
        finalist(trial=2, study="other", seed=102, **{k: v for k, v in both.items() if k != "trial"}),
        finalist(**dense),
        entry(trial=5),
    ]
    store.add_many(given)
    control, one, other = store.finals("digits/cnn", KEY)
    assert (control.strategy, control.role, control.study, control.trial, control.search_seed) == (
        *("dense", "control"),
        *(None, None, None),
    )
    assert not control.chosen
    assert (one.id, one.study, one.trial, one.search_seed, one.chosen) == (given[0].id, "first", 7, 1, True)
    assert (one.seed, one.final_study, other.seed, other.final_study) == (101, "final", 102, "other")
    assert (one.validation, one.accuracy, one.dense_accuracy) == (0.96, 0.94, 0.96)
    assert (one.speedup, one.low, one.high, one.latency, one.energy) == (2.0, 1.94, 2.06, 0.5e-3, None)
    assert (one.parameters, one.dense_parameters, one.macs, one.dense_macs, one.bytes) == (
        1000,
        9000,
        20000,
        90000,
        4000,
    )
    assert (one.epochs, one.seconds, one.total_epochs, one.total_seconds) == (2.0, 3.5, 12.0, 15.5)
    assert (one.epoch_fp32, one.dense_epoch_fp32) == (0.5, 1.0)
    assert [final.chosen for final in store.finals("digits/cnn", "fpga-z7020")] == [False, False]
    assert store.finals("digits/cnn", "nowhere") == []


def test_searches_are_full_evaluations_of_candidates_on_validation(store: Store) -> None:
    as_run = cost(runtime_accuracy={"top1": 0.9})
    store.add_many(
        [
            entry(trial=1, study="b", strategy="one"),
            entry(trial=0, study="b", strategy="two", costs=[as_run], evaluation_seconds=4.5, seed=3),
            entry(trial=9, study="a", strategy="two", role="control"),
            entry(trial=2, study="a", strategy="two", costs=[cost(speedup=None)]),
            entry(trial=10, study="a", strategy="two"),
            entry(trial=3, study="c"),
            finalist(trial=4, study="a"),
        ]
    )
    found = store.searched("digits/cnn", KEY, ["a", "b"])
    assert [(one.strategy, one.study, one.trial) for one in found] == [
        *(("one", "b", 1), ("two", "a", 2), ("two", "a", 10), ("two", "b", 0)),
    ]
    last = found[-1]
    assert (last.seed, last.accuracy, last.speedup, last.seconds, last.evaluation_seconds) == (3, 0.9, 2.0, 3.5, 4.5)
    assert (last.parameters, last.dense_parameters) == (1000, 9000)
    assert found[1].speedup is found[0].evaluation_seconds is None
    assert store.searched("digits/cnn", KEY, []) == store.searched("other", KEY, ["a"]) == []


def test_a_definition_is_never_changed(store: Store) -> None:
    assert current_benchmark(store, "digits/cnn", KEY) is None and store.benchmarks() == []
    first, second = benchmark(), benchmark(version=2, cap=4.0)
    assert store.freeze_benchmark(second) == second
    assert store.freeze_benchmark(first) == first == store.freeze_benchmark(first)
    with pytest.raises(LeaderboardError, match="'digits-cnn-cpu@1' stands with other content"):
        store.freeze_benchmark(benchmark(trials=21))
    other = benchmark(name="another", key="cpu-onnxruntime@other")
    store.freeze_benchmark(other)
    assert current_benchmark(store, "digits/cnn", KEY) == second
    assert current_benchmark(store, "digits/cnn", "cpu-onnxruntime") is None
    assert store.benchmarks() == [other, first, second]
