"""Finalists: the validation front, trained again on fresh seeds, tested once, and never twice."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboard import Entry, Store, current_benchmark, hypervolume
from search import Campaign, Finals, Subject, chosen, read_studies, run_campaign, run_finalists
from search.finalists import representative
from search.status import status, studies
from search.storage import optuna_storage
from tests.leaderboard.board_samples import cost, entry
from workloads import Dense, InputError

TARGETS = ("fpga-zcu104", "counts")


def searched(store: Store, seed: int, strategies: tuple[str, ...] = ("int", "uniform+int"), trials: int = 2) -> str:
    name = f"s{seed}"
    run_campaign(Campaign(name, Subject("digits/cnn", seed=seed), strategies, TARGETS, 0.1, 0.1), store, trials=trials)
    return name


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A board with two searches and their finalists on two fresh seeds each."""
    path = tmp_path_factory.mktemp("finals") / "board.db"
    with Store(str(path)) as store:
        names = [searched(store, seed) for seed in (0, 1)]
        run_finalists(read_studies(store, names), Finals(seeds=2, points=2), store)
    return str(path)


def finals_of(store: Store) -> list[Entry]:
    return [found for found in store.entries() if found.final]


def test_every_finalist_is_trained_on_every_fresh_seed_of_its_search_and_tested(board: str) -> None:
    with Store(board) as store:
        finals = finals_of(store)
        by_search = {study: {e.id: e for e in store.entries(study=study)} for study in ("s0", "s1")}
    finalists = [found for found in finals if found.role == "finalist"]
    for study, fresh in (("s0", {1000, 1001}), ("s1", {2000, 2001})):
        picked = dict((e.id, keys) for e, keys in chosen(list(by_search[study].values()), 2))
        own = [found for found in finalists if found.origin and found.origin.study == study]
        assert len(own) == 2 * len(picked)
        assert {(found.origin.entry, found.seed) for found in own if found.origin} == set(
            itertools.product(picked, fresh)
        )
        for found in own:
            assert found.origin is not None
            source = by_search[study][found.origin.entry]
            assert found.origin.targets == picked[source.id]
            assert (found.plan_digest, found.epochs) == (source.plan_digest, source.epochs)
            assert found.parameters == source.parameters and found.dense_digest != source.dense_digest


def test_a_finalist_has_all_accuracies_and_a_searched_candidate_none_of_test(board: str, digits: Dense) -> None:
    with Store(board) as store:
        entries = list(store.entries())
    assert all((e.accuracy.test is not None) == ("@" in e.study) for e in entries)
    for found in (e for e in entries if e.final):
        on_fpga = next(c for c in found.costs if c.target == "fpga-zcu104")
        assert found.accuracy.dense_test is not None
        assert found.ranking_accuracy(on_fpga) == found.accuracy.test.primary  # a model runs nothing
        # Accuracies are counts of images, and the two splits have different numbers of them.
        for scores, split in (
            (found.accuracy.validation, digits.splits.validation),
            (found.accuracy.test, digits.splits.test),
        ):
            assert scores is not None
            right = scores.primary * len(split)
            assert right == pytest.approx(round(right))
    assert len(digits.splits.test) != len(digits.splits.validation)


def test_the_dense_network_and_the_same_structures_from_scratch_stand_beside_them(board: str) -> None:
    with Store(board) as store:
        controls = [found for found in finals_of(store) if found.role == "control"]
    for study in ("s0@1000", "s0@1001", "s1@2000", "s1@2001"):
        own = [found for found in controls if found.study == study]
        # A number format alone has no structure that could be trained from scratch.
        names = ["dense", "dense+int", "uniform@scratch-b+int", "uniform@scratch-e+int"]
        assert sorted(found.strategy for found in own) == names
        for found in own:
            if "@" in found.strategy:
                assert found.origin is not None and found.training.starts_from == "initial"
                assert not found.origin.targets, "a control is not ranked among the finalists"


def test_all_strategies_of_a_search_share_the_dense_networks(board: str) -> None:
    with Store(board) as store:
        finals = finals_of(store)
    digests = {
        seed: {found.dense_digest for found in finals if found.seed == seed} for seed in (1000, 1001, 2000, 2001)
    }
    assert all(len(found) == 1 for found in digests.values())
    assert len(set.union(*digests.values())) == 4


def test_status_tells_of_finalists_as_of_a_search(board: str) -> None:
    with Store(board) as store, optuna_storage(store) as storage:
        found = status(store, storage, "s0@1000")
        entries = list(store.entries(study="s0@1000"))
        assert studies(store, storage) == ["s0", "s1"]  # finalists are listed while a driver is at work on them
    finished = {one.strategy: one.finished for one in found.strategies}
    assert finished == Counter(entry.strategy for entry in entries)
    assert not found.done and {one.wanted for one in found.strategies} == {None}


