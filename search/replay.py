"""Replays a recorded study on a simulated clock: samplers and worker counts side by side, over many seeds, in seconds.

The campaign's own loop, lanes and proposers run as they do in a search; what is simulated is the work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import ArrayLike
from scipy.stats import t as student

from leaderboard import Entry, Store
from strategies import strategy
from workloads import InputError

from .blackbox import Blackbox
from .bridge import Proposer, kept_guide
from .campaign import Loop
from .campaign import Summary as Ended
from .evaluation import Evaluator
from .gain import Gain, gain_of
from .guide import Guide
from .lane import Lane, Staging
from .leases import Claims
from .log import Record, records
from .objectives import Known, ranking_accuracy, values
from .settings import Settings, settings_of
from .simulated import SimulatedExecutor
from .surrogate import Surrogate
from .table import Table


@dataclass(frozen=True)
class Setup:
    """One of the ways that are compared."""

    sampler: str
    workers: int


@dataclass(frozen=True)
class Recorded:
    """One strategy's study, open for replays."""

    study: str
    strategy: str
    settings: Settings
    table: Table
    gain: Gain
    guide: Guide | None
    """What the search knew before its first trial."""
    dense: tuple[float, ...] | None
    """Accuracy and objectives of the dense network; None where the study has not evaluated it."""

    @classmethod
    def read(cls, store: Store, storage: optuna.storages.BaseStorage, study: str, strategy: str) -> Recorded:
        """Raises `InputError` where there is no such study, or nothing in it."""
        settings = settings_of(storage, study, strategy)
        entries = list(store.entries(study=study))
        own = [entry for entry in entries if entry.strategy == strategy and entry.role == "candidate"]
        if not own:
            raise InputError(f"study {study!r} has no full evaluation of {strategy!r} yet")
        objectives = settings.asking.objectives
        table = Table(records(storage, study, strategy), own, objectives, settings.staging.rungs)
        dense = next((values(Known.of(entry), objectives) for entry in entries if entry.strategy == "dense"), None)
        guide = kept_guide(optuna.load_study(study_name=f"{study}/{strategy}", storage=storage))
        return cls(study, strategy, settings, table, gain_of(entries, objectives), guide, dense)

    def retraces(self, setup: Setup, trials: int, staging: Staging) -> bool:
        """Whether the study's own seed, so replayed, is the search over again (where that was never interrupted)."""
        own = Setup(self.settings.asking.sampler, 1), self.settings.trials, self.settings.staging
        return (setup, trials, staging) == own


@dataclass(frozen=True)
class Run:
    """One simulated campaign."""

    setup: Setup
    seed: int
    seconds: np.ndarray
    """Simulated, at the end of every full evaluation, shape (n,), ascending."""
    hypervolume: np.ndarray
    """Of all until then, shape (n,)."""
    makespan: float
    """Simulated seconds of the whole campaign."""
    writes: int
    """To the storage and the board."""
    let_go: dict[str, int]
    """Why candidates were let go → how many."""
    log: list[Record]
    """Of all candidates, as a search would have kept it."""
    wall: float
    """Seconds that the simulation itself took."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "sampler": self.setup.sampler,
            "workers": self.setup.workers,
            "seed": self.seed,
            "curve": {"seconds": self.seconds.tolist(), "hypervolume": self.hypervolume.tolist()},
            "makespan": self.makespan,
            "writes": self.writes,
            "candidates": len(self.log),
            "let_go": self.let_go,
            "wall": self.wall,
        }


def simulate(
    recorded: Recorded,
    surrogate: Surrogate,
    evaluator: Evaluator,
    setup: Setup,
    *,
    trials: int,
    seed: int,
    staging: Staging,
) -> Run:
    """One campaign of `trials` full evaluations; `evaluator` gives the dense network and needs no target."""
    started = time.perf_counter()
    settings, storage = recorded.settings, CountedStorage()
    executor = SimulatedExecutor(Blackbox(recorded.table, surrogate), setup.workers)
    board = _Found(executor)
    claims = Claims(board)
    # A name of its own: what a real candidate of the study has paused on disk is none of a replay's.
    name = f"replay of {recorded.study}"
    proposer = Proposer(
        name,
        strategy(recorded.strategy),
        evaluator.dense,
        replace(settings.asking, sampler=setup.sampler, screened=staging.screen),
        trials,
        seed,
        settings.widths,
        storage,
        options=settings.options,
        guide=lambda: recorded.guide,
        claims=claims,
    )
    if recorded.dense is not None:
        proposer.beside(recorded.dense[1:])
    lane = Lane(recorded.strategy, proposer, evaluator, name, settings.epochs, staging)
    Loop(claims, executor, {lane.name: lane}, [], Ended(), _quiet, executor.now).run(None)
    gains = [recorded.gain.of(entry) for entry in board.entries]
    return Run(
        setup,
        seed,
        np.array(board.seconds),
        curve(recorded.gain, gains, [ranking_accuracy(entry) for entry in board.entries]),
        executor.now(),
        storage.writes + len(board.entries),
        lane.let_go,
        records(storage, name, recorded.strategy),
        time.perf_counter() - started,
    )


def after(run: Run, evaluations: int) -> float:
    """Hypervolume after so many full evaluations, or after the last where there were fewer."""
    return float(run.hypervolume[min(evaluations, len(run.hypervolume)) - 1])


def at(run: Run, seconds: float) -> float:
    """Hypervolume at a simulated time: that of the last full evaluation until then."""
    ended = int(np.searchsorted(run.seconds, seconds, side="right"))
    return float(run.hypervolume[ended - 1]) if ended else 0.0


@dataclass(frozen=True)
class Mean:
    """Over seeds."""

    mean: float
    half_width: float | None
    """Of the 95 % interval by Student's t; None where there is one seed."""

    @classmethod
    def of(cls, values: ArrayLike) -> Mean:
        """Of values of shape (seeds,)."""
        x = np.asarray(values, dtype=float)
        if len(x) < 2:
            return cls(float(x.mean()), None)
        return cls(float(x.mean()), float(student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))))


