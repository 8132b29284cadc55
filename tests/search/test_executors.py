"""Worker processes: real jobs, workers that are killed, and the same results as in one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest

from cost_models import Frozen
from leaderboard import Entry
from search import Evaluator, Job, Subject
from search.executors import Failure, LocalProcesses
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


def test_a_killed_worker_loses_no_job_and_processes_agree_with_one(pool: LocalProcesses, digits: Dense) -> None:
    first, second = job(0, 0.5, digits), job(1, 0.25, digits)
    pool.submit(first)
    pool.submit(second)
    os.kill(pool._workers[0].process.pid or 0, signal.SIGKILL)
    outcomes = {done.trial: outcome for done, outcome in (pool.next(), pool.next())}
    alone = Evaluator(SUBJECT, ["counts"], {"counts": Frozen(None)})
    for one in (first, second):
        outcome = outcomes[one.trial]
        assert isinstance(outcome, Entry)
        assert outcome.accuracy == alone.run(one).accuracy
        assert outcome.parameters < outcome.dense_parameters


def test_a_job_that_kills_its_workers_is_given_up_with_the_reason(pool: LocalProcesses, digits: Dense) -> None:
    pool.submit(job(0, 0.5, digits))
    killed = set()
    while not pool._failed:
        [worker] = [w for w in pool._workers if w.job is not None]
        killed.add(worker.process.pid)
        os.kill(worker.process.pid or 0, signal.SIGKILL)
        worker.process.join()
        pool._replace(worker, worker.job)  # type: ignore[arg-type]
    _, outcome = pool.next()
    assert isinstance(outcome, Failure)
    assert "died 2 times" in outcome.reason
    assert len(killed) == 2


def test_an_error_comes_back_with_its_traceback_and_bad_input_is_told_apart(
    pool: LocalProcesses, digits: Dense
) -> None:
    pool.submit(job(0, 0.5, digits, name="nonsense"))
    _, outcome = pool.next()
    assert isinstance(outcome, Failure)
    assert outcome.bad_input
    broken = Job("s", "uniform", 1, "candidate", job(0, 0.5, digits).plan, {}, epochs=float("nan"))
    pool.submit(broken)
    _, outcome = pool.next()
    assert isinstance(outcome, Failure)
    assert not outcome.bad_input
    assert "Traceback" in outcome.details
