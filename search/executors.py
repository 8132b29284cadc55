"""Where jobs run: in this process, or in several of this machine."""

from __future__ import annotations

import abc
import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from cost_models import Frozen
from leaderboard import Entry
from workloads import InputError

from .evaluation import Evaluator, Job, Report, Subject

LOG_READ = 2**20
"""Bytes from the end of a log that are looked through."""
LOG_TAIL = 4000
"""Characters of a dead worker's last words that are told."""
_HUNG = "Timeout ("
"""Begins what faulthandler writes when it ends a process."""


@dataclass(frozen=True)
class Failure:
    """Why a job has no entry."""

    reason: str
    """One line."""
    details: str = ""
    """The traceback, where there is one."""
    bad_input: bool = False
    """True where every other job of the strategy must fail alike."""
    lost: bool = False
    """True where the job did not fail, but its worker died, hung or ran out of something: it may be tried again."""


Outcome = Entry | Report | Failure


class Executor(abc.ABC):
    """Runs jobs and gives back outcomes in the order in which they end.

    Obligations: every job that `submit` took comes back from `next` exactly once, as an entry, a report or a failure,
    also where its worker dies (`Failure.lost`); a job that takes longer than `Job.seconds` is ended like one whose
    worker died. Nothing is tried again here. `close` leaves no process behind and may be called at any time. Used by
    one thread.
    """

    workers: int
    """Jobs that run at the same time."""

    @abc.abstractmethod
    def submit(self, job: Job) -> None:
        """Takes a job; at most `workers` at a time."""

    @abc.abstractmethod
    def next(self, timeout: float | None = None) -> tuple[Job, Outcome] | None:
        """Waits for the next job that ends, for at most `timeout` seconds; None where none has ended by then."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends what still runs."""


_OF_THE_MACHINE = (OSError, MemoryError, torch.OutOfMemoryError)
"""What a machine lacks at the moment says nothing of the plan; anything else would come out the same a second time."""


def attempt(evaluator: Evaluator, job: Job) -> Outcome:
    """What a job comes to, or the failure that an exception means."""
    try:
        return evaluator.run(job)
    except InputError as error:
        return Failure(str(error), bad_input=True)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Failure(reason, traceback.format_exc(), lost=isinstance(error, _OF_THE_MACHINE))


class InProcess(Executor):
    """Runs one job at a time in this process, when its outcome is asked for; one that hangs cannot be ended."""

    workers = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def next(self, timeout: float | None = None) -> tuple[Job, Outcome] | None:
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        return job, attempt(self._evaluator, job)

    def close(self) -> None:
        self._jobs.clear()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    log: Path
    """What it wrote to its standard output and error."""
    job: Job | None = None


class LocalProcesses(Executor):
    """Runs jobs in `workers` processes of this machine, each with its share of the cores."""

    def __init__(self, subject: Subject, targets: list[str], frozen: Mapping[str, Frozen], workers: int) -> None:
        self.workers = workers
        self._setup = (subject, targets, dict(frozen), max(1, (os.cpu_count() or 1) // workers), list(sys.path))
        self._context = multiprocessing.get_context("spawn")
        self._logs = tempfile.TemporaryDirectory(prefix="shrinkboard-workers-")
        self._started = 0
        self._workers = [self._start() for _ in range(workers)]

    def submit(self, job: Job) -> None:
        idle = next(worker for worker in self._workers if worker.job is None)
        idle.job = job
        with contextlib.suppress(OSError):  # it has died; `next` finds that out
            idle.connection.send(job)

    def next(self, timeout: float | None = None) -> tuple[Job, Outcome] | None:
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        for connection in wait(list(busy), timeout):
            assert isinstance(connection, Connection)
            worker = busy[connection]
            job = worker.job
            assert job is not None
            try:
                outcome: Outcome = read(connection.recv())
            except (EOFError, OSError):
                outcome = self._replace(worker)
            worker.job = None
            return job, outcome
        return None

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
            if worker.job is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=5)  # one without a job ends by itself
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = []
        self._logs.cleanup()

    def _start(self) -> _Worker:
        self._started += 1
        log = Path(self._logs.name) / f"{self._started}.log"
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, log, *self._setup), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, log)

    def _replace(self, worker: _Worker) -> Failure:
        """A worker died: starts another in its place, and says what is known of the death."""
        worker.connection.close()
        worker.process.join()
        self._workers[self._workers.index(worker)] = self._start()
        return death(f"exit {worker.process.exitcode}", read_log(worker.log))


def death(how: str, said: str) -> Failure:
    """The failure of a job whose worker process ended, and what the process wrote last."""
    _, hung, stacks = said.rpartition(_HUNG)
    if hung:
        return Failure("it took longer than it may, and was ended", hung + stacks[:LOG_TAIL], lost=True)
    return Failure(f"its worker process died ({how})", said[-LOG_TAIL:], lost=True)


@contextlib.contextmanager
def watched(job: Job) -> Iterator[None]:
    """Ends this process where the job takes longer than it may, with all stacks on standard error.

    The watch needs no lock of the interpreter, so it also ends what hangs in a library.
    """
    if job.seconds is not None:
        faulthandler.dump_traceback_later(job.seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _work(
    connection: Connection,
    log: Path,
    subject: Subject,
    targets: list[str],
    frozen: dict[str, Frozen],
    threads: int,
    path: list[str],
) -> None:
    """A worker's life: jobs in, outcomes out, until the driver hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    sys.path[:] = path
    torch.set_num_threads(threads)
    evaluator = Evaluator(subject, targets, frozen)
    while True:
        try:
            job = connection.recv()
            with watched(job):
                outcome = attempt(evaluator, job)
            connection.send(sent(outcome))
        except (EOFError, OSError):
            return


def sent(outcome: Outcome) -> Any:
    """An outcome as a worker sends it."""
    return outcome.to_json() if isinstance(outcome, Entry) else outcome


def read(message: Any) -> Outcome:
    """An outcome as a worker has sent it."""
    return Entry.from_json(message) if isinstance(message, str) else message


def read_log(log: Path) -> str:
    """What a process wrote last to its log; nothing where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_READ))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
