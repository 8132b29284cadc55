"""Jobs on Ray Tune: on this machine, or on a cluster of many."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from leaderboard import Entry
from workloads import InputError

from .checkpoints import fetch, forget, put
from .evaluation import Evaluator, Job, Report
from .executors import LOG_TAIL, Executor, Failure, Outcome, read, read_log
from .shipping import stage
from .workers import Workers

START = 180.0
"""Seconds that Ray may take to begin."""
PATIENCE = 300.0
"""Seconds in which a cluster that was lost may come back."""
ZERO_COPY = "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS"
"""Variable by which tensors are shared between the processes of a machine, read when Ray is imported."""
GOODBYE = 10.0
"""Seconds that Ray may take to end."""


class RayTune(Executor):
    """Runs every job as a trial of one Ray Tune experiment, in actors that stay from job to job.

    Tune itself runs in a process of its own, for Ray ends the process that is connected to a cluster whose head is
    lost. Where that process dies, the jobs that were out come back as lost and the next one finds another in its place.

    The dense network, the data and our code (plug-ins and the user's network too) reach every machine of the cluster
    once. Measured targets are measured on this machine, one job at a time (`Meter`). Paused candidates come back to
    this machine's cache folder, and go on wherever there is room.
    """

    def __init__(self, evaluator: Evaluator, workers: Workers) -> None:
        """Raises `InputError` where there is no cluster at the address, or it has no room for the workers."""
        assert evaluator.frozen is not None
        self.workers = workers.count
        self._evaluator, self._asked = evaluator, workers
        # Ray keeps sockets below it, whose paths must be short.
        self._files = tempfile.TemporaryDirectory(prefix="shrinkboard-", dir="/tmp", ignore_cleanup_errors=True)
        self._folder = Path(self._files.name)
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._number = 0
        self._jobs: dict[int, Job] = {}
        """Those that are out, by number."""
        self._ended: deque[tuple[Job, Outcome]] = deque()
        self._refusal = ""
        """Why the process of Tune has given up."""
        try:
            _pack(evaluator, self._folder)
            self._begin(patience=0.0)
            self._await_readiness()
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job) -> None:
        if self._connection is None:
            self._begin(PATIENCE)
        assert self._connection is not None
        self._number += 1
        self._jobs[self._number] = job
        with contextlib.suppress(OSError):  # it has died; `next` finds that out
            paused = None if job.until == 0 else fetch(self._evaluator.paused_file(job))
            self._connection.send((self._number, replace(job, paused=paused)))

    def next(self, timeout: float | None = None) -> tuple[Job, Outcome] | None:
        end = None if timeout is None else time.monotonic() + timeout
        while not self._ended and self._jobs:
            message = self._receive(None if end is None else max(0.0, end - time.monotonic()))
            if message is None:
                break
            number, told = message
            job = self._jobs.pop(number, None)
            if job is not None:
                self._ended.append((job, self._received(job, read(told))))
        return self._ended.popleft() if self._ended else None

    def _received(self, job: Job, outcome: Outcome) -> Outcome:
        """Keeps what a worker has paused, and forgets what needs it no more."""
        path = self._evaluator.paused_file(job)
        if isinstance(outcome, Entry):
            forget(path)
        if isinstance(outcome, Report) and outcome.paused is not None:
            put(path, outcome.paused)
            return replace(outcome, paused=None)
        return outcome

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(None)
        self._end(GOODBYE)
        self._jobs.clear()
        self._ended.clear()
        self._files.cleanup()

    def _begin(self, patience: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, self._folder, self._asked, patience, list(sys.path))
        self._process = context.Process(target=_drive, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._refusal = ""

    def _await_readiness(self) -> None:
        assert self._connection is not None
        try:
            began = self._connection.poll(START)
            told = self._connection.recv() if began else f"Ray did not begin within {START:g} s"
        except (EOFError, OSError):
            told = f"Ray could not be started: {(self._said().splitlines() or ['it said nothing'])[-1]}"
        if told is not None:
            raise InputError(str(told))

    def _receive(self, timeout: float | None) -> tuple[int, Any] | None:
        """The next number and outcome; None where none came in time, or the process of Tune has died."""
        assert self._connection is not None
        while self._connection.poll(timeout):
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                self._lose()
                return None
            if isinstance(message, tuple):
                return message
            self._refusal = message or ""  # begun anew, or given up
        return None

    def _lose(self) -> None:
        """The process of Tune died: what was out is lost."""
        self._end(0.0)
        assert self._process is None
        failure = Failure(self._refusal or "the connection to Ray was lost", self._said(), lost=True)
        self._ended.extend((job, failure) for job in self._jobs.values())
        self._jobs.clear()

    def _said(self) -> str:
        return read_log(self._folder / "tune.log")[-LOG_TAIL:]

    def _end(self, patience: float) -> None:
        """Ends the process of Tune, and all that it has started on this machine."""
        if self._process is not None:
            self._process.join(patience)
            group = self._process.pid
            assert group is not None
            self._process.kill()
            self._process.join()
            with contextlib.suppress(OSError):  # there is nothing left
                for _ in range(50):  # until the last is gone, for it might write
                    os.killpg(group, signal.SIGKILL)
                    time.sleep(0.05)
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _pack(evaluator: Evaluator, folder: Path) -> None:
    """Code and setup, where every process of Tune finds them."""
    dense = replace(evaluator.dense, memo={})
    (folder / "code").mkdir()
    stage(folder / "code", dense.workload.name)
    setup = evaluator.subject, evaluator.models, evaluator.frozen, dense
    try:
        with (folder / "setup.pickle").open("wb") as file:
            pickle.dump(setup, file, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"workload {dense.workload.name} or a target of it cannot be sent to workers: {error}; "
            "functions that it names must stand at the top of a module"
        ) from error


def _drive(connection: Connection, folder: Path, workers: Workers, patience: float, path: list[str]) -> None:
    """The life of the process of Tune: tells None when it is ready, or why it is not; then jobs in, outcomes out."""
    os.setsid()  # Ctrl-C reaches the whole group; the driver decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (folder / "tune.log").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path[:] = [str(folder / "code"), *path]
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Workers' words are told here, every one of them and as they are.
        "RAY_DEDUP_LOGS": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        # `ray job submit` may have set another folder.
        "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
        ZERO_COPY: "1",
        # The storage is the truth; nothing that Tune would write down is of use.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    }
    from .ray_trials import run

    try:
        run(connection, folder, workers, patience)
    except InputError as error:
        connection.send(str(error))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
