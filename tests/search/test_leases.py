"""Leases: a plan is one driver's, no more evaluations than were asked for, and results count once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from leaderboard import Entry, StorageUnavailable, Store
from search import leases as module
from search.drivers import Presence
from search.leases import Lease, Leases, leases_of
from search.patience import Patience
from search.unsaved import keep_unsaved, unsaved

from .fakes import FACTS

KNOBS = {"keep": 1}


class Alone:
    """A driver's presence, of which the test says who is dead."""

    def __init__(self, name: str) -> None:
        self.id, self.others, self.stop = name, [], ""
        self.dead: set[str] = set()

    def is_dead(self, owner: str) -> bool:
        return owner in self.dead


def driver(store: Store, name: str) -> Leases:
    return Leases(store, "s", Alone(name), Patience(sleep=lambda seconds: None))  # type: ignore[arg-type]


def bury(of: Leases, *names: str) -> None:
    of._presence.dead.update(names)  # type: ignore[attr-defined]


def entry(trial: int, plan: str = "p", strategy: str = "l1", top1: float = 0.9) -> Entry:
    return Entry.create(
        workload="digits/cnn",
        strategy=strategy,
        study="s",
        trial=trial,
        role="candidate",
        seed=0,
        plan={},
        knobs=KNOBS,
        epochs=1.0,
        accuracy={"validation": {"top1": top1}, "dense_validation": 1.0},
        parameters=1,
        macs=1,
        bytes=1,
        dense_parameters=1,
        dense_macs=1,
        costs=[],
        dense_digest="0" * 64,
        **(FACTS | {"plan_digest": plan}),
    )


def row(store: Store, trial: int, strategy: str = "l1") -> Lease:
    return next(lease for lease in leases_of(store, "s") if (lease.strategy, lease.trial) == (strategy, trial))


