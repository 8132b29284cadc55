"""Where jobs run: in this process, or in several of this machine."""

from __future__ import annotations

import abc
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from cost_models import Frozen
from leaderboard import Entry
from workloads import InputError

from .evaluation import Evaluator, Job, Report, Subject

ATTEMPTS = 2
"""A job whose worker dies is given to another one so many times in all."""


@dataclass(frozen=True)
class Failure:
    """Why a job has no entry."""

    reason: str
    """One line."""
    details: str = ""
    """The traceback, where there is one."""
    bad_input: bool = False
    """True where every other job of the strategy must fail alike."""


Outcome = Entry | Report | Failure


class Executor(abc.ABC):
    """Runs jobs and gives back outcomes in the order in which they end.

    Obligations: every job that `submit` took comes back from `next` exactly once, as an entry or as a failure, also
    where its worker dies; `close` leaves no process behind and may be called at any time. Used by one thread.
    """

    workers: int
    """Jobs that run at the same time."""

    @abc.abstractmethod
    def submit(self, job: Job) -> None:
        """Takes a job; at most `workers` at a time."""

    @abc.abstractmethod
    def next(self) -> tuple[Job, Outcome]:
        """Waits for the next job that ends."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends what still runs."""


def attempt(evaluator: Evaluator, job: Job) -> Outcome:
    """What a job comes to, or the failure that an exception means."""
    try:
        return evaluator.run(job)
    except InputError as error:
        return Failure(str(error), bad_input=True)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {' '.join(str(error).split())}", traceback.format_exc())


class InProcess(Executor):
    """Runs one job at a time in this process, when its outcome is asked for."""

    workers = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def next(self) -> tuple[Job, Outcome]:
        job = self._jobs.popleft()
        return job, attempt(self._evaluator, job)

    def close(self) -> None:
        self._jobs.clear()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    attempts: int = 0


class LocalProcesses(Executor):
    """Runs jobs in `workers` processes of this machine, each with its share of the cores."""

    def __init__(self, subject: Subject, targets: list[str], frozen: Mapping[str, Frozen], workers: int) -> None:
        self.workers = workers
        self._setup = (subject, targets, dict(frozen), max(1, (os.cpu_count() or 1) // workers), list(sys.path))
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start() for _ in range(workers)]
        self._failed: deque[tuple[Job, Outcome]] = deque()

    def submit(self, job: Job) -> None:
        idle = next(worker for worker in self._workers if worker.job is None)
        idle.attempts = 1
        self._send(idle, job)

    def next(self) -> tuple[Job, Outcome]:
        while not self._failed:
            busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker = busy[connection]
                job = worker.job
                assert job is not None
                try:
                    outcome: Outcome = _read(connection.recv())
                except (EOFError, OSError):
                    self._replace(worker, job)
                    continue
                worker.job = None
                return job, outcome
        return self._failed.popleft()

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = []

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, *self._setup), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _send(self, worker: _Worker, job: Job) -> None:
        worker.job = job
        try:
            worker.connection.send(job)
        except OSError:
            self._replace(worker, job)

    def _replace(self, worker: _Worker, job: Job) -> None:
        """A worker died: starts another in its place and gives it the job, or gives the job up."""
        worker.connection.close()
        worker.process.join()
        attempts = worker.attempts
        fresh = self._start()
        self._workers[self._workers.index(worker)] = fresh
        if attempts >= ATTEMPTS:
            self._failed.append(
                (job, Failure(f"its worker process died {attempts} times (exit {worker.process.exitcode})"))
            )
        else:
            fresh.attempts = attempts + 1
            self._send(fresh, job)


def _work(
    connection: Connection,
    subject: Subject,
    targets: list[str],
    frozen: dict[str, Frozen],
    threads: int,
    path: list[str],
) -> None:
    """A worker's life: jobs in, outcomes out, until the driver hangs up."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    sys.path[:] = path
    torch.set_num_threads(threads)
    evaluator = Evaluator(subject, targets, frozen)
    while True:
        try:
            job = connection.recv()
            outcome = attempt(evaluator, job)
            connection.send(outcome.to_json() if isinstance(outcome, Entry) else outcome)
        except (EOFError, OSError):
            return


def _read(message: Any) -> Outcome:
    return Entry.from_json(message) if isinstance(message, str) else message
