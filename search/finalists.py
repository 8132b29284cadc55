"""Finalists: the validation front of every strategy, trained again on fresh seeds and tested once.

The search has chosen these networks by the validation split and by the luck of one training. So each is trained again,
on seeds that no search has seen, from dense networks of those seeds, and only then the test split is read. Every
strategy's finalists of one search share the seeds: what differs between two strategies is not the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean

import numpy as np

from leaderboard import CAP, Benchmark, Entry, Origin, Store, TargetCost, current_benchmark, front, hypervolume
from strategies import Plan, strategy
from workloads import InputError

from .campaign import DENSE, Listener, Loop, Stopped, Summary, control_jobs, freeze_references, present
from .evaluation import Evaluator, Job
from .executors import Executor, InProcess
from .leases import Leases
from .patience import Patience
from .settings import Settings, searched_strategies, settings_of
from .storage import optuna_storage
from .workers import Workers, start

POINTS = 8
"""Finalists of a strategy, search and target at most."""
NEAR = 0.01
"""Loss of accuracy up to which a network counts as as good as the dense one: of these the fastest gets controls."""
SCRATCH = ("scratch-e", "scratch-b")
"""Controls that train the same structure from fresh weights: for as many epochs, or as many operations."""


@dataclass(frozen=True)
class SearchedStudy:
    """A study to take finalists from."""

    name: str
    settings: Settings
    entries: Sequence[Entry]

    @property
    def seed(self) -> int:
        return self.settings.subject.seed

    def fresh(self, count: int) -> list[int]:
        """Seeds that its finalists are trained on: of no search of a seed below 1000, and of no other's finalists."""
        return [1000 * (self.seed + 1) + i for i in range(count)]


@dataclass(frozen=True)
class Finals:
    """What is asked for."""

    seeds: int = 5
    """Fresh seeds for every search."""
    points: int = POINTS
    scratch: bool = True
    """Whether one network of every strategy is trained from scratch beside it."""
    targets: tuple[str, ...] = ()
    """As the command takes them; none: those that the searches were scored on, by name."""


