"""A campaign: the same budget for every strategy on one workload, controls first, until trials or time are spent."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import optuna

from cost_models import CostModel, Frozen, Reference
from leaderboard import Entry, Store
from leaderboard import Reference as FrozenReference
from strategies import Plan, Strategy, strategy
from workloads import Format, InputError

from .bridge import Asking, Proposer
from .drivers import Presence
from .evaluation import Evaluator, Job, Report, Subject
from .executors import Executor, Failure
from .guide import Guide, make_guide
from .lane import Lane, Staging
from .leases import MOST_LOST, Claims, Lease, Leases, leases_of
from .objectives import Known, Limit, Objective, default_objectives, parse_limit, parse_objective
from .patience import Patience
from .samplers import check_sampler, choose_sampler
from .settings import Settings, check_resumed, hold_to_ground, keep_settings, kept_settings
from .storage import optuna_storage
from .workers import Workers, start

DENSE = "dense"
CONTROLS = (DENSE, "dense+int")
"""Evaluated once in every campaign, without tuning, beside the trials: the dense network in fp32 and in int8."""
GIVE_UP = 3
"""Failures in a row after which a strategy is given up."""
POLL = 1.0
"""Seconds after which the loop looks up from its jobs."""
SYNC = 2.0
"""Seconds after which the loop looks at what other drivers do."""
ENOUGH, PATIENT, SHORTEST_LIMIT = 3, 20.0, 600.0
"""After so many jobs of its kind a job may take so many times the longest of them, at least so many seconds."""


@dataclass(frozen=True)
class Campaign:
    """What is to be searched; stored with the study, so that a resumed one cannot differ."""

    name: str
    subject: Subject
    strategies: tuple[str, ...]
    targets: tuple[str, ...]
    """As the command takes them; a device file by its path."""
    epochs: float
    """Of every trial that starts from the trained network."""
    training_epochs: float
    """Of every trial that starts from initial weights."""
    options: Mapping[str, bool | float] = field(default_factory=dict)
    """Of every trial: `distillation`, its weight λ; `straight_through`, training that sees the number formats."""
    objectives: tuple[str, ...] = ()
    """As `parse_objective` reads them; none: the one of every target."""
    limits: tuple[str, ...] = ()
    """As `parse_limit` reads them."""
    sampler: str = "tpe"
    staging: Staging = field(default_factory=Staging)
    layout: str = "levels"
    """Of the search space, one of `spaces.LAYOUTS`."""

    def options_of(self, method: Strategy) -> dict[str, bool | float]:
        """Those of the options that concern a strategy: one without number formats has nothing to see."""
        formats = method.stage == "format" or "+" in method.name
        return {name: value for name, value in self.options.items() if formats or name != "straight_through"}


@dataclass
class Summary:
    """How a campaign ended."""

    finished: int = 0
    """Trials or finalists of this run, controls beside them not counted."""
    failed: list[tuple[str, int, str]] = field(default_factory=list)
    """Strategy, trial and reason of every trial without an entry."""
    given_up: dict[str, str] = field(default_factory=dict)
    """Strategy → why it ended early."""
    exhausted: list[str] = field(default_factory=list)
    """Strategies whose space was used up."""
    let_go: dict[str, dict[str, int]] = field(default_factory=dict)
    """Strategy → why candidates were let go before their full evaluation → how many in this run."""
    ended: str = "all trials done"
    """`all trials done`, `time budget spent`, `stopped` (somebody asked for it) or `interrupted`."""


Listener = Callable[[Entry | None, str], None]
"""Called when a job ends with its entry, or with None and a line that says why there is none."""


def run_campaign(
    campaign: Campaign,
    store: Store,
    *,
    trials: int,
    workers: int | Workers = 1,
    time_budget: float | None = None,
    trial_timeout: float | None = None,
    resume: bool = False,
    listen: Listener = lambda entry, line: None,
    evaluator: Evaluator | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Runs `trials` full evaluations of every strategy, those on the board included, strategies taking turns.

    `time_budget` is in seconds from this call: no job starts that would, by the median of those before, end after it.
    `trial_timeout` is how many seconds one job may take before its worker is ended; None: many times what others took.
    Ctrl-C ends it like a spent budget; what was finished is on the board. `say` is told what goes on before the first
    trial, and when the storage is away. Several drivers may run the same campaign at once (`resume`): together they
    come to `trials`. Raises `InputError` where the study exists and `resume` is false, or where it was searched under
    other settings.
    """
    started = time.monotonic()
    entries = [entry for entry in store.entries(study=campaign.name)]
    evaluator = evaluator or Evaluator(campaign.subject, campaign.targets)
    _check_resume(campaign, evaluator, store, entries, resume)
    summary = Summary()
    patience = Patience(say)
    asked = Workers(workers) if isinstance(workers, int) else workers
    with optuna_storage(store) as storage, present(campaign.name, store, asked, resume) as presence:
        claims = Leases(store, campaign.name, presence, patience)
        late = claims.save_late()
        if late:
            say(f"{len(late)} results that an earlier run could not save are on the board now")
            entries += late
        freeze_references(evaluator, store)
        widths = rewarded_widths(list(evaluator.models.values()))
        lanes = _lanes(campaign, evaluator, entries, trials, widths, storage, summary, claims, patience, say)
        done = {entry.strategy for entry in entries if entry.role == "control"} | {*campaign.strategies}
        controls = [job for job in control_jobs(campaign.name, evaluator) if job.strategy not in done]
        executor = start(asked, evaluator, campaign.targets, trial_timeout is not None)
        loop = Loop(claims, executor, lanes, controls, summary, listen, job_timeout=trial_timeout, say=say)
        presence.jobs = loop.jobs
        try:
            loop.run(None if time_budget is None else started + time_budget)
            patience(presence.look)
            ended = patience(lambda: leases_of(store, campaign.name))
            for lane in lanes.values():
                lane.proposer.mend([lease for lease in ended if lease.strategy == lane.name])
        except Stopped:
            summary.ended = "stopped"
        except KeyboardInterrupt:
            summary.ended = "interrupted"
        finally:
            executor.close()
            claims.leave([spare for lane in lanes.values() for spare in lane.spare])
            summary.let_go = {name: lane.let_go for name, lane in lanes.items() if lane.let_go}
    return summary


