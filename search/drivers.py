"""Drivers of a study: who works on it, from where, and who of them still lives.

A driver is a process that runs `shrinkboard search`. It keeps one row in the storage and renews it while it lives; all
that it holds (`leases.py`) is its own for so long. Clocks of several machines are never compared: a driver counts as
dead when another has watched its row stand still for `LEASE` seconds, with the storage reachable all the while, or sees
that the process is gone from its own machine.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from leaderboard import LeaderboardError, Store

from .processes import is_alive, machine, this_process

BEAT = 5.0
"""Seconds between two renewals of a driver's row."""
LEASE = 60.0
"""Seconds without a renewal after which what a driver held is given to others."""
Stop = Literal["", "soon", "now"]

metadata = sa.MetaData()
drivers = sa.Table(
    "sb_drivers",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("study", sa.String(200), nullable=False, index=True),
    sa.Column("machine", sa.String(16), nullable=False),
    sa.Column("process", sa.String(40), nullable=False),
    sa.Column("executor", sa.String(20), nullable=False),
    sa.Column("workers", sa.Integer, nullable=False),
    sa.Column("began", sa.Double, nullable=False),
    sa.Column("beat", sa.Double, nullable=False),
    sa.Column("ended", sa.Double),
    sa.Column("stop", sa.String(8), nullable=False),
    sa.Column("jobs", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class Driver:
    """One row."""

    id: str
    study: str
    machine: str
    """As `processes.machine` says it."""
    process: str
    executor: str
    workers: int
    """Jobs that it runs at the same time."""
    began: float
    beat: float
    """Unix seconds by the driver's own clock: when it began, and when it last said that it lives."""
    ended: float | None
    """None where it has not said good-bye."""
    stop: Stop
    """Whether it has been asked to stop: `soon`, when its jobs have ended, or `now`."""
    jobs: Sequence[Mapping[str, Any]]
    """What its workers did when it last said so: strategy, trial, stage, and since when (Unix seconds)."""

    @property
    def gone(self) -> bool:
        """Whether its process is known to be gone; only its own machine can know."""
        return self.machine == machine() and not is_alive(self.process)


def drivers_of(store: Store, study: str | None = None) -> list[Driver]:
    """Drivers of a study, or of all in a storage, the oldest first; empty where nobody has searched with leases yet."""
    with store.transaction() as connection:
        if not sa.inspect(connection).has_table(drivers.name):
            return []
        query = sa.select(drivers).order_by(drivers.c.began)
        rows = connection.execute(query if study is None else query.where(drivers.c.study == study)).all()
    return [Driver(**dict(row._mapping) | {"jobs": json.loads(row.jobs)}) for row in rows]


def ask_to_stop(store: Store, study: str, how: Stop) -> int:
    """Asks all drivers of a study that have not ended; how many there are."""
    living = [driver for driver in drivers_of(store, study) if driver.ended is None and not driver.gone]
    with store.transaction(write=True) as connection:
        for driver in living:
            connection.execute(sa.update(drivers).where(drivers.c.id == driver.id).values(stop=how))
    return len(living)


class Presence:
    """This driver's row, renewed by a thread of its own until `leave`."""

    def __init__(self, store: Store, study: str, executor: str, workers: int) -> None:
        self._store, self._study = store, study
        self.id = secrets.token_hex(8)
        self.jobs: Callable[[], Sequence[Mapping[str, Any]]] = list
        """Says what the workers do; called by the thread."""
        self.stop: Stop = ""
        """What this driver has been asked to do."""
        self._watched: dict[str, tuple[float, float]] = {}
        """Other driver → its last beat, and when it was first seen here."""
        self._lock = threading.Lock()
        store.make_tables(metadata)
        now = time.time()
        with store.transaction(write=True) as connection:
            connection.execute(
                sa.insert(drivers).values(
                    id=self.id,
                    study=study,
                    machine=machine(),
                    process=this_process(),
                    executor=executor,
                    workers=workers,
                    began=now,
                    beat=now,
                    stop="",
                    jobs="[]",
                )
            )
        self.others: list[Driver] = []
        """Those that have not ended, and are not known to be dead."""
        self._dead: frozenset[str] = frozenset()
        self._watch()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._live, name="shrinkboard-presence", daemon=True)
        self._thread.start()

    def is_dead(self, owner: str) -> bool:
        """Whether what a driver holds may be taken from it."""
        return owner in self._dead

    def leave(self) -> None:
        """Ends the thread and says good-bye; where the storage is away nobody hears it, and the row runs out."""
        self._left.set()
        self._thread.join()
        with contextlib.suppress(LeaderboardError), self._store.transaction(write=True) as connection:
            connection.execute(
                sa.update(drivers).where(drivers.c.id == self.id).values(ended=time.time(), beat=time.time(), jobs="[]")
            )

    def look(self) -> None:
        """Renews the row and looks at the others now."""
        with self._lock:
            with self._store.transaction(write=True) as connection:
                here = drivers.c.id == self.id
                values = {"beat": time.time(), "jobs": json.dumps(self.jobs())}
                connection.execute(sa.update(drivers).where(here).values(values))
                self.stop = connection.execute(sa.select(drivers.c.stop).where(here)).scalar_one()
            self._watch()

    def _live(self) -> None:
        while not self._left.wait(BEAT):
            try:
                self.look()
            except LeaderboardError:
                # Others could not be heard either: whoever lives gets its whole time once the storage is back.
                self._watched.clear()

    def _watch(self) -> None:
        now, living, dead = time.monotonic(), list[Driver](), set[str]()
        for driver in drivers_of(self._store, self._study):
            if driver.id == self.id:
                continue
            beat, since = self._watched.get(driver.id, (driver.beat, now))
            if beat != driver.beat:
                since = now
            self._watched[driver.id] = driver.beat, since
            if driver.ended is not None or driver.gone or now - since > LEASE:
                dead.add(driver.id)
            else:
                living.append(driver)
        self.others, self._dead = living, frozenset(dead)
