"""A driver beside others: what one of them ends, and dies over, is in Optuna's study all the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy import exc

from leaderboard import Entry, StorageUnavailable, Store
from search import Campaign, Job, Subject, run_campaign
from search.drivers import Presence
from search.evaluation import Report
from search.lane import Staging
from search.leases import Leases, leases_of
from search.patience import Patience
from search.storage import optuna_storage
from strategies import strategy
from strategies.uniform import KEEP
from workloads import Dense

from .fakes import FakeEvaluator


def test_what_a_driver_died_over_is_told_by_another(tmp_path: Path, digits: Dense) -> None:
    """One result and one failure come to the board and the leases, and then their driver is gone."""
    store = Store(str(tmp_path / "board.db"))
    dead = Presence(store, "s", "local", 1)
    theirs = Leases(store, "s", dead, Patience())
    method = strategy("uniform")

    def job(level: int) -> tuple[Job, Mapping[str, int]]:
        knobs = {"keep": level, "align": 0}
        plan = method.plan(digits, {"keep": KEEP[level], "align": 1})
        number = theirs.claim("uniform", plan.digest, knobs, -1)
        assert number is not None
        return Job("s", "uniform", number, "candidate", plan.to_json(), knobs, 1.0), knobs

    good, bad = job(1)[0], job(2)[0]

    class Beside(FakeEvaluator):
        def run(self, job: Job) -> Entry | Report:
            found = super().run(job)
            if len(self.jobs) == 4:
                entry = FakeEvaluator(digits).run(good)
                assert isinstance(entry, Entry)
                assert theirs.finish(entry) and theirs.end("uniform", bad.trial, "failed", "the loss is NaN")
                dead.leave()
            return found

    campaign = Campaign("s", Subject("digits/cnn"), ("uniform",), ("counts",), 1.0, 2.0)
    run_campaign(campaign, store, trials=6, resume=True, evaluator=Beside(digits))
    entries = [entry for entry in store.entries(study="s") if entry.role == "candidate"]
    assert len(entries) == 6
    trials = optuna.load_study(study_name="s/uniform", storage=store.url).get_trials()
    assert sorted(t.user_attrs["entry"] for t in trials if "entry" in t.user_attrs) == sorted(e.id for e in entries)
    [failed] = [trial for trial in trials if trial.state == optuna.trial.TrialState.FAIL]
    assert (failed.user_attrs["trial"], failed.user_attrs["reason"]) == (bad.trial, "the loss is NaN")
    assert {lease.state for lease in leases_of(store, "s")} == {"done", "failed"}
    store.close()


def test_a_storage_that_is_away_when_a_search_begins_is_told_in_one_line(
    tmp_path: Path, digits: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> None:
        cause = exc.OperationalError("SELECT 1", {}, Exception("connection refused\nmore"))
        raise StorageInternalError("An exception is raised during the commit.") from cause

    monkeypatch.setattr(optuna.storages.RDBStorage, "get_all_studies", away)
    campaign = Campaign("s", Subject("digits/cnn"), ("uniform",), ("counts",), 1.0, 2.0)
    with Store(str(tmp_path / "board.db")) as store, pytest.raises(StorageUnavailable) as told:
        run_campaign(campaign, store, trials=1, evaluator=FakeEvaluator(digits))
    assert str(told.value).endswith("board.db: connection refused")


class Nobody:
    """A driver's presence to whom all others are dead."""

    id, others, stop = "0" * 16, (), ""

    def is_dead(self, owner: str) -> bool:
        return True


def test_candidates_that_were_taken_from_a_driver_that_stood_still_come_back(tmp_path: Path, digits: Dense) -> None:
    """Another driver thought it dead, took what waited for more training, and died with it."""
    store = Store(str(tmp_path / "board.db"))
    taken: list[int] = []

    class Robbed(FakeEvaluator):
        def run(self, job: Job) -> Entry | Report:
            found = super().run(job)
            if len(self.jobs) in range(8, 60, 4):
                dead = Presence(store, "s", "local", 1)
                other = Leases(store, "s", Nobody(), Patience())  # type: ignore[arg-type]
                other._presence.id = dead.id
                for lease in leases_of(store, "s"):
                    if lease.state == "running" and lease.trial != job.trial and other.take(lease):
                        taken.append(lease.trial)
                dead.leave()
            return found

    staging = Staging(rungs=(1 / 9, 1 / 3))
    campaign = Campaign("s", Subject("digits/cnn"), ("l1",), ("counts",), 9.0, 9.0, staging=staging)
    summary = run_campaign(campaign, store, trials=6, evaluator=Robbed(digits))
    assert taken
    assert summary.ended == "all trials done"
    assert len([entry for entry in store.entries(study="s") if entry.role == "candidate"]) == 6
    store.close()


def test_a_study_from_before_there_were_leases_goes_on_and_nothing_is_told_twice(tmp_path: Path, digits: Dense) -> None:
    campaign = Campaign(
        "s", Subject("digits/cnn"), ("l1",), ("counts",), 1.0, 2.0, limits=("macs=500",), staging=Staging(screen=True)
    )
    with Store(str(tmp_path / "board.db")) as store:
        run_campaign(campaign, store, trials=6, evaluator=FakeEvaluator(digits))
        with store.transaction(write=True) as connection:
            connection.exec_driver_sql("DELETE FROM sb_leases")
            of_entries = "SELECT trial_id FROM trial_user_attributes WHERE key = 'entry'"
            connection.exec_driver_sql(
                f"DELETE FROM trial_user_attributes WHERE key = 'trial' AND trial_id NOT IN ({of_entries})"
            )
        with optuna_storage(store) as storage:
            before = optuna.load_study(study_name="s/l1", storage=storage).trials
        summary = run_campaign(campaign, store, trials=8, evaluator=FakeEvaluator(digits), resume=True)
        with optuna_storage(store) as storage:
            after = optuna.load_study(study_name="s/l1", storage=storage).trials
        leases = leases_of(store, "s")
    assert len(before) > 6  # some were let go
    assert summary.finished == 2
    let_go = sum(summary.let_go.get("l1", {}).values())
    assert len(after) == len(before) + 2 + let_go
    numbers = [json.loads(trial.user_attrs["log"])["number"] for trial in after]
    assert len(set(numbers)) == len(numbers)
    assert {lease.trial for lease in leases if lease.strategy == "l1"} == set(numbers)