def test_a_second_run_trains_nothing(board: str) -> None:
    with Store(board) as store:
        before = [found.id for found in store.entries()]
        summary = run_finalists(read_studies(store, ["s0", "s1"]), Finals(seeds=2, points=2), store)
        assert (summary.finished, summary.ended) == (0, "all trials done")
        assert [found.id for found in store.entries()] == before


def test_the_benchmark_is_frozen_from_the_dense_networks_and_stands(board: str) -> None:
    with Store(board) as store:
        dense = [found for found in finals_of(store) if found.strategy == "dense"]
        frozen = current_benchmark(store, "digits/cnn", "fpga-zcu104")
        counted = current_benchmark(store, "digits/cnn", "counts")
        reference = store.reference("digits/cnn", "fpga-zcu104")
    assert frozen is not None and counted is not None and reference is not None
    assert frozen.dense_accuracy == pytest.approx(sum(e.accuracy.test.primary for e in dense if e.accuracy.test) / 4)
    assert (frozen.track, frozen.cap, frozen.reference_latency) == ("modelled", 64.0, reference.latency)
    assert (counted.track, counted.reference_latency) == ("parameters", None)
    assert (frozen.search_seeds, frozen.final_seeds, frozen.trials) == ((0, 1), 2, 2)


def test_a_run_that_ends_early_is_gone_on_with(tmp_path: Path) -> None:
    with Store(str(tmp_path / "board.db")) as store:
        studies = read_studies(store, [searched(store, 0, ("uniform",), trials=2)])
        asked = Finals(seeds=1, points=2, scratch=False)
        late = run_finalists(studies, asked, store, deadline=time.monotonic())
        assert late.ended == "time budget spent" and not finals_of(store)
        told: list[Entry] = []

        def once(found: Entry | None, line: str) -> None:
            told.append(found)
            if len(told) == 3:  # two dense networks, then one finalist
                raise KeyboardInterrupt

        assert run_finalists(studies, asked, store, listen=once).ended == "interrupted"
        assert len(finals_of(store)) == 3
        assert run_finalists(studies, asked, store).ended == "all trials done"
        finalists = [found for found in finals_of(store) if found.role == "finalist"]
        assert len({found.plan_digest for found in finalists}) == len(finalists) == len(chosen(studies[0].entries, 2))


def test_studies_that_do_not_belong_together_are_refused(board: str, tmp_path: Path) -> None:
    with Store(board) as store:
        first, _ = read_studies(store, ["s0", "s1"])
        with pytest.raises(InputError, match="each needs a seed of its own"):
            run_finalists([first, first], Finals(), store)
        with pytest.raises(InputError, match="there is no study"):
            read_studies(store, ["nothing"])
    with Store(str(tmp_path / "other.db")) as store:
        run_campaign(Campaign("o", Subject("digits/cnn", seed=5), ("uniform",), ("counts",), 0.2, 0.2), store, trials=1)
        (other,) = read_studies(store, ["o"])
        with pytest.raises(InputError, match="differ in their epochs"):
            run_finalists([first, other], Finals(), store)


points = st.lists(st.tuples(st.integers(50, 700), st.integers(80, 100)), min_size=1, max_size=9)


def scored(trial: int, gain: float, accuracy: float, strategy: str = "l1") -> Entry:
    return entry(
        trial=trial,
        strategy=strategy,
        accuracy={"validation": {"top1": accuracy}, "dense_validation": 0.95},
        costs=[cost(speedup=gain)],
    )


@settings(max_examples=60, deadline=None)
@given(points, st.integers(1, 4))
def test_what_is_chosen_covers_nearly_as_much_as_any_choice_could(found: list[tuple[int, int]], most: int) -> None:
    entries = [scored(i, gain / 100, accuracy / 100) for i, (gain, accuracy) in enumerate(found)]
    picked = [e for e, _ in chosen(entries, most)]

    def covered(some: list[Entry]) -> float:
        gains = [e.costs[0].speedup.value for e in some if e.costs[0].speedup]
        return hypervolume(gains, [e.accuracy.validation.primary for e in some], 0.95, 8.0)

    best = max(covered(list(some)) for some in itertools.combinations(entries, min(most, len(entries))))
    assert 1 <= len(picked) <= most
    assert covered(picked) >= (1 - 1 / 2.7182818) * best - 1e-12
    if most == 1:
        assert covered(picked) == pytest.approx(best)
    if len(picked) < min(most, len(entries)):  # what was left out adds nothing
        assert covered(picked) == pytest.approx(covered(entries))


def test_a_strategy_that_gains_nothing_still_has_a_finalist() -> None:
    entries = [scored(0, 0.9, 0.95), scored(1, 0.8, 0.96), scored(2, 3.0, 0.5)]
    assert [e.trial for e, _ in chosen(entries)] == [1]


def test_the_fastest_that_loses_little_gets_controls() -> None:
    entries = [scored(0, 1.5, 0.949), scored(1, 2.0, 0.941), scored(2, 4.0, 0.9)]
    assert representative(entries).trial == 1
    assert representative(entries[2:]).trial == 2
