"""Answers jobs from a recorded study: from its table where the plan was recorded so far, else from its surrogate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from leaderboard import Entry, Figure, Speedup, TargetCost
from strategies import Plan

from .evaluation import Costed, Job, Report, exceeded_limits
from .executors import Failure, Outcome
from .objectives import Known, Objective
from .surrogate import Surrogate
from .table import FULL, START, Row, Table, stop_of


class Blackbox:
    """One simulated campaign's answers; it remembers where each of its candidates stands. The same for equal jobs."""

    def __init__(self, table: Table, surrogate: Surrogate) -> None:
        self._table, self._surrogate = table, surrogate
        self._reached: dict[int, float] = {}

    def __call__(self, job: Job) -> tuple[Outcome, float]:
        """What the job comes to, and the seconds that it takes."""
        until = stop_of(job.until, job.epochs)
        begun = self._reached.get(job.trial, START)
        self._reached[job.trial] = until
        row = self._table.by_digest.get(Plan.from_json(job.plan).digest)
        x = self._surrogate.levels(job.knobs)
        told = row.between(begun, until) if row else None
        seconds = self._surrogate.seconds(x, begun, until) if told is None else told
        if row is not None and row.failed and until > row.reached:
            return Failure(row.ended), seconds
        if job.until is None:
            return self._entry(job, row, x), seconds
        return self._report(job, until, job.until, row, x), seconds

    def _report(self, job: Job, stop: float, epochs: float, row: Row | None, x: np.ndarray) -> Report:
        known = row.known.get(stop) if row else None
        if known is None:
            known = _known(self._surrogate.accuracy(x, stop), self._surrogate.figures(x))
        if job.costed is None:
            exceeded = exceeded_limits(known, job.limits)
            if exceeded:
                return Report(0.0, known, exceeded)
        return Report(epochs, known, costed=job.costed or Costed("", (), known.bytes))

    def _entry(self, job: Job, row: Row | None, x: np.ndarray) -> Entry:
        recorded = row.entry if row else None
        if recorded is not None:
            costs = tuple(cost.model_copy(update={"samples": {}, "telemetry": {}}) for cost in recorded.costs)
            return _of_job(recorded, job, costs=costs)
        like = self._table.full[0].entry
        assert like is not None
        return _of_job(like, job, **self._predicted(like, x))

    def _predicted(self, like: Entry, x: np.ndarray) -> dict[str, object]:
        """Fields of an entry with predicted values: the objectives, what limits bound, and the gain, nothing else."""
        figures, gain = self._surrogate.figures(x), self._surrogate.gain
        costs = []
        for cost in like.costs:
            named = {o.figure: value for o, value in figures.items() if o.target == cost.target}
            told = {name: Figure(value=value, unit=cost.figures[name].unit) for name, value in named.items()}
            speedup = self._surrogate.speedup(x) if cost.target == gain.objective.target else None
            costs.append(
                TargetCost.model_construct(
                    target=cost.target,
                    key=cost.key,
                    kind=cost.kind,
                    figures=told,
                    speedup=None if speedup is None else Speedup(value=speedup),
                )
            )
        scores = like.accuracy.validation
        metric = "top1" if scores.miou is None else "miou"
        validation = scores.model_copy(update={metric: self._surrogate.accuracy(x, FULL)})
        fields: dict[str, object] = {
            "accuracy": like.accuracy.model_copy(update={"validation": validation}),
            "costs": tuple(costs),
        }
        if Objective("bytes") in figures:
            fields["bytes"] = round(figures[Objective("bytes")])
        if Objective("training") in figures:
            training = {"seconds": figures[Objective("training")], "dense_seconds": 0.0}
            fields["training"] = like.training.model_copy(update=training)
        return fields


def _known(accuracy: float, figures: Mapping[Objective, float]) -> Known:
    by_target: dict[str, dict[str, float | None]] = {}
    for objective, value in figures.items():
        if objective.target is not None:
            by_target.setdefault(objective.target, {})[objective.figure] = value
    return Known(accuracy, by_target, figures.get(Objective("bytes"), 0.0))


def _of_job(like: Entry, job: Job, **changes: object) -> Entry:
    """An entry as another, with what is the job's own; unchecked and without its plan, for thousands are made."""
    own = {
        "study": job.study,
        "strategy": job.strategy,
        "trial": job.trial,
        "role": job.role,
        "plan": {},
        "plan_digest": Plan.from_json(job.plan).digest,
        "knobs": dict(job.knobs),
        "epochs": job.epochs,
    }
    return Entry.model_construct(**{**dict(like), **own, **changes})