def run_finalists(
    studies: Sequence[SearchedStudy],
    finals: Finals,
    store: Store,
    *,
    workers: Workers | None = None,
    deadline: float | None = None,
    listen: Listener = lambda entry, line: None,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Trains and tests the finalists of `studies` that are not on the board yet; those that are stay as they are.

    Dense networks come first: their mean test accuracy, with the latency frozen by the searches, becomes the benchmark
    of every target that has none. After `deadline`, in seconds of `time.monotonic`, nothing is begun. Several processes
    may do this at once. Ctrl-C ends it like a spent budget. Raises `InputError` where studies do not belong together.
    """
    check_together(studies)
    summary, asked = Summary(), workers or Workers()
    groups = [(study, seed) for study in studies for seed in study.fresh(finals.seeds)]
    try:
        for study, seed in groups:
            evaluator = _evaluator(study, seed, finals)
            say(f"dense network of seed {seed}")
            freeze_references(evaluator, store)
            jobs = [replace(job, final=True) for job in control_jobs(final_study(study.name, seed), evaluator)]
            _run(jobs, lambda of: InProcess(of), evaluator, store, Workers(), summary, deadline, listen, say)
            if summary.ended != "all trials done":
                return summary
        freeze_benchmarks(studies, finals, store, say)
        for study, seed in groups:
            evaluator = _evaluator(study, seed, finals)
            freeze_references(evaluator, store)
            jobs = list(_jobs(study, seed, finals, evaluator))
            say(f"{len(jobs)} finalists and controls of {study.name} on seed {seed}")
            begin = partial(start, asked, targets=finals.targets or targets_of(study), may_end=False)
            _run(jobs, begin, evaluator, store, asked, summary, deadline, listen, say)
            if summary.ended != "all trials done":
                return summary
    except KeyboardInterrupt:
        summary.ended = "interrupted"
    return summary


def _evaluator(study: SearchedStudy, seed: int, finals: Finals) -> Evaluator:
    return Evaluator(replace(study.settings.subject, seed=seed), finals.targets or targets_of(study))


def final_study(study: str, seed: int) -> str:
    """Name of the study that the finalists of one search on one fresh seed stand in."""
    return f"{study}@{seed}"


def read_studies(store: Store, names: Sequence[str]) -> list[SearchedStudy]:
    """Studies with their settings and entries; raises `InputError` where one is unknown or has no candidate yet."""
    found = []
    with optuna_storage(store) as storage:
        for name in names:
            first, *_ = searched_strategies(storage, name)
            entries = list(store.entries(study=name))
            if not any(entry.role == "candidate" for entry in entries):
                raise InputError(f"study {name!r} has no finished trial to choose finalists from; search it first")
            found.append(SearchedStudy(name, settings_of(storage, name, first), entries))
    return found


def check_together(studies: Sequence[SearchedStudy]) -> None:
    """Raises `InputError` where studies are not searches of one thing by different seeds."""
    seeds = [study.seed for study in studies]
    if len(set(seeds)) < len(seeds):
        told = ", ".join(f"{study.name} of seed {study.seed}" for study in studies)
        raise InputError(f"studies {told}: each needs a seed of its own, for a seed is what is replicated")
    first = studies[0]
    for other in studies[1:]:
        for what, of in (
            ("workload", lambda study: replace(study.settings.subject, seed=0)),
            ("epochs", lambda study: study.settings.epochs),
            ("targets", targets_of),
        ):
            if of(first) != of(other):
                raise InputError(
                    f"studies {first.name} and {other.name} differ in their {what}: {of(first)} and {of(other)}; "
                    "give them to this command one by one"
                )


def targets_of(study: SearchedStudy) -> tuple[str, ...]:
    """Names of the targets that a study was scored on."""
    return tuple(cost.target for cost in study.entries[0].costs)


def chosen(entries: Sequence[Entry], points: int = POINTS) -> list[tuple[Entry, tuple[str, ...]]]:
    """Of every strategy the candidates to train again, each with the target keys that it was chosen for.

    Those are points of the strategy's validation front on that target, as many as may stand, so that together they
    cover the most hypervolume. Where no point is faster than the dense network within ten points of its accuracy, the
    most accurate one goes, for a strategy that gains nothing is ranked too.
    """
    keys: dict[str, list[str]] = {}
    by_id = {entry.id: entry for entry in entries if entry.role == "candidate"}
    for name in dict.fromkeys(entry.strategy for entry in by_id.values()):
        own = [entry for entry in by_id.values() if entry.strategy == name]
        for key in dict.fromkeys(cost.key for entry in own for cost in entry.costs):
            for entry in _front(own, key, points):
                keys.setdefault(entry.id, []).append(key)
    return [(by_id[id], tuple(found)) for id, found in keys.items()]


def _front(entries: Sequence[Entry], key: str, points: int) -> list[Entry]:
    scored: list[tuple[Entry, float, float]] = []
    cap = 0.0
    for entry in entries:
        for cost in entry.costs:
            gain = _gain(entry, cost) if cost.key == key else None
            if gain is not None:
                scored.append((entry, gain, entry.validation_accuracy(cost)))
                cap = CAP["parameters" if cost.value("latency") is None else cost.kind]
    if not scored:
        return []
    gains, accuracies = np.array([gain for _, gain, _ in scored]), np.array([a for _, _, a in scored])
    dense = mean(entry.accuracy.dense_validation for entry, _, _ in scored)
    left, taken = [int(i) for i in front(gains, accuracies)], list[int]()

    def together(more: int) -> float:
        some = [*taken, more]
        return hypervolume(gains[some], accuracies[some], dense, cap)

    covered = 0.0
    while left and len(taken) < points:
        best = max(left, key=together)
        if together(best) <= covered:
            break
        covered = together(best)
        taken.append(best)
        left.remove(best)
    return [scored[i][0] for i in taken or [int(accuracies.argmax())]]


def _gain(entry: Entry, cost: TargetCost) -> float | None:
    """Speed-up; on a target without latency, how many times fewer the parameters are."""
    if cost.speedup is not None and cost.speedup.value is not None:
        return cost.speedup.value
    return entry.dense_parameters / entry.parameters if "latency" not in cost.figures and entry.parameters else None


def _jobs(study: SearchedStudy, seed: int, finals: Finals, evaluator: Evaluator) -> Iterator[Job]:
    """Finalists, then the controls from scratch."""
    picked = chosen(study.entries, finals.points)
    for entry, keys in picked:
        yield _job(study, seed, entry, entry.strategy, "finalist", keys, evaluator)
    if not finals.scratch:
        return
    for name in dict.fromkeys(entry.strategy for entry, _ in picked):
        own = [entry for entry, _ in picked if entry.strategy == name]
        entry = representative(own)
        pruner, plus, formats = name.partition("+")
        method = strategy(pruner)
        if method.stage != "structure" or method.start == "initial" or "@" in pruner or pruner == DENSE:
            continue  # nothing was trained before that a fresh start could be compared with
        if method.stages(Plan.from_json(entry.plan), 1000):
            continue  # no one structure that could be trained from the start
        for control in SCRATCH:
            yield _job(study, seed, entry, f"{pruner}@{control}{plus}{formats}", "control", (), evaluator)


def representative(entries: Sequence[Entry]) -> Entry:
    """The fastest on its first target of those that lose at most a point on validation; where none is, the best."""
    lost = {entry.id: entry.accuracy.dense_validation - entry.validation_accuracy(entry.costs[0]) for entry in entries}
    near = [entry for entry in entries if lost[entry.id] <= NEAR + 1e-12]
    if near:
        return max(near, key=lambda entry: _gain(entry, entry.costs[0]) or 0.0)
    return min(entries, key=lambda entry: lost[entry.id])


def _job(
    study: SearchedStudy, seed: int, entry: Entry, name: str, role: str, keys: tuple[str, ...], evaluator: Evaluator
) -> Job:
    plan = Plan.from_json(entry.plan)
    plan = plan.model_copy(update={"strategy": name, "notes": {}} if name != entry.strategy else {})
    return Job(
        study=final_study(study.name, seed),
        strategy=name,
        trial=0,
        role=role,
        plan=plan.to_json(),
        knobs=dict(entry.knobs),
        epochs=strategy(name).epochs(evaluator.dense, plan, *study.settings.epochs),
        final=True,
        origin=Origin(entry=entry.id, study=study.name, trial=entry.trial, seed=study.seed, targets=keys),
    )


def _missing(jobs: Sequence[Job], store: Store) -> list[Job]:
    """Those without an entry."""
    there = {(entry.strategy, entry.plan_digest) for entry in store.entries(study=jobs[0].study)} if jobs else set()
    return [job for job in jobs if (job.strategy, Plan.from_json(job.plan).digest) not in there]


def _run(
    jobs: Sequence[Job],
    begin: Callable[[Evaluator], Executor],
    evaluator: Evaluator,
    store: Store,
    workers: Workers,
    summary: Summary,
    deadline: float | None,
    listen: Listener,
    say: Callable[[str], None],
) -> None:
    """Runs what is missing of one study of finalists, beside other drivers that may do the same."""
    if not _missing(jobs, store):
        return
    with present(jobs[0].study, store, workers, resume=True) as presence:
        claims = Leases(store, jobs[0].study, presence, Patience(say))
        claims.save_late()
        executor = begin(evaluator)
        loop = Loop(claims, executor, {}, _missing(jobs, store), summary, listen, say=say)
        presence.jobs = loop.jobs
        try:
            loop.run(deadline)
        except Stopped:
            summary.ended = "stopped"
        finally:
            executor.close()
            claims.leave([])


def freeze_benchmarks(
    studies: Sequence[SearchedStudy], finals: Finals, store: Store, say: Callable[[str], None]
) -> list[Benchmark]:
    """The benchmark of every target that the studies were scored on: those that stand, else frozen now."""
    groups = [(study, seed) for study in studies for seed in study.fresh(finals.seeds)]
    dense = [
        entry
        for study, seed in groups
        for entry in store.entries(study=final_study(study.name, seed))
        if entry.strategy == DENSE
    ]
    settings, found = studies[0].settings, []
    for cost in dense[0].costs:
        standing = current_benchmark(store, dense[0].workload, cost.key)
        if standing is not None:
            found.append(standing)
            continue
        reference = store.reference(dense[0].workload, cost.key)
        track = "parameters" if reference is None else cost.kind
        accuracies = [entry.ranking_accuracy(own) for entry in dense for own in entry.costs if own.key == cost.key]
        made = Benchmark.create(
            name=f"{dense[0].workload}-{cost.key}".replace("/", "-").replace("@", "-"),
            version=1,
            workload=dense[0].workload,
            target=cost.target,
            key=cost.key,
            track=track,
            reference_latency=None if reference is None else reference.latency,
            dense_accuracy=mean(accuracies),
            dense_seeds=[entry.seed for entry in dense],
            cap=CAP[track],
            points=finals.points,
            trials=settings.trials,
            epochs=float(settings.epochs[0]),
            training_epochs=float(settings.epochs[1]),
            search_seeds=sorted(study.seed for study in studies),
            final_seeds=finals.seeds,
        )
        found.append(store.freeze_benchmark(made))
        say(f"benchmark {made.id} is frozen: dense accuracy {100 * made.dense_accuracy:.2f} % on test")
    return found