@dataclass(frozen=True)
class Summary:
    """One setup over all seeds."""

    setup: Setup
    after: dict[int, Mean]
    """Full evaluations → hypervolume."""
    at: dict[float, Mean]
    """Simulated seconds → hypervolume."""
    makespan: Mean
    """Simulated seconds."""
    candidates: Mean
    """That were begun."""
    writes: Mean
    """To storage and board, a simulated second."""
    speed: float
    """Candidates that were simulated in a second of the real time, the sampler's thinking included."""


def summaries(runs: Sequence[Run]) -> list[Summary]:
    """One for every setup, in the order of the runs, all at the same evaluations and the same times."""
    longest = max(len(run.seconds) for run in runs)
    evaluations = [round(n) for n in one_two_five(1, longest)]
    evaluations += [longest] if longest not in evaluations else []
    times = one_two_five(max(1e-3, min(run.seconds[0] for run in runs)), max(run.makespan for run in runs))
    found = []
    for setup in dict.fromkeys(run.setup for run in runs):
        own = [run for run in runs if run.setup == setup]
        found.append(
            Summary(
                setup,
                {n: Mean.of([after(run, n) for run in own]) for n in evaluations},
                {seconds: Mean.of([at(run, seconds) for run in own]) for seconds in times},
                Mean.of([run.makespan for run in own]),
                Mean.of([len(run.log) for run in own]),
                Mean.of([run.writes / max(run.makespan, 1e-9) for run in own]),
                sum(len(run.log) for run in own) / sum(run.wall for run in own),
            )
        )
    return found


def one_two_five(low: float, high: float) -> list[float]:
    """…, 1, 2, 5, 10, 20, … from `low` to `high`, both included where they are such numbers."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    series = [float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5)]
    return [value for value in series if low <= value <= high]


class CountedStorage(optuna.storages.InMemoryStorage):
    """Counts what a database would have to write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def create_new_trial(self, study_id: int, template_trial: optuna.trial.FrozenTrial | None = None) -> int:
        self.writes += 1
        return super().create_new_trial(study_id, template_trial)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self.writes += 1
        super().set_study_user_attr(study_id, key, value)


class _Found:
    """Takes the place of the board: remembers when which entry came."""

    def __init__(self, executor: SimulatedExecutor) -> None:
        self._executor = executor
        self.entries: list[Entry] = []
        self.seconds: list[float] = []

    def add(self, entry: Entry) -> bool:
        self.entries.append(entry)
        self.seconds.append(self._executor.now())
        return True


def _quiet(entry: Entry | None, line: str) -> None:
    """Nobody listens to a simulation."""


def curve(gain: Gain, gains: Sequence[float | None], accuracies: Sequence[float]) -> np.ndarray:
    """Hypervolume of the first 1, 2, … networks; one whose gain is not known adds nothing."""
    found, values = list[tuple[float, float]](), [0.0]
    for told, accuracy in zip(gains, accuracies, strict=True):
        beaten = told is None or any(g >= told and a >= accuracy for g, a in found)
        if told is not None and not beaten:
            found = [(g, a) for g, a in found if g > told or a > accuracy] + [(told, accuracy)]
        values.append(values[-1] if beaten else gain.hypervolume(*zip(*found, strict=True)))
    return np.array(values[1:])
