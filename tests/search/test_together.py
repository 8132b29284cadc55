"""Several drivers on one study, lost workers, and a storage that goes away: exactly what was asked for, once each."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from leaderboard import StorageUnavailable, Store
from search import Campaign, Job, Subject, Summary, run_campaign
from search.campaign import Loop
from search.drivers import ask_to_stop, drivers_of
from search.executors import Executor, Failure, InProcess, Outcome
from search.lane import Staging
from search.leases import leases_of
from search.patience import Patience
from search.status import status
from search.storage import optuna_storage
from workloads import Dense, InputError

from .fakes import FakeEvaluator

STRATEGIES = ("l1", "global_l1")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "board.db")
        return
    server = os.environ.get("SHRINKBOARD_TEST_POSTGRES")
    if not server:
        pytest.skip("needs SHRINKBOARD_TEST_POSTGRES, the URL of a database that may be written")
    yield from fresh_database(server)


def fresh_database(server: str) -> Iterator[str]:
    import sqlalchemy as sa

    name = f"together_{os.getpid()}_{random.randrange(10**9)}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


def campaign(**options: Any) -> Campaign:
    return Campaign("s", Subject("digits/cnn"), STRATEGIES, ("counts",), 1.0, 2.0, **options)


def check_whole(url: str, trials: int) -> None:
    """What must hold at the end, read from the storage."""
    with Store(url) as store:
        entries = list(store.entries(study="s"))
        rows = leases_of(store, "s")
        with optuna_storage(store) as storage:
            for name in STRATEGIES:
                own = [entry for entry in entries if entry.strategy == name]
                assert len(own) == trials
                assert len({entry.plan_digest for entry in own}) == trials
                stored = optuna.load_study(study_name=f"s/{name}", storage=storage).trials
                told = [trial.user_attrs["entry"] for trial in stored if "entry" in trial.user_attrs]
                assert sorted(told) == sorted(entry.id for entry in own)
                assert {trial.state.name for trial in stored} <= {"COMPLETE", "FAIL"}
        assert not [lease for lease in rows if lease.state == "running" and lease.owner is not None]
        assert sorted(e.trial for e in entries if e.strategy == "l1") == sorted(
            lease.trial for lease in rows if lease.strategy == "l1" and lease.state == "done"
        )
        assert all(driver.ended is not None for driver in drivers_of(store, "s"))


@pytest.mark.parametrize("staging", [Staging(), Staging(screen=True, rungs=(0.25,))], ids=["plain", "staged"])
def test_two_drivers_share_the_work_and_no_plan_is_evaluated_twice(url: str, digits: Dense, staging: Staging) -> None:
    evaluators = [FakeEvaluator(digits) for _ in range(2)]
    summaries: list[Summary] = []

    def drive(evaluator: FakeEvaluator) -> None:
        with Store(url) as store:
            chosen = campaign(staging=staging)
            summaries.append(run_campaign(chosen, store, trials=12, resume=True, evaluator=evaluator))

    Store(url).close()
    threads = [threading.Thread(target=drive, args=(evaluator,)) for evaluator in evaluators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sum(summary.finished for summary in summaries) == 24
    full = [job for evaluator in evaluators for job in evaluator.jobs if job.until is None]
    once = Counter((job.strategy, str(job.plan)) for job in full)
    assert set(once.values()) == {1}
    assert len(full) == 24 + 2  # the controls, too, are evaluated by one of them
    check_whole(url, 12)


def test_a_second_driver_joins_only_where_it_is_asked_to(tmp_path: Path, digits: Dense) -> None:
    url = str(tmp_path / "board.db")
    refused = []

    class Meeting(FakeEvaluator):
        def run(self, job: Job) -> Any:
            if not refused:
                with Store(url) as other:
                    try:
                        run_campaign(campaign(), other, trials=3, evaluator=FakeEvaluator(digits))
                    except InputError as error:
                        refused.append(str(error))
            return super().run(job)

    with Store(url) as store:
        run_campaign(campaign(), store, trials=3, evaluator=Meeting(digits))
    assert "--resume" in refused[0]
    check_whole(url, 3)


def test_a_driver_with_another_dense_network_is_refused_though_there_is_no_entry_yet(
    tmp_path: Path, digits: Dense
) -> None:
    url = str(tmp_path / "board.db")
    refused = []

    class Meeting(FakeEvaluator):
        def run(self, job: Job) -> Any:
            if not refused:
                other = FakeEvaluator(replace(digits, digest="trained elsewhere"))
                with Store(url) as store:
                    try:
                        run_campaign(campaign(), store, trials=3, evaluator=other, resume=True)
                    except InputError as error:
                        refused.append(str(error))
                    assert not list(store.entries())
            return super().run(job)

    with Store(url) as store:
        run_campaign(campaign(), store, trials=3, evaluator=Meeting(digits))
    assert "--checkpoint" in refused[0]
    check_whole(url, 3)


class Losing(InProcess):
    """An executor whose workers are lost: for some plans always, for the others at first."""

    def __init__(self, evaluator: FakeEvaluator, poisoned: str) -> None:
        super().__init__(evaluator)
        self.poisoned, self.seen = poisoned, Counter[tuple[str, int]]()

    def next(self, timeout: float | None = None) -> tuple[Job, Outcome] | None:
        job = self._jobs[0] if self._jobs else None
        if job is not None and job.role == "candidate":
            self.seen[job.strategy, job.trial] += 1
            if self.seen[job.strategy, job.trial] == 1 or (job.strategy, job.trial) == (self.poisoned, 2):
                self._jobs.popleft()
                return job, Failure("its worker process died (exit -9)", "", lost=True)
        return super().next(timeout)


def test_lost_workers_are_tried_again_and_a_poisoned_plan_is_given_up(
    tmp_path: Path, digits: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "board.db")
    executors: list[Executor] = []

    def losing(evaluator: FakeEvaluator) -> Executor:
        executors.append(Losing(evaluator, "l1"))
        return executors[-1]

    monkeypatch.setattr("search.workers.InProcess", losing)
    lines = []
    with Store(url) as store:
        summary = run_campaign(
            campaign(),
            store,
            trials=5,
            evaluator=FakeEvaluator(digits),
            listen=lambda entry, line: lines.append(line),
        )
        [failed] = [lease for lease in leases_of(store, "s") if lease.state == "failed"]
        with optuna_storage(store) as storage:
            [told] = status(store, storage, "s").failures
    assert (failed.strategy, failed.trial, failed.lost) == ("l1", 2, 3)
    assert failed.reason == told.reason == "given up after 3 tries: its worker process died (exit -9)"
    assert summary.failed == [("l1", 2, failed.reason)]
    assert any('"channels"' in line for line in lines)  # the plan that caused it
    assert isinstance(executors[0], Losing)
    assert executors[0].seen["l1", 2] == 3
    check_whole(url, 5)


def test_what_a_driver_left_is_taken_over_and_counts_against_its_plan(tmp_path: Path, digits: Dense) -> None:
    """A driver that is killed cleans nothing up: its rows are made again here as it would have left them."""
    import sqlalchemy as sa

    from search.drivers import drivers
    from search.leases import leases

    url = str(tmp_path / "board.db")
    evaluator = FakeEvaluator(digits)
    with Store(url) as store:
        run_campaign(campaign(), store, trials=3, evaluator=evaluator)
        with store.transaction(write=True) as connection:
            connection.execute(sa.update(drivers).values(ended=None, process="1.0"))
            lost = (leases.c.trial == 2) & leases.c.strategy.in_(STRATEGIES)
            connection.execute(sa.update(leases).where(lost).values(state="running"))
            late = "SELECT id FROM sb_entries WHERE trial = 2"
            connection.execute(sa.text(f"DELETE FROM sb_costs WHERE entry IN ({late})"))
            connection.execute(sa.text("DELETE FROM sb_entries WHERE trial = 2"))
            # One of them has died often enough already.
            connection.execute(sa.update(leases).where(lost, leases.c.strategy == "l1").values(lost=2, reason="x"))
        again = FakeEvaluator(digits)
        run_campaign(campaign(), store, trials=3, evaluator=again, resume=True)
        rows = {(lease.strategy, lease.trial): lease for lease in leases_of(store, "s")}
    assert rows["global_l1", 2].state == "done"
    assert rows["global_l1", 2].lost == 1
    assert rows["l1", 2].state == "failed"
    assert rows["l1", 2].reason == "given up after 3 tries: its driver died"
    assert {(job.strategy, job.trial) for job in again.jobs} == {("global_l1", 2), ("l1", 3)}


def test_a_driver_that_is_asked_to_stop_ends_well_and_a_later_run_goes_on(
    tmp_path: Path, digits: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "board.db")
    monkeypatch.setattr("search.drivers.BEAT", 0.05)

    class Stopping(FakeEvaluator):
        def run(self, job: Job) -> Any:
            entry = super().run(job)
            if len(self.jobs) == 4:
                with Store(url) as other:
                    assert ask_to_stop(other, "s", "soon") == 1
                threading.Event().wait(0.5)
            return entry

    with Store(url) as store:
        summary = run_campaign(campaign(), store, trials=5, evaluator=Stopping(digits))
        assert (summary.ended, summary.finished) == ("stopped", 2)
        assert ask_to_stop(store, "s", "soon") == 0
        assert run_campaign(campaign(), store, trials=5, evaluator=FakeEvaluator(digits), resume=True).finished == 8
    check_whole(url, 5)


def test_a_storage_that_goes_away_again_and_again_costs_nothing(
    url: str, digits: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage fails before and after it has done what it was asked, as a cut connection does."""
    random_source, away = random.Random(0), 0
    transaction, add_trial = Store.transaction, optuna.storages.RDBStorage.create_new_trial

    @contextmanager
    def shaky(self: Store, write: bool = False, lock: tuple[int, ...] = ()) -> Iterator[Any]:
        nonlocal away
        began = threading.current_thread() is threading.main_thread() and started
        if began and random_source.random() < 0.15:
            away += 1
            raise StorageUnavailable("the connection was cut before")
        with transaction(self, write, lock) as connection:
            yield connection
        if began and write and random_source.random() < 0.15:
            away += 1
            raise StorageUnavailable("the connection was cut after")

    def shaky_trial(self: Any, *arguments: Any, **named: Any) -> int:
        nonlocal away
        number = add_trial(self, *arguments, **named)
        if random_source.random() < 0.2:
            away += 1
            raise optuna.exceptions.StorageInternalError("the connection was cut after")
        return number

    started = False
    run = Loop.run

    def begin(self: Loop, deadline: float | None) -> None:
        nonlocal started
        started = True
        try:
            run(self, deadline)
        finally:
            started = False

    monkeypatch.setattr(Store, "transaction", shaky)
    monkeypatch.setattr(optuna.storages.RDBStorage, "create_new_trial", shaky_trial)
    monkeypatch.setattr(Loop, "run", begin)
    monkeypatch.setattr("search.patience.FIRST", 0.001)
    lines: list[str] = []
    with Store(url) as store:
        run_campaign(campaign(), store, trials=8, evaluator=FakeEvaluator(digits), say=lines.append)
    assert away > 10
    assert any("storage is away" in line for line in lines)
    assert any("storage is back" in line for line in lines)
    check_whole(url, 8)


