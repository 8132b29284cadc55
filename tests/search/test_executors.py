"""Worker processes: real jobs, workers that are killed, and the same results as in one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cost_models import Frozen
from leaderboard import Entry
from search import Evaluator, Job, Subject
from search.executors import Failure, LocalProcesses, Outcome
from strategies import strategy
from workloads import Dense

SUBJECT = Subject("digits/cnn")


def job(trial: int, keep: float, digits: Dense, name: str = "uniform") -> Job:
    plan = strategy("uniform").plan(digits, {"keep": keep}).to_json()
    return Job("s", name, trial, "candidate", plan, {"keep": trial}, epochs=0.5)


@pytest.fixture
def pool(digits: Dense) -> Iterator[LocalProcesses]:
    executor = LocalProcesses(SUBJECT, ["counts"], {"counts": Frozen(None)}, workers=2)
    yield executor
    executor.close()
    assert multiprocessing.active_children() == []


def ended(pool: LocalProcesses) -> tuple[Job, Outcome]:
    found = None
    while found is None:
        found = pool.next(timeout=1.0)
    return found


def test_a_killed_worker_is_told_and_processes_agree_with_one(pool: LocalProcesses, digits: Dense) -> None:
    first, second = job(0, 0.5, digits), job(1, 0.25, digits)
    pool.submit(first)
    pool.submit(second)
    os.kill(pool._workers[0].process.pid or 0, signal.SIGKILL)
    outcomes = {done.trial: outcome for done, outcome in (ended(pool), ended(pool))}
    lost = outcomes.pop(0)
    assert isinstance(lost, Failure)
    assert lost.lost
    assert "exit -9" in lost.reason
    pool.submit(first)
    outcomes[0] = ended(pool)[1]
    alone = Evaluator(SUBJECT, ["counts"], {"counts": Frozen(None)})
    for one in (first, second):
        outcome = outcomes[one.trial]
        assert isinstance(outcome, Entry)
        assert outcome.accuracy == alone.run(one).accuracy
        assert outcome.parameters < outcome.dense_parameters


def test_a_job_that_hangs_is_ended_and_says_where(pool: LocalProcesses, digits: Dense) -> None:
    pool.submit(replace(job(0, 0.5, digits), seconds=0.01, epochs=1000.0))
    _, outcome = ended(pool)
    assert isinstance(outcome, Failure)
    assert outcome.lost
    assert "longer than it may" in outcome.reason
    assert "most recent call first" in outcome.details
    assert pool.next(timeout=0.0) is None


def test_an_error_comes_back_with_its_traceback_and_bad_input_is_told_apart(
    pool: LocalProcesses, digits: Dense
) -> None:
    pool.submit(job(0, 0.5, digits, name="nonsense"))
    _, outcome = ended(pool)
    assert isinstance(outcome, Failure)
    assert outcome.bad_input
    broken = Job("s", "uniform", 1, "candidate", job(0, 0.5, digits).plan, {}, epochs=float("nan"))
    pool.submit(broken)
    _, outcome = ended(pool)
    assert isinstance(outcome, Failure)
    assert not outcome.bad_input
    assert "Traceback" in outcome.details