def emptied(url: str) -> str:
    """The database without our tables."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for table in sa.inspect(connection).get_table_names():
            if table.startswith("sb_"):
                connection.exec_driver_sql(f"DROP TABLE {table} CASCADE")
    engine.dispose()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "board.db")
        return
    yield emptied(request.getfixturevalue("postgres"))
    emptied(request.getfixturevalue("postgres"))


@pytest.fixture(autouse=True)
def nothing_unsaved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHRINKBOARD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


def test_a_plan_is_claimed_once_and_numbers_grow(store: Store) -> None:
    ours, theirs = driver(store, "a"), driver(store, "b")
    assert ours.claim("l1", "p", KNOBS, -1) == 0
    assert theirs.claim("l1", "p", KNOBS, -1) is None
    assert theirs.claim("l1", "q", KNOBS, -1) == 1
    assert ours.claim("l1", "r", KNOBS, 6) == 7
    assert theirs.claim("pca_l1", "p", KNOBS, -1) == 0, "strategies do not share plans"


def test_a_claim_whose_answer_was_lost_is_the_same_claim(store: Store) -> None:
    ours = driver(store, "a")
    assert ours.claim("l1", "p", KNOBS, -1) == 0
    assert ours.claim("l1", "p", KNOBS, -1) == 0
    assert ours.finish(entry(0))
    assert ours.claim("l1", "p", KNOBS, -1) is None


def claim_all(url: str, name: str, plans: int) -> list[tuple[str, int]]:
    """What one driver of several gets when all want the same plans."""
    with Store(url) as store:
        claims = driver(store, name)
        got = [(f"plan{i}", claims.claim("l1", f"plan{i}", KNOBS, -1)) for i in range(plans)]
    return [(plan, number) for plan, number in got if number is not None]


def test_threads_that_want_the_same_plans_get_each_once(store: Store, url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = [pair for got in pool.map(lambda n: claim_all(url, f"d{n}", 20), range(6)) for pair in got]
    assert Counter(plan for plan, _ in found) == {f"plan{i}": 1 for i in range(20)}
    assert sorted(number for _, number in found) == list(range(20))


def test_processes_that_want_the_same_plans_get_each_once(store: Store, url: str) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(claim_all, url, f"d{n}", 20) for n in range(2)]
        found = [pair for run in runs for pair in run.result()]
    assert Counter(plan for plan, _ in found) == {f"plan{i}": 1 for i in range(20)}
    assert sorted(number for _, number in found) == list(range(20))


def test_threads_never_begin_more_evaluations_than_wanted(store: Store, url: str) -> None:
    def begin(number: int) -> int:
        with Store(url) as mine:
            claims = driver(mine, f"d{number}")
            held = [claims.claim("l1", f"{number}-{i}", KNOBS, -1) for i in range(4)]
            return sum(claims.slot("l1", trial, 5) for trial in held if trial is not None)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(begin, range(4))) == 5


def test_a_slot_is_held_again_and_comes_free_when_its_candidate_fails(store: Store) -> None:
    ours = driver(store, "a")
    first, second = ours.claim("l1", "p", KNOBS, -1), ours.claim("l1", "q", KNOBS, -1)
    assert first is not None and second is not None
    assert ours.slot("l1", first, 1) and ours.slot("l1", first, 1)
    assert not ours.slot("l1", second, 1)
    assert ours.end("l1", first, "failed", "no")
    assert ours.slot("l1", second, 1)


def test_a_result_comes_to_the_board_once_and_may_be_written_twice(store: Store) -> None:
    ours = driver(store, "a")
    ours.claim("l1", "p", KNOBS, -1)
    assert ours.finish(entry(0)) and ours.finish(entry(0))
    assert row(store, 0).state == "done" and row(store, 0).full
    assert [e.trial for e in store.entries(study="s")] == [0]


def test_a_late_result_does_not_count_once_the_candidate_was_taken(store: Store) -> None:
    late, other = driver(store, "a"), driver(store, "b")
    late.claim("l1", "p", KNOBS, -1)
    bury(other, "a")
    taken = other.take(row(store, 0))
    assert taken is not None and taken.owner == "b" and taken.lost == 1 and taken.reason == "its driver died"
    assert not late.finish(entry(0, top1=0.1))
    assert not late.end("l1", 0, "failed", "late")
    assert not late.slot("l1", 0, 10)
    late.drop("l1", 0)
    assert other.finish(entry(0, top1=0.8))
    assert not late.finish(entry(0, top1=0.1))
    [only] = store.entries(study="s")
    assert only.accuracy.validation.top1 == 0.8


def test_only_one_of_many_takes_what_a_dead_driver_held(store: Store, url: str) -> None:
    driver(store, "dead").claim("l1", "p", KNOBS, -1)
    lease = row(store, 0)

    def take(number: int) -> bool:
        with Store(url) as mine:
            return driver(mine, f"d{number}").take(lease) is not None

    with ThreadPoolExecutor(5) as pool:
        assert sum(pool.map(take, range(5))) == 1
    assert row(store, 0).lost == 1


def test_what_was_put_down_is_taken_without_a_loss(store: Store) -> None:
    ours, other = driver(store, "a"), driver(store, "b")
    ours.claim("l1", "p", KNOBS, -1)
    ours.claim("l1", "q", KNOBS, -1)
    assert ours.slot("l1", 0, 5) and ours.finish(entry(1, "q"))
    ours.leave([])
    assert row(store, 0).owner is None and not row(store, 0).full
    assert row(store, 1).state == "done" and row(store, 1).owner == "a", "what has ended stays whose it was"
    assert other.is_free(row(store, 0))
    taken = other.take(row(store, 0))
    assert taken is not None and taken.lost == 0 and taken.reason == ""
    assert ours.take(row(store, 0) if row(store, 0).owner is None else replace(taken, owner=None)) is None


def test_who_leaves_forgets_what_was_not_needed_and_waits_for_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = driver(store, "a")
    for plan in "pq":
        ours.claim("l1", plan, KNOBS, -1)
    ours.leave([("l1", 0)])
    assert [(lease.trial, lease.owner) for lease in leases_of(store, "s")] == [(1, None)]

    def away(write: bool = False, lock: tuple[int, ...] = ()) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(store, "transaction", away)
    ours.leave([])


def test_losses_are_counted_over_drivers(store: Store) -> None:
    ours, other = driver(store, "a"), driver(store, "b")
    ours.claim("l1", "p", KNOBS, -1)
    assert [ours.lost("l1", 0, "its worker died") for _ in range(2)] == [1, 2]
    bury(other, "a")
    taken = other.take(row(store, 0))
    assert taken is not None and taken.lost == 3


def test_an_ended_candidate_keeps_its_reason_and_is_ended_once(store: Store) -> None:
    ours = driver(store, "a")
    ours.claim("l1", "p", KNOBS, -1)
    assert ours.end("l1", 0, "rejected", "too dear") and ours.end("l1", 0, "rejected", "too dear")
    assert not ours.end("l1", 0, "failed", "no")
    assert not ours.finish(entry(0))
    assert (row(store, 0).state, row(store, 0).reason) == ("rejected", "too dear")


def test_a_dropped_candidate_was_never_there(store: Store) -> None:
    ours, other = driver(store, "a"), driver(store, "b")
    ours.claim("l1", "p", KNOBS, -1)
    ours.drop("l1", 0)
    assert leases_of(store, "s") == []
    assert other.claim("l1", "p", KNOBS, -1) == 0


def test_candidates_older_than_leases_are_adopted_once(store: Store) -> None:
    ours, other = driver(store, "a"), driver(store, "b")
    old = [(0, "p", KNOBS, "done"), (1, "q", KNOBS, "running"), (2, "r", KNOBS, "failed")]
    for claims in (ours, other, ours):
        claims.adopt("l1", old)  # type: ignore[arg-type]
    assert [(lease.trial, lease.state, lease.owner) for lease in leases_of(store, "s")] == [
        (0, "done", None),
        (1, "running", None),
        (2, "failed", None),
    ]
    assert ours.claim("l1", "q", KNOBS, -1) is None
    assert ours.claim("l1", "new", KNOBS, -1) == 3


def test_news_are_what_is_on_its_way_and_all_when_some_have_ended(store: Store) -> None:
    ours, other = driver(store, "a"), driver(store, "b")
    for plan in "pqr":
        ours.claim("l1", plan, KNOBS, -1)
    assert len(other.news()) == 3
    ours.finish(entry(0))
    assert [lease.state for lease in other.news()] == ["done", "running", "running"]
    assert [lease.trial for lease in other.news()] == [1, 2]
    assert other.entry("l1", 0) == entry(0) or other.entry("l1", 0) is not None
    assert other.entry("l1", 1) is None


def test_who_may_mend_what_a_crash_left(store: Store) -> None:
    ours, other = driver(store, "a"), driver(store, "b")
    ours.claim("l1", "p", KNOBS, -1)
    ours.finish(entry(0))
    assert ours.may_mend("l1", 0)
    assert not other.may_mend("l1", 0), "its driver lives"
    bury(other, "a")
    assert other.may_mend("l1", 0)
    assert row(store, 0).lost == 0, "nothing was lost"
    assert other.may_mend("l1", 99), "older than leases"


def test_a_result_that_could_not_be_saved_is_saved_by_the_next_driver(store: Store) -> None:
    ours, other = driver(store, "a"), driver(store, "b")
    ours.claim("l1", "p", KNOBS, -1)
    keep_unsaved(entry(0))
    assert other.save_late() == [], "its driver lives, and may be waiting for the storage"
    bury(other, "a")
    assert [e.id for e in other.save_late()] == [entry(0).id]
    assert [e.id for e in store.entries(study="s")] == [entry(0).id]
    assert other.save_late() == [] and unsaved("s") == []


def test_a_result_that_could_not_be_saved_does_not_overwrite_another(store: Store) -> None:
    ours, other = driver(store, "a"), driver(store, "b")
    ours.claim("l1", "p", KNOBS, -1)
    keep_unsaved(entry(0, top1=0.1))
    bury(other, "a")
    other.take(row(store, 0))
    other.finish(entry(0, top1=0.8))
    assert driver(store, "c").save_late() == [] and unsaved("s") == []
    [only] = store.entries(study="s")
    assert only.accuracy.validation.top1 == 0.8


def test_work_for_all_is_done_by_one_while_the_others_wait(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAIT", 0.01)
    inside, most, done = [0], [0], []
    lock = threading.Lock()

    def work(number: int) -> None:
        with Store(url) as mine, driver(mine, f"d{number}").once("l1", "something", lambda line: None):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.03)
            with lock:
                inside[0] -= 1
                done.append(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert most == [1] and sorted(done) == [0, 1, 2, 3]
    assert leases_of(store, "s") == []


def test_work_for_all_is_taken_from_the_dead_and_left_behind_by_an_error(store: Store) -> None:
    dead, other = driver(store, "a"), driver(store, "b")
    assert dead._take_once("l1", "something")
    assert not other._take_once("l1", "something")
    bury(other, "a")
    lines: list[str] = []
    with suppress(ValueError), other.once("l1", "something", lines.append):
        raise ValueError
    assert lines == [] and leases_of(store, "s") == []


def test_every_call_waits_for_a_storage_that_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = driver(store, "a")
    real, away = store.transaction, [0]

    def unreliable(write: bool = False, lock: tuple[int, ...] = ()):  # type: ignore[no-untyped-def]
        away[0] += 1
        if away[0] % 3:
            raise StorageUnavailable("away")
        return real(write, lock)

    monkeypatch.setattr(store, "transaction", unreliable)
    assert ours.claim("l1", "p", KNOBS, -1) == 0
    assert ours.slot("l1", 0, 1)
    assert ours.lost("l1", 0, "x") == 1
    assert ours.finish(entry(0))
    assert len(ours.news()) == 1
    assert away[0] == 15


def test_an_answer_that_is_lost_after_the_commit_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database took it, and the connection broke before it could say so."""
    ours, other = driver(store, "a"), driver(store, "b")
    ours.claim("l1", "gone", KNOBS, -1)
    ours.leave([])
    left = row(store, 0)
    for claims in (ours, other):
        lose_answers(claims, monkeypatch)
    assert other.take(left) is not None and row(store, 0).lost == 0
    assert ours.claim("l1", "p", KNOBS, -1) == 1
    assert ours.slot("l1", 1, 1)
    assert ours.finish(entry(1))
    assert ours.claim("l1", "q", KNOBS, -1) == 2
    assert ours.end("l1", 2, "failed", "no")
    assert ours.claim("l1", "r", KNOBS, -1) == 3
    assert ours.lost("l1", 3, "its worker died") == 1
    assert len(list(store.entries(study="s"))) == 1


