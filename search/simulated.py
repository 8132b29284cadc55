"""Jobs that run in no time: a peer of the executors that compute, on a clock that jumps to the end of the next job."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from .evaluation import Job
from .executors import Executor, Outcome

Answer = Callable[[Job], tuple[Outcome, float]]
"""What a job comes to, and the seconds that it takes."""


class SimulatedExecutor(Executor):
    """Runs jobs on `workers` machines that do not exist; what they come to and how long they take, `answer` says.

    `now` is the clock: simulated seconds since the start. Choosing a job and telling its outcome take none.
    """

    def __init__(self, answer: Answer, workers: int) -> None:
        self.workers = workers
        self._answer = answer
        self._now = 0.0
        self._submitted = 0
        self._running: list[tuple[float, int, Job, Outcome]] = []
        """A heap by end; of jobs that end together the one that was submitted first comes first."""

    def now(self) -> float:
        """Simulated seconds."""
        return self._now

    def submit(self, job: Job) -> None:
        outcome, seconds = self._answer(job)
        self._submitted += 1
        heapq.heappush(self._running, (self._now + seconds, self._submitted, job, outcome))

    def next(self, timeout: float | None = None) -> tuple[Job, Outcome] | None:
        if not self._running:
            return None
        self._now, _, job, outcome = heapq.heappop(self._running)
        return job, outcome

    def close(self) -> None:
        self._running.clear()
