"""The bridge to Optuna: one study per strategy, asked and told here and nowhere else.

A study lives in memory while it runs and is written through to the storage whenever a trial ends, so that nothing that
was interrupted stays behind as running, and a suggestion costs no database round trips. The board is the truth: a trial
counts when its entry is on the board; on start, entries that the stored study lacks are added to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cost_models import CostModel
from leaderboard import Entry
from strategies import Plan, Space, Strategy
from workloads import Dense, InputError

from .evaluation import objectives

LADDER = 5
"""Rungs of the uniform ladder at most; never more than half of the trials asked for."""
_DUPLICATES_IN_A_ROW = 20
_RANDOM_TRIES = 500


@dataclass(frozen=True)
class Proposal:
    """A plan that is worth evaluating, and the trial that it answers."""

    plan: Plan
    params: dict[str, int]
    number: int
    """Number of the trial in its strategy's study; the entry's `trial`."""
    trial: Trial


class Proposer:
    """What one strategy tries next. Not for several threads."""

    def __init__(
        self,
        campaign: str,
        strategy: Strategy,
        dense: Dense,
        models: Sequence[CostModel],
        trials: int,
        seed: int,
        widths: frozenset[int],
        storage: optuna.storages.BaseStorage,
        known: Sequence[Entry] = (),
        options: Mapping[str, bool | float] | None = None,
    ) -> None:
        """`known` are the entries of this campaign and strategy that are on the board already.

        `options` are knobs that all trials share (`Strategy.plan`).
        """
        self.strategy, self.models, self.wanted = strategy, list(models), trials
        self._options = dict(options or {})
        self._dense = dense
        self._space: Space = strategy.space(dense, widths)
        self._ranges = self._space.ranges()
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(low, high) for name, (low, high) in self._ranges.items()
        }
        self._rng = np.random.default_rng([seed, *strategy.name.encode()])
        directions = [StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * len(self.models)
        name = f"{campaign}/{strategy.name}"
        self._stored = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=_seed(seed, strategy.name)), directions=directions
        )
        self._values: dict[str, tuple[float, ...]] = {}
        self._pending: set[str] = set()
        self._next_number = max((entry.trial for entry in known), default=-1) + 1
        self.finished = 0
        self.exhausted = False
        self._reconcile(known)
        self._plan({})  # a network that the method cannot handle at all is refused here
        for params in self._space.ladder(min(LADDER, (trials + 1) // 2)):
            if self._new(params):
                self._study.enqueue_trial(params)

    @property
    def open(self) -> int:
        """Evaluations still to be proposed."""
        return 0 if self.exhausted else self.wanted - self.finished - len(self._pending)

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

    def epochs(self, proposal: Proposal, tuning: float, training: float) -> float:
        """Of one full evaluation of a proposal (`Strategy.epochs`)."""
        return self.strategy.epochs(self._dense, proposal.plan, tuning, training)

    def tell(self, proposal: Proposal, entry: Entry) -> None:
        """Takes the result of a proposal; its entry must be on the board already."""
        values = objectives(entry, self.models)
        self._study.tell(proposal.trial, values)
        self._store(entry, values)
        self._pending.discard(proposal.plan.digest)
        self._values[proposal.plan.digest] = values
        self.finished += 1

    def fail(self, proposal: Proposal, reason: str) -> None:
        """Takes note that a proposal could not be evaluated; it is not proposed again."""
        self._study.tell(proposal.trial, state=TrialState.FAIL)
        self._stored.add_trial(
            optuna.create_trial(
                state=TrialState.FAIL,
                params=proposal.params,
                distributions=self._distributions,
                user_attrs={"reason": reason, "plan_digest": proposal.plan.digest},
            )
        )
        self._pending.discard(proposal.plan.digest)
        self._values[proposal.plan.digest] = ()

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
            self._study.tell(trial, self._values[plan.digest])
            return None
        if plan.digest in self._values or plan.digest in self._pending:
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        self._pending.add(plan.digest)
        number, self._next_number = self._next_number, self._next_number + 1
        return Proposal(plan, params, number, trial)

    def _plan(self, params: dict[str, int]) -> Plan:
        return self.strategy.plan(self._dense, self._space.decode(params) | self._options)

    def _new(self, params: dict[str, int]) -> bool:
        """Whether the knob values make a network that was neither evaluated nor proposed."""
        try:
            digest = self._plan(params).digest
        except InputError:
            return False
        return digest not in self._values and digest not in self._pending

    def _store(self, entry: Entry, values: Sequence[float]) -> None:
        self._stored.add_trial(self._frozen(entry, values))

    def _frozen(self, entry: Entry, values: Sequence[float]) -> FrozenTrial:
        return optuna.create_trial(
            values=list(values),
            params={name: int(value) for name, value in entry.knobs.items()},
            distributions=self._distributions,
            user_attrs={"entry": entry.id, "trial": entry.trial, "plan_digest": entry.plan_digest},
        )

    def _reconcile(self, known: Sequence[Entry]) -> None:
        """Brings memory and storage to what the board says."""
        stored = {trial.user_attrs.get("entry") for trial in self._stored.get_trials(deepcopy=False)}
        for entry in known:
            if entry.knobs.keys() != self._distributions.keys():
                raise InputError(
                    f"study of strategy {self.strategy.name!r}: trial {entry.trial} was searched with other knobs than "
                    "this version of the strategy has; choose another --study"
                )
            values = objectives(entry, self.models)
            self._study.add_trial(self._frozen(entry, values))
            if entry.id not in stored:
                self._store(entry, values)
            self._values[entry.plan_digest] = values
            self.finished += 1
        if known and self._plan(dict(known[-1].knobs)).digest != known[-1].plan_digest:
            raise InputError(
                f"study of strategy {self.strategy.name!r}: trial {known[-1].trial} was searched under other options, "
                "or by another version of the strategy; give the same ones, or choose another --study"
            )
        for trial in self._stored.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
            self._values.setdefault(str(trial.user_attrs.get("plan_digest")), ())


def _seed(seed: int, name: str) -> int:
    """A sampler's seed that differs between strategies of one campaign."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "big")