def lose_answers(claims: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every first try of a call is done, and looks as if it had not been."""
    patiently = claims._patiently

    def twice(action, *others, **named):  # type: ignore[no-untyped-def]
        tries = [0]

        def unreliable():  # type: ignore[no-untyped-def]
            found = action()
            tries[0] += 1
            if tries[0] == 1:
                raise StorageUnavailable("the connection was closed")
            return found

        return patiently(unreliable, *others, **named)

    monkeypatch.setattr(claims, "_patiently", twice)


WANTED = 3


class Drivers(RuleBasedStateMachine):
    """Three drivers that claim, finish, fail, die and come back in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store("sqlite://")
        self.names = ["d0", "d1", "d2"]
        self.drivers = [driver(self.store, name) for name in self.names]
        self.born = 3
        self.finished: dict[int, str] = {}
        """Trial → id of the entry that counted."""
        self.stale: list[tuple[Leases, int]] = []
        """Drivers that are taken to be dead, and what they think they hold."""

    def held(self, claims: Leases) -> list[Lease]:
        return [lease for lease in leases_of(self.store, "s") if claims.is_mine(lease) and lease.state == "running"]

    @rule(who=st.integers(0, 2), plan=st.integers(0, 9))
    def claim(self, who: int, plan: int) -> None:
        known = {lease.plan_digest: lease for lease in leases_of(self.store, "s")}
        number = self.drivers[who].claim("l1", f"plan{plan}", KNOBS, -1)
        before = known.get(f"plan{plan}")
        if before is None:
            assert number == max((lease.trial for lease in known.values()), default=-1) + 1
        elif before.state == "running" and self.drivers[who].is_mine(before):
            assert number == before.trial
        else:
            assert number is None

    @rule(who=st.integers(0, 2))
    def begin(self, who: int) -> None:
        for lease in self.held(self.drivers[who]):
            self.drivers[who].slot("l1", lease.trial, WANTED)

    @rule(who=st.integers(0, 2), top1=st.floats(0, 1))
    def finish(self, who: int, top1: float) -> None:
        for lease in self.held(self.drivers[who]):
            if lease.full:
                result = entry(lease.trial, lease.plan_digest, top1=top1)
                assert self.drivers[who].finish(result)
                self.finished[lease.trial] = result.id

    @rule(who=st.integers(0, 2))
    def fail(self, who: int) -> None:
        for lease in self.held(self.drivers[who])[:1]:
            assert self.drivers[who].end("l1", lease.trial, "failed", "no")

    @rule(who=st.integers(0, 2))
    def put_down(self, who: int) -> None:
        self.drivers[who].leave([])
        assert self.held(self.drivers[who]) == []

    @rule(who=st.integers(0, 2))
    def seem_dead(self, who: int) -> None:
        """It stands still for longer than its lease; its user has started another in its place."""
        old = self.drivers[who]
        self.stale += [(old, lease.trial) for lease in self.held(old)]
        self.drivers[who] = driver(self.store, f"d{self.born}")
        self.born += 1
        dead = {f"d{n}" for n in range(self.born)} - {claims._presence.id for claims in self.drivers}
        for claims in self.drivers:
            bury(claims, *dead)

    @rule(who=st.integers(0, 2))
    def take(self, who: int) -> None:
        claims = self.drivers[who]
        for lease in leases_of(self.store, "s"):
            if lease.state == "running" and claims.is_free(lease):
                taken = claims.take(lease)
                assert taken is not None and claims.is_mine(taken) and not taken.full
                assert taken.lost == lease.lost + (lease.owner is not None)

    @precondition(lambda self: self.stale)
    @rule(top1=st.floats(0, 1), data=st.data())
    def come_back_late(self, top1: float, data: st.DataObject) -> None:
        claims, trial = data.draw(st.sampled_from(self.stale))
        lease = next((lease for lease in leases_of(self.store, "s") if lease.trial == trial), None)
        if lease is not None and not claims.is_mine(lease):
            assert not claims.finish(entry(trial, lease.plan_digest, top1=top1))
            assert not claims.end("l1", trial, "failed", "late")
            assert not claims.slot("l1", trial, 100)

    @invariant()
    def what_counted_stays_and_no_more_than_wanted_is_evaluated(self) -> None:
        rows = leases_of(self.store, "s")
        assert {e.trial: e.id for e in self.store.entries(study="s")} == self.finished
        assert {lease.trial for lease in rows if lease.state == "done"} == set(self.finished)
        assert sum(lease.full for lease in rows if lease.state in ("running", "done")) <= WANTED
        assert all(lease.reason for lease in rows if lease.state == "failed")

    def teardown(self) -> None:
        self.store.close()


Drivers.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestDrivers = Drivers.TestCase


def test_a_real_driver_is_told_its_rank(store: Store) -> None:
    """Samplers of drivers that work at the same time must not draw alike."""
    first = Presence(store, "s", "local", 1)
    second = Presence(store, "s", "local", 1)
    assert (Leases(store, "s", first, Patience()).rank, Leases(store, "s", second, Patience()).rank) == (0, 1)
    second.leave()
    first.leave()