def test_patience_asks_whether_it_landed_before_it_tries_again() -> None:
    done: list[int] = []

    def act() -> int:
        done.append(1)
        raise StorageUnavailable("cut after")

    assert Patience(sleep=lambda seconds: None)(act, lambda: len(done) or None) == 1
    assert done == [1]


def test_a_result_that_found_no_storage_outlives_its_driver(
    tmp_path: Path, digits: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "board.db")
    monkeypatch.setenv("SHRINKBOARD_CACHE", str(tmp_path / "cache"))
    add = Store.add_within

    def away(self: Store, connection: Any, entry: Any) -> bool:
        if entry.role == "candidate" and entry.trial == 1:
            raise StorageUnavailable("the disk is full")
        return add(self, connection, entry)

    def impatient(seconds: float) -> None:
        raise KeyboardInterrupt

    with Store(url) as store:
        with monkeypatch.context() as during:
            during.setattr(Store, "add_within", away)
            during.setattr("search.campaign.Patience", lambda say: Patience(say, sleep=impatient))
            evaluator = FakeEvaluator(digits)
            assert run_campaign(campaign(), store, trials=3, evaluator=evaluator).ended == "interrupted"
        assert evaluator.jobs[-1].trial == 1
        again, lines = FakeEvaluator(digits), list[str]()
        run_campaign(campaign(), store, trials=3, evaluator=again, resume=True, say=lines.append)
    assert (evaluator.jobs[-1].strategy, 1) not in {(job.strategy, job.trial) for job in again.jobs}
    assert any("could not save" in line for line in lines)
    check_whole(url, 3)
