"""One strategy on its way through the stages: which candidate is costed, trained on, evaluated in full, or let go.

    proposal → costs (modelled, then measured) → limits → untrained accuracy → screen → rungs of training → entry

The plans that knowledge put first skip the rungs. A candidate that starts from initial weights has no accuracy before
its training, and one whose structure changes on the way cannot be paused: both go from the limits to the entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from leaderboard import Entry
from workloads import InputError, steps_in

from .bridge import Proposal, Proposer
from .evaluation import Costed, Evaluator, Job, Report
from .leases import Lease
from .log import Stage, Step
from .objectives import Known, values
from .rungs import REDUCTION, Rungs
from .screening import IMAGES, clearly_beaten

RUNGS = (1 / 9, 1 / 3)
"""Fractions of the full training after which candidates are compared."""
IN_A_ROW = 200
"""Candidates let go one after the other after which there is taken to be none that would stay."""


TRIES = 8
"""Candidates in a row that are let go for their costs before one is trained all the same."""


@dataclass(frozen=True)
class Staging:
    """Which stages there are before a full evaluation; without any, every proposal is evaluated in full."""

    screen: bool = False
    """Candidates that are beaten before any training are let go."""
    rungs: tuple[float, ...] = ()
    """Fractions of the full training, ascending, within 0 and 1."""
    reduction: int = REDUCTION


STAGES = ("sensitivity", "screening", "rungs")
SENSITIVITY_PAYS = 10.0
"""Seconds of training in a full evaluation from which it is worth to ask first which layers matter."""
SCREENING_PAYS = 5.0
"""Seconds of training in a full evaluation from which an accuracy before it, a second or two, is worth having."""
RUNGS_PAY = 20.0
"""The same for rungs, which cost two or three candidates for every one that is evaluated in full."""


def staging_of(stages: str, training: float) -> tuple[str, Staging]:
    """The layout of the space (`spaces.LAYOUTS`) and the stages of a search: `auto`, `none`, or names from `STAGES`.

    `training` is how many seconds a full evaluation trains; where that is little beside costing a network, `auto`
    leaves stages out. Raises `InputError` for an unknown name.
    """
    if stages == "auto":
        pays = zip(STAGES, (SENSITIVITY_PAYS, SCREENING_PAYS, RUNGS_PAY), strict=True)
        names = {name for name, least in pays if training >= least}
    else:
        names = set() if stages == "none" else {name.strip() for name in stages.split(",")}
        unknown = sorted(names - set(STAGES))
        if unknown:
            raise InputError(f"stage {unknown[0]!r} is unknown; allowed: auto, none, or some of {', '.join(STAGES)}")
    layout = "guided" if "sensitivity" in names else "levels"
    return layout, Staging("screening" in names, RUNGS if "rungs" in names else ())


@dataclass
class _Candidate:
    proposal: Proposal
    job: Job
    known: Known | None = None
    untrained: float | None = None
    """Accuracy before any training."""
    rung: int = -1
    """The last that it reached."""
    at_work: bool = False
    """Whether a job of it is out."""
    taken: bool = False
    """Whether another driver holds it by now."""


@dataclass
class Lane:
    """What one strategy does next. Not for several threads."""

    name: str
    proposer: Proposer
    evaluator: Evaluator
    study: str
    epochs: tuple[float, float]
    """Of a full evaluation from the trained network, and from initial weights."""
    staging: Staging
    given_up: str = ""
    """Why nothing more is to be tried; empty where there is more."""
    let_go: dict[str, int] = field(default_factory=dict)
    """Why candidates were let go → how many."""

    def __post_init__(self) -> None:
        self._rungs = Rungs(self.staging.rungs, self.staging.reduction)
        self._candidates: dict[int, _Candidate] = {}
        self._ready: deque[tuple[_Candidate, float | None]] = deque()
        """Candidates with the epochs that they are to be trained for next, None for all."""
        self._full: set[int] = set()
        """On their way to a full evaluation."""
        self._slots: set[int] = set()
        """Of these, those that have been counted among the evaluations that were asked for."""
        self._elsewhere: set[int] = set()
        """Candidates that other drivers evaluate in full."""
        self._in_a_row = 0

    @property
    def open(self) -> int:
        """Full evaluations that are still to be begun."""
        if self.given_up or (self.proposer.exhausted and not self._rungs.waiting and not self._ready):
            return 0
        return self.proposer.wanted - self.proposer.finished - len(self._full) - len(self._elsewhere)

    @property
    def waits(self) -> bool:
        """Whether evaluations that were asked for are in the hands of other drivers, and may come back from there."""
        return not self.given_up and bool(self._elsewhere) and self.proposer.finished < self.proposer.wanted

    def next(self) -> Job | None:
        """The next job; None where nothing can be begun before a running one ends, or at all (`ended`)."""
        if self.given_up:
            return None
        for place, (candidate, until) in enumerate(self._ready):
            if self._may_begin(candidate.job.trial, until):
                del self._ready[place]
                return self._begun(candidate, until)
        if self.open <= 0:
            return None
        promoted = self._rungs.promote()
        if promoted is None and not self.proposer.exhausted:
            proposal = self.proposer.ask()
            if proposal is not None:
                return self._begin_or_wait(*self._first(proposal))
        if promoted is None:
            promoted = self._rungs.best_waiting()
        if promoted is None:
            return None
        number, rung = promoted
        candidate = self._candidates[number]
        return self._begin_or_wait(candidate, self._after(rung, candidate.job))

    def _begin_or_wait(self, candidate: _Candidate, until: float | None) -> Job | None:
        if until is None and not self._has_slot(candidate.job.trial):
            self._full.add(candidate.job.trial)
            self._ready.append((candidate, until))
            return None
        return self._begun(candidate, until)

    def took(self, job: Job, report: Report, seconds: float) -> None:
        """A job ended with a report: what becomes of its candidate."""
        candidate = self._candidates[job.trial]
        candidate.at_work = False
        if candidate.taken:
            self.gone(job)
            return
        proposal = candidate.proposal
        stage: Stage = "cost" if report.exceeded or report.costed is None else "rung" if report.epochs else "screen"
        objectives = self.proposer.asking.objectives
        told = all(objective.value(report.known) is not None for objective in objectives)
        found = () if stage == "cost" else values(report.known, objectives if told else ())
        proposal.steps += (Step(stage, report.epochs, found, seconds),)
        if report.exceeded:
            self._let_go(candidate, report, f"exceeds {', '.join(sorted(report.exceeded))}")
            return
        candidate.known = report.known
        self._in_a_row = 0 if stage == "rung" else self._in_a_row
        candidate.job = replace(candidate.job, costed=report.costed)
        if stage == "screen":
            candidate.untrained = report.known.accuracy
            if self.staging.screen and not proposal.chosen and self._is_beaten(candidate):
                self._let_go(candidate, report, "beaten before training")
                return
            if self.staging.screen and self._in_a_row < TRIES and self.proposer.promises_less(proposal, report.known):
                self._let_go(candidate, report, "costs more than it was chosen for")
                return
        self._go_on(candidate, report)

    def sync(self, leases: Sequence[Lease]) -> list[Entry]:
        """Takes note of the strategy's candidates as they stand in the storage; entries of other drivers that are new.

        Candidates that nobody alive holds are taken over.
        """
        claims, entries = self.proposer.claims, []
        self._elsewhere = set()
        for lease in leases:
            candidate = self._candidates.get(lease.trial)
            if candidate is not None:
                if claims.is_mine(lease) or self.proposer.has_ended(lease.trial):
                    continue
                candidate.taken = True  # while we stood still; its job, where one is out, must come back first
                if candidate.at_work:
                    continue
                self.gone(candidate.job)
            if lease.state == "running" and claims.is_free(lease):
                taken = self.proposer.take_over(lease)
                if taken is not None:
                    self._take_up(*taken)
            elif not claims.is_mine(lease):
                entry = self.proposer.learn(lease)
                if entry is not None:
                    entries.append(entry)
                if lease.state == "running" and lease.full:
                    self._elsewhere.add(lease.trial)
        return entries

    @property
    def spare(self) -> list[tuple[str, int]]:
        """Candidates that nothing was done for: claimed, and then not needed."""
        return [(self.name, one.job.trial) for one, _ in self._ready if not one.proposal.steps]

    def gone(self, job: Job) -> None:
        """A candidate is no longer ours: its lease had run out, and another driver has taken it."""
        candidate = self._candidates.pop(job.trial)
        self.proposer.withdraw(candidate.proposal)
        self._ready = deque(waiting for waiting in self._ready if waiting[0] is not candidate)
        self._rungs.take_out(job.trial)
        self._forget(job.trial)

    def ended(self, job: Job, entry: Entry, seconds: float) -> None:
        """A job ended with the entry of its candidate, which is on the board."""
        candidate = self._candidates[job.trial]
        candidate.at_work = False
        found = values(Known.of(entry), self.proposer.asking.objectives)
        candidate.proposal.steps += (Step("full", job.epochs, found, seconds),)
        self.proposer.tell(candidate.proposal, entry)
        # Later candidates are compared with it by what is known of them, and no training of theirs has ended.
        candidate.known = replace(Known.of(entry), training=None)
        candidate.job = replace(candidate.job, costed=None)  # thousands of samples that the entry holds now
        self._forget(job.trial)
        self._in_a_row = 0

    def failed(self, job: Job, reason: str) -> None:
        """A job failed for good."""
        candidate = self._candidates[job.trial]
        if not self.proposer.claims.end(self.name, job.trial, "failed", reason):
            self.gone(job)
            return
        del self._candidates[job.trial]
        self.evaluator.drop(job)
        self.proposer.fail(candidate.proposal, reason)
        self._forget(job.trial)

    def _may_begin(self, trial: int, until: float | None) -> bool:
        """Whether a candidate that is ready is still wanted: other drivers may have taken the last evaluations."""
        if until is not None:
            return trial in self._full or self.open > 0
        return self._has_slot(trial)

    def _has_slot(self, trial: int) -> bool:
        if trial not in self._slots and self.proposer.claims.slot(self.name, trial, self.proposer.wanted):
            self._slots.add(trial)
        return trial in self._slots

    def _forget(self, trial: int) -> None:
        self._full.discard(trial)
        self._slots.discard(trial)

    def _first(self, proposal: Proposal) -> tuple[_Candidate, float | None]:
        """A new candidate with the end of its first job."""
        plan, asking = proposal.plan, self.proposer.asking
        job = Job(
            study=self.study,
            strategy=self.name,
            trial=proposal.number,
            role="candidate",
            plan=plan.to_json(),
            knobs=proposal.params,
            epochs=self.proposer.epochs(plan, *self.epochs),
            limits=asking.limits,
        )
        candidate = self._candidates[proposal.number] = _Candidate(proposal, job)
        staged = (
            any(limit.objective is not None for limit in asking.limits) or self.staging.screen or self._can_pause(job)
        )
        return candidate, 0.0 if staged else None

    def _begun(self, candidate: _Candidate, until: float | None) -> Job:
        candidate.at_work = True
        candidate.job = replace(candidate.job, until=until)
        if until is None:
            self._full.add(candidate.job.trial)
        return candidate.job

    def _go_on(self, candidate: _Candidate, report: Report) -> None:
        """The stage after the one that a candidate has passed."""
        if not self._can_pause(candidate.job) or candidate.proposal.chosen:
            self._enter_full(candidate)
        elif report.epochs == 0:
            self._ready.append((candidate, self._after(-1, candidate.job)))
        else:
            candidate.rung += 1
            self._wait(candidate)

    def _enter_full(self, candidate: _Candidate) -> None:
        self._full.add(candidate.job.trial)
        self._ready.append((candidate, None))

    def _wait(self, candidate: _Candidate) -> None:
        self._rungs.add(candidate.rung, candidate.job.trial, self._minimised(candidate))
        notes = {"rung": candidate.rung, "untrained": candidate.untrained, **_plain(candidate)}
        self.proposer.wait(candidate.proposal, notes)

    def _take_up(self, proposal: Proposal, notes: Mapping[str, Any] | None) -> None:
        candidate, until = self._first(proposal)
        if notes is None:
            self._ready.append((candidate, until))
            return
        costed = Costed(notes["costed"]["network"], notes["costed"]["costs"], notes["bytes"])
        candidate.job = replace(candidate.job, costed=costed)
        candidate.known = Known.from_plain(notes)
        candidate.untrained, candidate.rung = notes["untrained"], notes["rung"]
        if candidate.rung < len(self.staging.rungs):
            self._rungs.add(candidate.rung, proposal.number, self._minimised(candidate))
        else:
            self._enter_full(candidate)

    def _let_go(self, candidate: _Candidate, report: Report, reason: str) -> None:
        if not self.proposer.claims.end(self.name, candidate.job.trial, "rejected", reason):
            self.gone(candidate.job)
            return
        self.let_go[reason] = self.let_go.get(reason, 0) + 1
        self._in_a_row += 1
        if self._in_a_row >= IN_A_ROW and not self._rungs.waiting and not self._full:
            self.given_up = f"{self._in_a_row} candidates in a row were let go, the last: {reason}"
        self.proposer.reject(candidate.proposal, report.known, report.exceeded, reason)
        del self._candidates[candidate.job.trial]

    def _after(self, rung: int, job: Job) -> float | None:
        """Epochs at the end of the rung behind `rung`; None where the full evaluation is next."""
        return job.epochs * self.staging.rungs[rung + 1] if rung + 1 < len(self.staging.rungs) else None

    def _can_pause(self, job: Job) -> bool:
        """Whether rungs can compare it: its structure stays what it is, and a rung is at least one step long."""
        if not self.staging.rungs:
            return False
        dense, method = self.evaluator.dense, self.proposer.strategy
        steps = steps_in(job.epochs, dense.workload, dense.splits.train)
        plan = self._candidates[job.trial].proposal.plan
        return steps * self.staging.rungs[0] >= 1 and not method.stages(plan, steps)

    def _is_beaten(self, candidate: _Candidate) -> bool:
        others = [c for c in self._candidates.values() if c is not candidate and c.untrained is not None and c.known]
        if candidate.untrained is None or not others or self.proposer.strategy.start == "initial":
            return False
        images = min(IMAGES, len(self.evaluator.dense.splits.validation))
        return clearly_beaten(
            self._minimised(candidate)[1:],
            candidate.untrained,
            np.array([self._minimised(other)[1:] for other in others]),
            np.array([other.untrained for other in others], dtype=float),
            images,
        )

    def _minimised(self, candidate: _Candidate) -> tuple[float, ...]:
        """Minus its accuracy, then the objectives that are known before the end, all turned so that less is better."""
        assert candidate.known is not None
        told = [(objective, objective.value(candidate.known)) for objective in self.proposer.asking.objectives]
        costs = [-value if objective.larger_is_better else value for objective, value in told if value is not None]
        return (-candidate.known.accuracy, *costs)


def _plain(candidate: _Candidate) -> dict[str, Any]:
    known, costed = candidate.known, candidate.job.costed
    assert known is not None and costed is not None
    return {
        **known.plain(),
        "costed": {"network": costed.network, "costs": [dict(cost) for cost in costed.costs]},
    }