@contextmanager
def present(study: str, store: Store, workers: Workers, resume: bool) -> Iterator[Presence]:
    """This driver, known to the others of the study."""
    presence = Presence(store, study, workers.executor, workers.count)
    try:
        if presence.others and not resume:
            raise InputError(
                f"study {study!r} is being worked on in {store.name} by another driver; "
                "add --resume to join it, or choose another --study"
            )
        yield presence
    finally:
        presence.leave()


class Loop:
    """Gives jobs to the executor and what comes of them to the board and the strategies; `clock` is in seconds."""

    def __init__(
        self,
        claims: Claims,
        executor: Executor,
        lanes: dict[str, Lane],
        controls: list[Job],
        summary: Summary,
        listen: Listener,
        clock: Callable[[], float] = time.monotonic,
        job_timeout: float | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`job_timeout` is how many seconds a job may take; None: much longer than others like it have taken.

        `say` is told of waiting for other drivers.
        """
        self.claims, self.executor, self.job_timeout, self.say = claims, executor, job_timeout, say
        self.lanes, self.controls, self.summary, self.listen = lanes, controls, summary, listen
        self.clock = clock
        self.running: dict[tuple[str, int], tuple[Job, float]] = {}
        """Jobs with the time at which they were begun."""
        self.again: deque[Job] = deque()
        """Jobs whose workers were lost."""
        self._held: dict[tuple[str, str], Lease] = {}
        """By strategy and digest of the plan: controls that some driver works on, or has ended."""
        self._synced = -math.inf
        self.durations: dict[float, list[float]] = {}
        """Seconds of jobs by the share of the training at whose end they were paused."""
        self.failures_in_a_row = dict.fromkeys(lanes, 0)
        self.turns = list(lanes)

    def run(self, deadline: float | None) -> None:
        waiting = looked = False
        while True:
            self._sync()
            ending = self._ending(deadline)
            while not ending and len(self.running) < self.executor.workers:
                job = self._next()
                if job is None:
                    break
                job = replace(job, seconds=self._limit(job))
                self.running[job.strategy, job.trial] = job, self.clock()
                self.executor.submit(job)
                ending = self._ending(deadline)
            if not self.running:
                waits = bool(self.controls) or any(lane.waits for lane in self.lanes.values())
                if not ending and not waits and not looked:
                    looked, self._synced = True, -math.inf  # what others did in the last seconds may open something
                    continue
                if ending or not waits:
                    if self.controls or self.again or any(lane.open > 0 for lane in self.lanes.values()):
                        self.summary.ended = ending or "time budget spent"
                    return
                if not waiting:
                    self.say("nothing is left to begin; waiting for what other drivers have begun")
                waiting = True
                time.sleep(POLL)
                continue
            waiting = looked = False
            ended = self.executor.next(POLL)
            if ended is not None:
                self._finish(*ended)

    def _claimed(self, control: Job) -> Job | None:
        """A control with its number, if it is ours to evaluate; None where another driver is at it."""
        lease = self._held.pop(_identity(control), None)
        if lease is None:
            number = self.claims.claim(*_identity(control), {}, -1)
        else:
            taken = self.claims.take(lease) if self.claims.is_free(lease) else None
            number = None if taken is None else taken.trial
        return None if number is None else replace(control, trial=number)

    def jobs(self) -> list[dict[str, Any]]:
        """What the workers do, as others may read it."""
        now = self.clock()
        return [
            {
                "strategy": job.strategy,
                "trial": job.trial,
                "stage": "full" if job.until is None else "rung" if job.until else "screen",
                "since": time.time() - (now - began),
            }
            for job, began in list(self.running.values())
        ]

    def _ending(self, deadline: float | None) -> str:
        """Why no more jobs are begun; empty where they are."""
        if self.claims.stop == "now":
            raise Stopped
        if self.claims.stop:
            return "stopped"
        return "time budget spent" if self._late(deadline) else ""

    def _limit(self, job: Job) -> float | None:
        """Seconds that a job may take: as told, else many times the longest of its kind, once there were some."""
        kind = self.durations.get(_share(job), [])
        if self.job_timeout is not None or len(kind) < ENOUGH:
            return self.job_timeout
        return max(SHORTEST_LIMIT, PATIENT * max(kind))

    def _sync(self) -> None:
        """Learns what other drivers have done, and takes over what dead ones have left."""
        if time.monotonic() - self._synced < SYNC:
            return
        leases = self.claims.news()
        self._held = {(lease.strategy, lease.plan_digest): lease for lease in leases}
        for control in list(self.controls):
            held = self._held.get(_identity(control))
            if held is not None and held.state != "running":
                self.controls.remove(control)
                entry = self.claims.entry(control.strategy, held.trial)
                if entry is not None:
                    self._tell_dense(entry)
        for lane in self.lanes.values():
            for entry in lane.sync([lease for lease in leases if lease.strategy == lane.name]):
                self.listen(entry, "")
        self._synced = time.monotonic()

    def _late(self, deadline: float | None) -> bool:
        """By the median of the longest kind of job, for nobody knows yet which kind comes next."""
        if deadline is None:
            return False
        expected = max((sorted(kind)[len(kind) // 2] for kind in self.durations.values()), default=0.0)
        return self.clock() + expected > deadline

    def _next(self) -> Job | None:
        if self.again:
            return self.again.popleft()
        for control in self.controls:
            claimed = self._claimed(control)
            if claimed is not None:
                self.controls.remove(control)
                return claimed
        for _ in range(len(self.turns)):
            name = self.turns.pop(0)
            self.turns.append(name)
            lane = self.lanes[name]
            job = lane.next()
            if lane.proposer.exhausted and lane.open <= 0 and not lane.given_up and name not in self.summary.exhausted:
                self.summary.exhausted.append(name)
            if job is not None:
                return job
        return None

    def _finish(self, job: Job, outcome: Entry | Report | Failure) -> None:
        seconds = self.clock() - self.running.pop((job.strategy, job.trial))[1]
        lane = self.lanes.get(job.strategy) if job.role == "candidate" else None
        if isinstance(outcome, Failure):
            # What a library says may hold what no database takes.
            said = "".join(sign if sign.isprintable() else " " for sign in outcome.reason)
            outcome = replace(outcome, reason=" ".join(said.split()))
            if outcome.lost and self.claims.lost(job.strategy, job.trial, outcome.reason) < MOST_LOST:
                self.again.append(job)
            else:
                self._failed(job, outcome, lane)
            return
        # The board comes before the trial is told: a crash in between is mended on the next start.
        if isinstance(outcome, Entry) and not self.claims.finish(outcome):
            if lane:
                lane.gone(job)
            line = f"{job.strategy} trial {job.trial}: another driver has taken it; this result does not count"
            self.listen(None, line)
            return
        if lane or job.origin:
            self.durations.setdefault(_share(job), []).append(seconds)
        if lane:
            self.failures_in_a_row[job.strategy] = 0
            if isinstance(outcome, Entry):
                lane.ended(job, outcome, seconds)
                self.summary.finished += 1
            else:
                lane.took(job, outcome, seconds)
                if lane.given_up:
                    self.summary.given_up[job.strategy] = lane.given_up
        if isinstance(outcome, Entry):
            if job.origin:
                self.summary.finished += 1
            self._tell_dense(outcome)
            self.listen(outcome, "")

    def _tell_dense(self, entry: Entry) -> None:
        for lane in self.lanes.values():
            _tell_dense(lane.proposer, entry)

    def _failed(self, job: Job, failure: Failure, lane: Lane | None) -> None:
        reason = f"given up after {MOST_LOST} tries: {failure.reason}" if failure.lost else failure.reason
        self.summary.failed.append((job.strategy, job.trial, reason))
        if lane:
            lane.failed(job, reason)
            self.failures_in_a_row[job.strategy] += 1
            if failure.bad_input or self.failures_in_a_row[job.strategy] >= GIVE_UP:
                lane.given_up = self.summary.given_up[job.strategy] = reason
        else:
            self.claims.drop(job.strategy, job.trial)
        line = f"{job.strategy} trial {job.trial} failed: {reason}"
        self.listen(None, f"{line}\n  plan: {json.dumps(dict(job.plan))}\n{failure.details}".rstrip())


class Stopped(KeyboardInterrupt):
    """Somebody has asked this driver to stop at once."""


def _identity(job: Job) -> tuple[str, str]:
    """What no two of a study share."""
    return job.strategy, Plan.from_json(job.plan).digest


def _share(job: Job) -> float:
    """Of the whole training, at whose end the job is paused."""
    return 1.0 if job.until is None else job.until / max(job.epochs, 1e-9)


def rewarded_widths(models: Sequence[CostModel]) -> frozenset[int]:
    """Integer widths of 2 to 8 bits that some target runs as they are; others would be searched for nothing."""
    formats = {bits: Format("int", bits) for bits in range(2, 9)}
    return frozenset(
        bits for bits, form in formats.items() if any(model.executed(form, form) == (form, form) for model in models)
    )


def settings_before(store: Store, study: str) -> Settings | None:
    """Under what the first strategy of a study was searched; None where there is no such study, or an older one."""
    with optuna_storage(store) as storage:
        names = sorted(name for name in optuna.get_all_study_names(storage) if name.rpartition("/")[0] == study)
        return kept_settings(storage, names[0]) if names else None


def asking_of(campaign: Campaign, models: Sequence[CostModel], trials: int) -> Asking:
    """Objectives, limits and sampler of a campaign.

    Raises `InputError` for what the targets cannot answer.
    """
    asked: list[Objective] = []
    for text in campaign.objectives:
        asked += parse_objective(text, models)
    limits: list[Limit] = []
    for text in campaign.limits:
        limits += parse_limit(text, models)
    objectives = tuple(dict.fromkeys(asked)) or default_objectives(models)
    check_sampler(campaign.sampler)
    sampler = campaign.sampler
    if sampler == "auto":
        sampler = choose_sampler(trials, len(objectives))
    screened = campaign.staging.screen
    return Asking(objectives, tuple(limits), screened, sampler, campaign.layout)


def _lanes(
    campaign: Campaign,
    evaluator: Evaluator,
    entries: Sequence[Entry],
    trials: int,
    widths: frozenset[int],
    storage: optuna.storages.BaseStorage,
    summary: Summary,
    claims: Claims,
    patience: Patience,
    say: Callable[[str], None],
) -> dict[str, Lane]:
    """A lane for every strategy that can work on this network; the others are given up with their reason."""
    asking = asking_of(campaign, list(evaluator.models.values()), trials)
    epochs = campaign.epochs, campaign.training_epochs
    lanes = {}
    for name in campaign.strategies:
        known = [entry for entry in entries if entry.strategy == name and entry.role == "candidate"]
        method = strategy(name)
        check_resumed(storage, campaign.name, name, campaign.subject, asking)
        try:
            proposer = Proposer(
                campaign.name,
                method,
                evaluator.dense,
                asking,
                trials,
                campaign.subject.seed,
                widths,
                storage,
                known,
                campaign.options_of(method),
                partial(_guide, evaluator, method, widths, say),
                claims=claims,
                patience=patience,
                say=say,
            )
        except InputError as error:
            summary.given_up[name] = str(error)
            continue
        for entry in entries:
            _tell_dense(proposer, entry)
        lanes[name] = Lane(name, proposer, evaluator, campaign.name, epochs, campaign.staging)
        keys = {model.name: model.key for model in evaluator.models.values()}
        with claims.once(name, "what it is measured on", say):
            hold_to_ground(storage, campaign.name, name, keys, evaluator.dense.digest)
        options = campaign.options_of(method)
        settings = Settings(campaign.subject, asking, campaign.staging, trials, epochs, widths, proposer.space, options)
        keep_settings(storage, campaign.name, name, settings)
    if not lanes:
        raise InputError(next(iter(summary.given_up.values())))
    return lanes


def _tell_dense(proposer: Proposer, entry: Entry) -> None:
    if entry.role == "control" and entry.strategy == DENSE:
        proposer.beside([objective.value(Known.of(entry)) for objective in proposer.asking.objectives])


def _guide(evaluator: Evaluator, method: Strategy, widths: frozenset[int], say: Callable[[str], None]) -> Guide | None:
    """What is known of a strategy's space before its first trial, by the first target whose latency counts."""
    models = list(evaluator.models.values())
    model = next((model for model in models if model.objective == "latency"), models[0])
    assert evaluator.frozen is not None
    frozen = evaluator.frozen[model.name]
    reference = Reference(evaluator.reference_network, frozen.latency, frozen.throughput)
    tenths = set[int]()

    def progress(done: int, steps: int) -> None:
        if 10 * done // steps not in tenths:
            tenths.add(10 * done // steps)
            say(f"{method.name}: which layers matter, {100 * done // steps} %")

    return make_guide(evaluator.dense, method, models, progress, widths=widths, reference=reference)


def control_jobs(study: str, evaluator: Evaluator) -> list[Job]:
    """The dense network in fp32 and in int8, as it is."""
    return [
        Job(
            study=study,
            strategy=name,
            trial=0,
            role="control",
            plan=strategy(name).plan(evaluator.dense, {}).to_json(),
            knobs={},
            epochs=0.0,
        )
        for name in CONTROLS
    ]


def freeze_references(evaluator: Evaluator, store: Store) -> None:
    """The reference's figures on every target: those on the board, else measured now and put there for good."""
    dense = evaluator.dense
    name, accuracy = dense.workload.name, dense.validation.primary
    keys = {target: model.key for target, model in evaluator.models.items()}
    on_board = {target: store.reference(name, key) for target, key in keys.items()}
    # A reference from before throughputs were frozen gets one now; its latency stands.
    known = {
        target: Frozen(found.latency, found.throughput)
        for target, found in on_board.items()
        if found is not None and (found.throughput is not None or not _freezes_throughput(evaluator.models[target]))
    }
    frozen = evaluator.freeze(known)
    for target, figures in frozen.items():
        if figures.latency is not None:
            ours = FrozenReference(figures.latency, accuracy, figures.throughput)
            standing = store.freeze_reference(name, keys[target], ours)
            frozen[target] = Frozen(standing.latency, standing.throughput)


def _freezes_throughput(model: CostModel) -> bool:
    return model.kind == "measured" and "throughput" in model.figures


def _check_resume(
    campaign: Campaign, evaluator: Evaluator, store: Store, entries: Sequence[Entry], resume: bool
) -> None:
    if not entries:
        return
    if not resume:
        raise InputError(
            f"study {campaign.name!r} exists in {store.name} with {len(entries)} entries; "
            "add --resume, or choose another --study"
        )
    first = entries[0]
    for cost in first.costs:
        here = evaluator.models.get(cost.target)
        if here is not None and here.key != cost.key:
            raise InputError(
                f"study {campaign.name!r} was measured as {cost.key}, this machine and its runtime are {here.key}; "
                "figures of both do not compare: resume it where it began, or choose another --study"
            )
    before = {
        "--workload": first.workload,
        "--seed": first.seed,
        "--target": ",".join(sorted(cost.target for cost in first.costs)),
    }
    now = {
        "--workload": campaign.subject.open().name,
        "--seed": campaign.subject.seed,
        "--target": ",".join(sorted(evaluator.models)),
        "--epochs": campaign.epochs,
        "--training-epochs": campaign.training_epochs,
    }
    for entry in entries:
        if entry.role == "candidate" and not entry.strategy.partition("+")[0].endswith("@scratch-b"):
            starts = strategy(entry.strategy).start
            before["--epochs" if starts == "trained" else "--training-epochs"] = entry.epochs
    for option, value in before.items():
        if value != now[option]:
            raise InputError(
                f"study {campaign.name!r} was searched with {option} {value}, not {now[option]}; "
                "resume it so, or choose another --study"
            )
