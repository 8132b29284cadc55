"""How a study stands: drivers and workers, rates, failures, the front, and the time that is left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna

from leaderboard import LeaderboardError, Query, StorageUnavailable, Store

from .drivers import LEASE, Driver, drivers_of
from .leases import Lease, leases_of
from .settings import kept_settings, searched_strategies

WINDOW = 600.0
"""Seconds over which the rate is taken."""
FAILURES = 5
"""Of the last failures so many are told."""


@dataclass(frozen=True)
class Progress:
    """One strategy of a study."""

    strategy: str
    wanted: int | None
    """Full evaluations that were asked for; None where its settings are not known, as those of finalists."""
    finished: int
    running: int
    """Candidates that a living driver holds."""
    waiting: int
    """Candidates on their way that nobody holds: paused, put down, or left by a driver that died."""
    let_go: Mapping[str, int]
    """Why candidates were let go before their full evaluation → how many."""
    failed: int
    lost: int
    """Workers and drivers that its candidates have lost, most of which were tried again."""


@dataclass(frozen=True)
class Best:
    """The front on one target."""

    target: str
    size: int
    speedup: float | None
    """Of the fastest network that loses at most one point."""


@dataclass(frozen=True)
class Status:
    """A study at one moment."""

    study: str
    strategies: Sequence[Progress]
    drivers: Sequence[Driver]
    """Those that are alive, as far as can be told."""
    rate: float | None
    """Full evaluations a second, of late; None where there were none."""
    left: float | None
    """Seconds until all that were asked for are there, at that rate."""
    failures: Sequence[Lease]
    """The last ones."""
    fronts: Sequence[Best]

    @property
    def done(self) -> bool:
        """Whether all evaluations that were asked for are there."""
        return all(one.wanted is not None and one.finished >= one.wanted for one in self.strategies)


def seems_alive(driver: Driver) -> bool:
    """As far as an onlooker can tell, who has the driver's word and the own clock."""
    return driver.ended is None and not driver.gone and time.time() - driver.beat < LEASE


def studies(store: Store, storage: optuna.storages.BaseStorage) -> list[str]:
    """Names of all studies that are searched in a storage, and of those of finalists that are at work, sorted."""
    return sorted(_searched(storage) | {driver.study for driver in drivers_of(store) if seems_alive(driver)})


def status(store: Store, storage: optuna.storages.BaseStorage, study: str) -> Status:
    """How a study stands, searched or of finalists; raises `InputError` where there is none of that name."""
    drivers = [driver for driver in drivers_of(store, study) if seems_alive(driver)]
    alive = {driver.id for driver in drivers}
    rows = [lease for lease in leases_of(store, study) if lease.trial >= 0]
    # Finalists are not searched for, so only their leases tell of them.
    of_finalists = rows and study not in _searched(storage)
    searched = sorted({row.strategy for row in rows}) if of_finalists else searched_strategies(storage, study)
    progress = []
    for strategy in searched:
        own = [lease for lease in rows if lease.strategy == strategy]
        settings = None if of_finalists else kept_settings(storage, f"{study}/{strategy}")
        on_way = [lease for lease in own if lease.state == "running"]
        held = sum(lease.owner in alive for lease in on_way)
        progress.append(
            Progress(
                strategy,
                settings.trials if settings else None,
                sum(lease.state == "done" for lease in own),
                held,
                len(on_way) - held,
                dict(Counter(lease.reason for lease in own if lease.state == "rejected")),
                sum(lease.state == "failed" for lease in own),
                sum(lease.lost for lease in own),
            )
        )
    rate = _rate([lease.since for lease in rows if lease.state == "done" and lease.strategy in searched])
    missing = sum(max(0, one.wanted - one.finished) for one in progress if one.wanted is not None)
    left = missing / rate if rate else (0.0 if missing == 0 else None)
    failures = sorted((lease for lease in rows if lease.state == "failed"), key=lambda lease: -lease.since)
    return Status(study, progress, drivers, rate, left, failures[:FAILURES], _fronts(store, study))


def _searched(storage: optuna.storages.BaseStorage) -> set[str]:
    return {name.rpartition("/")[0] for name in optuna.get_all_study_names(storage)} - {""}


def _rate(ended: Sequence[float]) -> float | None:
    """Of evaluations that ended at these times, Unix seconds; those long before the last do not count."""
    now = time.time()
    late = [at for at in ended if now - at <= WINDOW]
    if not late:
        return None
    return len(late) / max(now - min(late), 1.0) if len(late) == len(ended) else len(late) / WINDOW


def _fronts(store: Store, study: str) -> list[Best]:
    found = []
    try:
        tracks = store.query(Query(study=study, pareto=True)).tracks
    except StorageUnavailable:
        raise
    except LeaderboardError:  # no entry of this study is on the board yet
        return []
    for track in tracks:
        rows = [row for row in track.rows if row.speedup is not None]
        good = [row.speedup for row in rows if row.speedup is not None and row.drop <= 1.0]
        if rows:
            found.append(Best(track.key, len(rows), max(good, default=None)))
    return found
