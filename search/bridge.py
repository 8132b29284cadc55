"""The bridge to Optuna: one study per strategy, asked and told here and nowhere else.

A study lives in memory while it runs and is written through to the storage whenever a trial ends, so that nothing that
was interrupted stays behind as running, and a suggestion costs no database round trip but the claim of its plan. The
board is the truth: a trial counts when its entry is on the board; on start, entries that the stored study lacks are
added to it. What was rejected before its full evaluation is told to the sampler as infeasible, and stands in the
storage with the reason. What other drivers of the study do is learned on the way (`learn`).
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from leaderboard import Entry
from strategies import Plan, Space, Strategy
from workloads import Dense, InputError

from .ehvi import ACCURACY, KNOWN, ExpectedHypervolume, Goal
from .foresight import Foresight
from .guide import Guide, guided
from .leases import MOST_LOST, Claims, Lease, State
from .log import Record, Step, forget_paused, keep_paused, logged, paused
from .objectives import Known, Limit, Objective, values
from .patience import Patience
from .samplers import make_sampler
from .spaces import check_layout, flat

LADDER = 5
"""Plans of a uniform ladder, or of a guide, that come first at most; never more than half of the trials asked for."""
PROMISE = 0.5
"""Of the gain that was expected: a candidate that by its true costs is left with less is not trained."""
SCREENED = "screened"
"""Constraint that a candidate violates which was let go before its training: clearly beaten, or too dear."""
_GUIDE, _NONE = "guide", "none"
"""Attribute of the study that holds its guide, and what stands there where the space has none."""
_DUPLICATES_IN_A_ROW = 20
_RANDOM_TRIES = 500


@dataclass
class Proposal:
    """A plan that is worth evaluating, the trial that it answers, and what was found out so far."""

    plan: Plan
    params: dict[str, int]
    number: int
    """Number of the trial in its strategy's study; the entry's `trial`."""
    trial: Trial
    chosen: bool = False
    """True for plans that were put first by knowledge, not by the sampler."""
    steps: tuple[Step, ...] = ()

    def record(self, ended: str, notes: Mapping[str, object] | None = None, failed: bool = False) -> Record:
        """As it stands in the log of the study."""
        return Record(self.number, self.params, self.plan.digest, self.steps, ended, notes or {}, failed)


@dataclass(frozen=True)
class Asking:
    """How plans are chosen."""

    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...] = ()
    screened: bool = False
    """Whether candidates may be rejected before their full evaluation."""
    sampler: str = "tpe"
    layout: str = "levels"
    """One of `spaces.LAYOUTS`; only a space with common levels has a ladder, which comes before the sampler."""

    @property
    def bounded(self) -> tuple[Objective, ...]:
        """What limits bound beside the accuracy."""
        return tuple(limit.objective for limit in self.limits if limit.objective is not None)

    def goal(self, dense_accuracy: float, images: int) -> Goal:
        """The same for a sampler that reckons with it.

        `dense_accuracy` is a fraction, of as many validation `images`.
        """
        figures = (*self.objectives, *self.bounded)
        drops = [limit.bound for limit in self.limits if limit.objective is None]
        return Goal(
            dense_accuracy,
            tuple(map(str, self.objectives)),
            frozenset(str(figure) for figure in figures if figure.larger_is_better),
            {str(limit): limit.bound for limit in self.limits if limit.objective is not None},
            dense_accuracy - min(drops) / 100 if drops else 0.0,
            images,
        )


class Proposer:
    """What one strategy tries next. Not for several threads."""

    def __init__(
        self,
        campaign: str,
        strategy: Strategy,
        dense: Dense,
        asking: Asking,
        trials: int,
        seed: int,
        widths: frozenset[int],
        storage: optuna.storages.BaseStorage,
        known: Sequence[Entry] = (),
        options: Mapping[str, bool | float] | None = None,
        guide: Callable[[], Guide | None] = lambda: None,
        *,
        claims: Claims,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`known` are the entries of this campaign and strategy that are on the board already.

        `options` are knobs that all trials share (`Strategy.plan`). `guide` is asked once a study, for a layout that
        is guided; what it gave stays with the study. `say` is told of waiting for another driver.
        """
        self.strategy, self.asking, self.wanted, self.claims = strategy, asking, trials, claims
        self._patiently, self._say = patience or Patience(), say
        self._options = dict(options or {})
        self._dense = dense
        directions = [StudyDirection.MAXIMIZE] + [
            StudyDirection.MAXIMIZE if objective.larger_is_better else StudyDirection.MINIMIZE
            for objective in asking.objectives
        ]
        name = f"{campaign}/{strategy.name}"
        self._stored = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._stored.set_metric_names(["accuracy", *map(str, asking.objectives)])
        self._foresight: Foresight | None = None
        self._space, ladder = self._laid_out(strategy.space(dense, widths), guide)
        self._ranges = self._space.ranges()
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(low, high) for name, (low, high) in self._ranges.items()
        }
        # Drivers that work at the same time must not draw alike; the first, or only one draws as it always did.
        unlike = [claims.rank] if claims.rank else []
        self._rng = np.random.default_rng([seed, *unlike, *strategy.name.encode()])
        self._goal = asking.goal(dense.validation.primary, len(dense.splits.validation))
        sampler = make_sampler(
            asking.sampler, _seed(seed, strategy.name, *unlike), trials, self._space, self._goal, self._foresight
        )
        self._study = optuna.create_study(sampler=sampler, directions=directions)
        self._values: dict[str, tuple[float, ...]] = {}
        """Digest → what the sampler was told of a plan in full; empty for plans that were rejected or failed."""
        self._violations: dict[str, dict[str, float]] = {}
        """The same for its constraints."""
        self._pending: set[str] = set()
        self._worst = dense.validation.primary, [0.0] * len(asking.objectives)
        self._theirs: dict[int, Trial] = {}
        """Candidates of other drivers that are on their way, by number."""
        self._ended: set[int] = set()
        """Numbers of candidates of which the end is known."""
        self.finished = 0
        self.exhausted = False
        trials_stored = self._stored.get_trials(deepcopy=False)
        records = [record for record in map(logged, trials_stored) if record]
        waiting = paused(self._stored)
        numbers = [entry.trial for entry in known] + [record.number for record in (*waiting, *records)]
        self._highest = max(numbers, default=-1)
        self._reconcile(known, trials_stored)
        self._adopt(known, records, waiting)
        self._plan({})  # a network that the method cannot handle at all is refused here
        self._chosen: list[dict[str, int]] = []
        for params in ladder:
            if self._new(params):
                self._study.enqueue_trial(params)
                self._chosen.append(params)

    def beside(self, dense: Sequence[float | None]) -> None:
        """Takes note of the dense network's objectives, where they are known: dearer networks gain nothing."""
        costs = {str(o): value for o, value in zip(self.asking.objectives, dense, strict=True) if value}
        if len(costs) == len(dense):
            self._goal.dense_costs = costs

    def _known(self, known: Known) -> dict[str, float]:
        """Costs by name, of objectives and of what is bounded, as far as they are known."""
        told = {str(figure): figure.value(known) for figure in (*self.asking.objectives, *self.asking.bounded)}
        return {name: value for name, value in told.items() if value is not None}

    @property
    def space(self) -> Space:
        """The knobs, as this search may turn them."""
        return self._space

    def has_ended(self, number: int) -> bool:
        """Whether it is known what became of a candidate."""
        return number in self._ended

    def ask(self) -> Proposal | None:
        """A plan that was not evaluated before; None once the space is used up."""
        for _ in range(_DUPLICATES_IN_A_ROW):
            proposal = self._propose()
            if proposal is not None:
                return proposal
        for _ in range(_RANDOM_TRIES):
            params = {
                name: int(self._rng.integers(low, high, endpoint=True)) for name, (low, high) in self._ranges.items()
            }
            if self._new(params):
                self._study.enqueue_trial(params)
                return self._propose()
        self.exhausted = True
        return None

    def epochs(self, plan: Plan, tuning: float, training: float) -> float:
        """Of one full evaluation of a plan (`Strategy.epochs`)."""
        return self.strategy.epochs(self._dense, plan, tuning, training)

    def promises_less(self, proposal: Proposal, known: Known) -> bool:
        """Whether a proposal whose costs are known now is expected to gain much less than when it was chosen."""
        sampler = self._study.sampler
        if not isinstance(sampler, ExpectedHypervolume) or proposal.trial.number not in sampler.expected:
            return False
        gain = sampler.gain(self._study, proposal.trial.number, self._known(known))
        return gain < PROMISE * sampler.expected[proposal.trial.number]

    def tell(self, proposal: Proposal, entry: Entry) -> None:
        """Takes the result of a proposal; its entry must be on the board already."""
        found = self._tell(proposal.trial, entry)
        self._keep(self._frozen(entry, proposal.record("full")))
        self._end(proposal, found)

    def reject(self, proposal: Proposal, known: Known, exceeded: Mapping[str, float], reason: str) -> None:
        """Takes note that a proposal is not worth a full evaluation.

        The sampler is told what is known of it, with the worst that was seen where nothing is known, as infeasible:
        `exceeded` says by how much, limit by limit; where that is empty it was beaten.
        """
        told = [objective.value(known) for objective in self.asking.objectives]
        worst = [worst if value is None else value for value, worst in zip(told, self._worst[1], strict=True)]
        found = (min(known.accuracy, self._worst[0]), *worst)
        constraints = self._constraints(known) | dict(exceeded) | {SCREENED: 0.0 if exceeded else 1.0}
        for name, value in constraints.items():
            proposal.trial.set_constraint(name, value)
        proposal.trial.set_user_attr(KNOWN, self._known(known))
        self._study.tell(proposal.trial, found)
        record = proposal.record(reason, known.plain())
        self._keep(
            optuna.create_trial(
                values=list(found),
                params=proposal.params,
                distributions=self._distributions,
                constraints=constraints,
                user_attrs={
                    "trial": proposal.number,
                    "plan_digest": proposal.plan.digest,
                    "reason": reason,
                    "log": json.dumps(record.to_json()),
                    KNOWN: self._known(known),
                },
            )
        )
        self._end(proposal, ())

    def fail(self, proposal: Proposal, reason: str) -> None:
        """Takes note that a proposal could not be evaluated; it is not proposed again."""
        self._study.tell(proposal.trial, state=TrialState.FAIL)
        self._keep_failed(proposal.record(reason, failed=True))
        self._end(proposal, ())

    def withdraw(self, proposal: Proposal) -> None:
        """Takes note that a proposal is no longer this driver's: another works on it, or nobody does."""
        self._study.tell(proposal.trial, state=TrialState.FAIL)
        self._pending.discard(proposal.plan.digest)

    def wait(self, proposal: Proposal, notes: Mapping[str, object]) -> None:
        """Takes note that a candidate is paused; `notes` (plain data) come back with it in a later run."""
        self._patiently(lambda: keep_paused(self._stored, proposal.record("paused", notes)))

    def learn(self, lease: Lease) -> Entry | None:
        """Takes note of a candidate of another driver; its entry where it has one and that is news."""
        if lease.trial in self._ended:
            return None
        if lease.state == "running":
            if lease.trial not in self._theirs:
                self._theirs[lease.trial] = self._begun(lease.knobs)
                self._pending.add(lease.plan_digest)
            return None
        entry = self.claims.entry(self.strategy.name, lease.trial) if lease.state == "done" else None
        trial = self._theirs.pop(lease.trial, None) or self._begun(lease.knobs)
        self._pending.discard(lease.plan_digest)
        self._ended.add(lease.trial)
        if entry is None:
            self._values.setdefault(lease.plan_digest, ())
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        self._tell(trial, entry)
        return entry

    def mend(self, leases: Sequence[Lease]) -> None:
        """Adds to the stored study what drivers that died in between have ended, and not told it."""
        ended = [lease for lease in leases if lease.state != "running" and not self.claims.is_mine(lease)]
        if not ended:
            return
        trials = self._patiently(lambda: self._stored.get_trials(deepcopy=False))
        told = {trial.user_attrs.get("trial") for trial in trials}
        told |= {record.number for record in map(logged, trials) if record}  # older trials say it in their log alone
        for lease in ended:
            if lease.trial in told or not self.claims.may_mend(self.strategy.name, lease.trial):
                continue
            entry = self.claims.entry(self.strategy.name, lease.trial) if lease.state == "done" else None
            if entry is not None:
                self._keep(self._frozen(entry))
            elif lease.state != "done":
                failed, number, reason = lease.state == "failed", lease.trial, lease.reason
                self._keep_failed(Record(number, lease.knobs, lease.plan_digest, ended=reason, failed=failed))

    def take_over(self, lease: Lease) -> tuple[Proposal, Mapping[str, object] | None] | None:
        """A candidate that its driver left behind, with the notes of its last pause, where there was one.

        None where another driver was faster, or where it has lost too many by now and is given up.
        """
        taken = self.claims.take(lease)
        if taken is None or taken.state != "running":
            return None
        trial = self._theirs.pop(taken.trial, None) or self._begun(taken.knobs)
        paused_ones = {record.number: record for record in self._patiently(lambda: paused(self._stored))}
        record = paused_ones.get(taken.trial, Record(taken.trial, taken.knobs, taken.plan_digest))
        reason = f"given up after {taken.lost} tries: {taken.reason}" if taken.lost >= MOST_LOST else ""
        try:
            plan = self._plan(dict(taken.knobs))
        except (InputError, KeyError) as error:
            reason = f"its plan cannot be made any more: {error}"
        else:
            if plan.digest != taken.plan_digest:
                reason = "it was begun under other options, or by another version of the strategy"
        if reason:
            self._study.tell(trial, state=TrialState.FAIL)
            self._values.setdefault(taken.plan_digest, ())
            self._ended.add(taken.trial)
            if self.claims.end(self.strategy.name, taken.trial, "failed", reason):
                self._keep_failed(replace(record, ended=reason, failed=True))
            self._say(f"{self.strategy.name} trial {taken.trial} failed: {reason}\n  knobs: {json.dumps(taken.knobs)}")
            return None
        self._pending.add(plan.digest)
        params = {name: int(value) for name, value in taken.knobs.items()}
        return Proposal(plan, params, taken.trial, trial, steps=record.steps), record.notes or None

    def _begun(self, knobs: Mapping[str, int]) -> Trial:
        """A trial that is on its way with these knobs, whatever is queued."""
        params = {name: int(value) for name, value in knobs.items()}
        self._study.add_trial(
            optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions)
        )
        return Trial(self._study, self._study.get_trials(deepcopy=False)[-1]._trial_id)

    def _keep(self, trial: FrozenTrial) -> None:
        """Adds an ended trial to the stored study, once."""

        def add() -> bool:
            self._stored.add_trial(trial)
            return True

        def landed() -> bool | None:
            number = trial.user_attrs["trial"]
            stored = self._stored.get_trials(deepcopy=False)
            return any(other.user_attrs.get("trial") == number for other in stored) or None

        self._patiently(add, landed)

    def _keep_failed(self, record: Record) -> None:
        self._keep(
            optuna.create_trial(
                state=TrialState.FAIL,
                params=dict(record.params),
                distributions=self._distributions,
                user_attrs={
                    "trial": record.number,
                    "reason": record.ended,
                    "plan_digest": record.digest,
                    "log": json.dumps(record.to_json()),
                },
            )
        )

    def _end(self, proposal: Proposal, found: tuple[float, ...]) -> None:
        self._patiently(lambda: forget_paused(self._stored, proposal.number))
        self._ended.add(proposal.number)
        self._pending.discard(proposal.plan.digest)
        self._values[proposal.plan.digest] = found
        self._see(found)

    def _see(self, found: Sequence[float]) -> None:
        if found:
            accuracy, costs = self._worst
            worse = [
                min(old, new) if objective.larger_is_better else max(old, new)
                for objective, old, new in zip(self.asking.objectives, costs, found[1:], strict=True)
            ]
            self._worst = min(accuracy, found[0]), worse

    def _constraints(self, known: Known) -> dict[str, float]:
        """Limit → violation; the same names for every trial, or samplers could not compare."""
        told: dict[str, float] = {}
        for limit in self.asking.limits:
            beyond = limit.violation(known, self._dense.validation.primary)
            told[str(limit)] = 0.0 if beyond is None else beyond
        return told | ({SCREENED: 0.0} if self.asking.screened or told else {})

    def _laid_out(self, space: Space, guide: Callable[[], Guide | None]) -> tuple[Space, Sequence[dict[str, int]]]:
        """The space as it is searched, and the parameter sets that come first."""
        layout, half = self.asking.layout, (self.wanted + 1) // 2
        check_layout(layout)
        if layout == "flat":
            return flat(space), ()
        if layout == "guided":
            with self.claims.once(self.strategy.name, "which layers matter", self._say):
                if _GUIDE in self._stored.user_attrs:
                    found = kept_guide(self._stored)
                else:
                    found = guide()
                    self._stored.set_user_attr(_GUIDE, _NONE if found is None else json.dumps(found.to_json()))
            if found is not None:
                shaped = guided(space, found)
                self._foresight = Foresight(self._dense, self.strategy, shaped, found)
                return shaped, found.ladder[: min(LADDER, half)]
        return space, space.ladder(min(LADDER, half))

    def _propose(self) -> Proposal | None:
        """One suggestion of the sampler; None where it is a duplicate, of which the sampler is told what is known."""
        trial = self._study.ask(self._distributions)
        params = {name: int(value) for name, value in trial.params.items()}
        try:
            plan = self._plan(params)
        except InputError:  # knob values that make no network, such as a density at which a layer loses every weight
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        if self._values.get(plan.digest):
            for name, value in self._violations[plan.digest].items():
                trial.set_constraint(name, value)
            self._study.tell(trial, self._values[plan.digest])
            return None
        if plan.digest in self._values or plan.digest in self._pending:
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        self._pending.add(plan.digest)
        number = self.claims.claim(self.strategy.name, plan.digest, params, self._highest)
        if number is None:  # another driver's; what comes of it is learned later
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        return Proposal(plan, params, number, trial, params in self._chosen)

    def _plan(self, params: dict[str, int]) -> Plan:
        return self.strategy.plan(self._dense, self._space.decode(params) | self._options)

    def _new(self, params: dict[str, int]) -> bool:
        """Whether the knob values make a network that was neither evaluated nor proposed."""
        try:
            digest = self._plan(params).digest
        except InputError:
            return False
        return digest not in self._values and digest not in self._pending

    def _tell(self, trial: Trial, entry: Entry) -> tuple[float, ...]:
        """Tells the sampler what came of a trial that was evaluated in full; accuracy and objectives."""
        known = Known.of(entry)
        found, constraints = values(known, self.asking.objectives), self._constraints(known)
        for name, value in constraints.items():
            trial.set_constraint(name, value)
        trial.set_user_attr(KNOWN, {ACCURACY: known.accuracy, **self._known(known)})
        self._study.tell(trial, found)
        self._count(entry, found, constraints)
        return found

    def _count(self, entry: Entry, found: tuple[float, ...], constraints: dict[str, float]) -> None:
        """Remembers a full evaluation, so that its plan is not asked for again."""
        self._values[entry.plan_digest], self._violations[entry.plan_digest] = found, constraints
        self._see(found)
        self.finished += 1

    def _frozen(self, entry: Entry, record: Record | None = None) -> FrozenTrial:
        """The trial of an entry as it stands in a study; `record` is its log, where that is known."""
        known = Known.of(entry)
        told = {
            "entry": entry.id,
            "trial": entry.trial,
            "plan_digest": entry.plan_digest,
            KNOWN: {ACCURACY: known.accuracy, **self._known(known)},
        }
        return optuna.create_trial(
            values=list(values(known, self.asking.objectives)),
            params={name: int(value) for name, value in entry.knobs.items()},
            distributions=self._distributions,
            constraints=self._constraints(known),
            user_attrs=told | ({} if record is None else {"log": json.dumps(record.to_json())}),
        )

    def _reconcile(self, known: Sequence[Entry], trials: Sequence[FrozenTrial]) -> None:
        """Brings memory and storage to what the board says, and memory to what the storage says was rejected."""
        stored = {trial.user_attrs.get("entry") for trial in trials}
        for entry in known:
            if entry.knobs.keys() != self._distributions.keys():
                raise InputError(
                    f"study of strategy {self.strategy.name!r}: trial {entry.trial} was searched with other knobs than "
                    "this version of the strategy has; choose another --study"
                )
            self._study.add_trial(self._frozen(entry))
            if entry.id not in stored and self.claims.may_mend(self.strategy.name, entry.trial):
                self._keep(self._frozen(entry))
            self._ended.add(entry.trial)
            about = Known.of(entry)
            self._count(entry, values(about, self.asking.objectives), self._constraints(about))
        if known and self._plan(dict(known[-1].knobs)).digest != known[-1].plan_digest:
            raise InputError(
                f"study of strategy {self.strategy.name!r}: trial {known[-1].trial} was searched under other options, "
                "or by another version of the strategy; give the same ones, or choose another --study"
            )
        for trial in trials:
            if trial.user_attrs.get("entry") is None:
                self._values.setdefault(str(trial.user_attrs.get("plan_digest")), ())
                if trial.state == TrialState.COMPLETE:
                    self._study.add_trial(trial)
                record = logged(trial)
                if record is not None:
                    self._ended.add(record.number)

    def _adopt(self, known: Sequence[Entry], records: Sequence[Record], waiting: Sequence[Record]) -> None:
        """Leases for what a version without them has left."""
        told: dict[int, tuple[str, Mapping[str, int], State]]
        told = {r.number: (r.digest, r.params, "running") for r in waiting}
        told |= {r.number: (r.digest, r.params, "failed" if r.failed else "rejected") for r in records}
        told |= {entry.trial: (entry.plan_digest, entry.knobs, "done") for entry in known}
        rows = [(number, *told[number]) for number in sorted(told)]
        if rows:
            self.claims.adopt(self.strategy.name, rows)


def kept_guide(stored: optuna.Study) -> Guide | None:
    """The guide that a study was searched with; None where it had none."""
    kept = stored.user_attrs.get(_GUIDE, _NONE)
    return None if kept == _NONE else Guide.from_json(json.loads(kept))


def _seed(seed: int, name: str, *unlike: int) -> int:
    """A sampler's seed that differs between strategies of one campaign, and between its drivers."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, (seed, name, *unlike))).encode()).digest()[:4], "big")
