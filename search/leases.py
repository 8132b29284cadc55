"""Who works on which candidate: claims that hold between drivers, and results that come to the board exactly once.

Every candidate has one row: its number, its plan, who holds it, and what became of it. All that must not happen twice
happens in one transaction with that row: a plan is claimed by one driver, a full evaluation is begun only where it is
among those that were asked for, and an entry comes to the board only while its lease is still held.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from leaderboard import Entry, LeaderboardError, Store

from .boards import note_board
from .drivers import Presence, Stop
from .patience import Patience
from .unsaved import forget_unsaved, keep_unsaved, unsaved

State = Literal["running", "done", "rejected", "failed"]
"""On its way (also where it waits for more training, or for a driver); evaluated in full; let go; given up."""

MOST_LOST = 3
"""A candidate that has lost so many workers or drivers is given up."""
_LOCK = 0x5B0A2D
_WAIT = 0.5
_ONCE = -1
"""Number of the row that stands for work that is done once for all drivers."""

metadata = sa.MetaData()
leases = sa.Table(
    "sb_leases",
    metadata,
    sa.Column("study", sa.String(200), primary_key=True),
    sa.Column("strategy", sa.String(200), primary_key=True),
    sa.Column("trial", sa.BigInteger, primary_key=True),
    sa.Column("plan_digest", sa.String(200), nullable=False),
    sa.Column("knobs", sa.Text, nullable=False),
    sa.Column("owner", sa.String(16)),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("full", sa.Boolean, nullable=False),
    sa.Column("lost", sa.Integer, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.UniqueConstraint("study", "strategy", "plan_digest", name="sb_leases_plan"),
)


@dataclass(frozen=True)
class Lease:
    """One row."""

    strategy: str
    trial: int
    plan_digest: str
    knobs: Mapping[str, int]
    owner: str | None
    """The driver that holds it, or held it last; None where it was put down."""
    state: State
    full: bool
    """Whether it is being evaluated in full, or was."""
    lost: int
    """Workers and drivers that it has lost."""
    since: float
    """Unix seconds of its last change."""
    reason: str
    """Why it was rejected, failed or lost last."""


def leases_of(store: Store, study: str) -> list[Lease]:
    """All candidates of a study by strategy and number; empty where nobody has searched with leases yet."""
    with store.transaction() as connection:
        if not sa.inspect(connection).has_table(leases.name):
            return []
        return _rows(connection, leases.c.study == study)


def open_candidates(store: Store) -> set[tuple[str, str, str]]:
    """Study, strategy and number of all candidates that have not ended; empty where nobody has searched with leases."""
    with store.transaction() as connection:
        if not sa.inspect(connection).has_table(leases.name):
            return set()
        c = leases.c
        rows = connection.execute(sa.select(c.study, c.strategy, c.trial).where(c.state == "running"))
        return {(row.study, row.strategy, str(row.trial)) for row in rows}


class Board(Protocol):
    """Where entries go when they are found."""

    def add(self, entry: Entry) -> bool: ...


class Claims:
    """What a driver may do without getting in another's way; this one has nobody beside it, as in a simulation.

    Used by one thread.
    """

    rank = 0
    """How many other drivers were at work when this one began: their samplers must not draw alike."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._lost: dict[tuple[str, int], int] = {}
        self._last: dict[str, int] = {}

    @property
    def stop(self) -> Stop:
        """What somebody has asked for."""
        return ""

    def claim(self, strategy: str, plan_digest: str, knobs: Mapping[str, int], above: int) -> int | None:
        """A number for a new candidate, larger than `above`; None where somebody has, or had, the same plan."""
        self._last[strategy] = max(self._last.get(strategy, -1), above) + 1
        return self._last[strategy]

    def slot(self, strategy: str, trial: int, wanted: int) -> bool:
        """Whether the candidate may be evaluated in full: among all drivers no more than `wanted` are."""
        return True

    def finish(self, entry: Entry) -> bool:
        """Puts the entry of a candidate that is held on the board; False where it is no longer held."""
        self._board.add(entry)
        return True

    def end(self, strategy: str, trial: int, state: State, reason: str) -> bool:
        """Takes note of a candidate that comes to no entry; False where it is no longer held."""
        return True

    def lost(self, strategy: str, trial: int, reason: str) -> int:
        """Takes note that a candidate's worker was lost; how many it has lost by now, drivers counted."""
        self._lost[strategy, trial] = self._lost.get((strategy, trial), 0) + 1
        return self._lost[strategy, trial]

    def drop(self, strategy: str, trial: int) -> None:
        """Forgets a candidate that is held, as if it had never been claimed."""
        return None

    def adopt(self, strategy: str, candidates: Sequence[tuple[int, str, Mapping[str, int], State]]) -> None:
        """Takes note of candidates (number, digest, knobs, state) of a study that is older than leases."""
        return None

    def may_mend(self, strategy: str, trial: int) -> bool:
        """Whether it is for this driver to mend what a crash has left half done for a candidate that has ended."""
        return True

    def news(self) -> Sequence[Lease]:
        """Candidates of the study, but those that had ended, with all of lower numbers, when they were last told."""
        return ()

    def is_mine(self, lease: Lease) -> bool:
        """Whether this driver holds it."""
        return True

    def is_free(self, lease: Lease) -> bool:
        """Whether nobody alive holds it."""
        return False

    def take(self, lease: Lease) -> Lease | None:
        """Takes over a candidate that nobody alive holds, as it then is; None where somebody was faster.

        A driver that died with it counts as lost.
        """
        return None

    def entry(self, strategy: str, trial: int) -> Entry | None:
        """What the board has of a candidate."""
        return None

    @contextmanager
    def once(self, strategy: str, what: str, say: Callable[[str], None]) -> Iterator[None]:
        """Holds work that is done once for all drivers; waits while another driver does it.

        `say` is told of the wait.
        """
        yield


class Leases(Claims):
    """In the storage, for any number of drivers. Every call waits for a storage that is away."""

    def __init__(self, store: Store, study: str, presence: Presence, patience: Patience) -> None:
        super().__init__(store)
        self._store, self._study, self._presence, self._patiently = store, study, presence, patience
        self._known: dict[str, int] = {}
        """Strategy → the number up to which all candidates are known to have ended."""
        store.make_tables(metadata)
        note_board(store)
        self.rank = len(presence.others)

    @property
    def stop(self) -> Stop:
        return self._presence.stop

    def is_free(self, lease: Lease) -> bool:
        return lease.owner is None or self._presence.is_dead(lease.owner)

    def is_mine(self, lease: Lease) -> bool:
        return lease.owner == self._presence.id

    def adopt(self, strategy: str, candidates: Sequence[tuple[int, str, Mapping[str, int], State]]) -> None:
        def write() -> None:
            with self._locked(strategy) as connection:
                rows = _rows(connection, self._of(strategy))
                known = {lease.trial for lease in rows} | {lease.plan_digest for lease in rows}
                for trial, digest, knobs, state in candidates:
                    if trial not in known and digest not in known:
                        connection.execute(self._new(strategy, trial, digest, knobs, None, state, state == "done"))

        self._patiently(write)

    def claim(self, strategy: str, plan_digest: str, knobs: Mapping[str, int], above: int) -> int | None:
        def write() -> int | None:
            with self._locked(strategy) as connection:
                c = leases.c
                at_plan = sa.and_(self._of(strategy), c.plan_digest == plan_digest)
                found = connection.execute(sa.select(c.trial, c.owner, c.state).where(at_plan)).one_or_none()
                if found is not None:
                    # Ours only where an answer of the database was lost: nobody asks twice for a plan of their own.
                    ours = found.owner == self._presence.id and found.state == "running"
                    return int(found.trial) if ours else None
                last = connection.execute(sa.select(sa.func.max(c.trial)).where(self._of(strategy))).scalar()
                number = max(above, -1 if last is None else int(last)) + 1
                owner = self._presence.id
                connection.execute(self._new(strategy, number, plan_digest, knobs, owner, "running", False))
                return number

        return self._patiently(write)

    def slot(self, strategy: str, trial: int, wanted: int) -> bool:
        def write() -> bool:
            with self._locked(strategy) as connection:
                c = leases.c
                if not self._held(connection, strategy, trial):
                    return False
                taken = sa.and_(self._of(strategy), c.full, c.state.in_(("running", "done")), c.trial != trial)
                if _count(connection, taken) >= wanted:
                    return False
                connection.execute(sa.update(leases).where(self._at(strategy, trial)).values(full=True))
                return True

        return self._patiently(write)

    def finish(self, entry: Entry) -> bool:
        def write() -> bool:
            with self._locked(entry.strategy) as connection:
                if not self._held(connection, entry.strategy, entry.trial, "running", "done"):
                    return False
                self._store.add_within(connection, entry)
                values = {"state": "done", "full": True, "since": time.time()}
                connection.execute(sa.update(leases).where(self._at(entry.strategy, entry.trial)).values(values))
                return True

        took = self._patiently(write, meanwhile=lambda: keep_unsaved(entry))
        forget_unsaved(entry)
        return took

    def save_late(self) -> list[Entry]:
        """Puts on the board what an earlier driver on this machine had finished and could not save; says what that was.

        What another driver has taken over in the meantime is refused.
        """
        saved = []
        for entry in unsaved(self._study):
            held = self._patiently(partial(self._read, entry.strategy, entry.trial))
            if held is None or held.state != "running":
                forget_unsaved(entry)
            elif self.is_free(held) and self.take(held) is not None and self.finish(entry):
                saved.append(entry)
            # What a living driver holds is its own to save: it may be the one that has kept the entry.
        return saved

    def end(self, strategy: str, trial: int, state: State, reason: str) -> bool:
        def write() -> bool:
            with self._locked(strategy) as connection:
                if not self._held(connection, strategy, trial, "running", state):
                    return False
                values = {"state": state, "full": False, "reason": reason, "since": time.time()}
                connection.execute(sa.update(leases).where(self._at(strategy, trial)).values(values))
                return True

        return self._patiently(write)

    def lost(self, strategy: str, trial: int, reason: str) -> int:
        before: int | None = None

        def write() -> int:
            nonlocal before
            with self._locked(strategy) as connection:
                here, c = self._at(strategy, trial), leases.c
                if before is None:  # an answer of the database may be lost: the worker is counted once all the same
                    before = int(connection.execute(sa.select(c.lost).where(here)).scalar() or 0)
                connection.execute(sa.update(leases).where(here).values(lost=before + 1, reason=reason))
                return before + 1

        return self._patiently(write)

    def leave(self, spare: Sequence[tuple[str, int]]) -> None:
        """Forgets candidates (strategy, number), and puts down all others that are held and have not ended.

        Other drivers or a later run take these. Does not wait: where the storage is away, the leases run out.
        """
        c = leases.c
        mine = sa.and_(c.study == self._study, c.owner == self._presence.id, c.state == "running")
        with contextlib.suppress(LeaderboardError), self._store.transaction(write=True) as connection:
            for here in (c.trial == _ONCE, *(self._at(*candidate) for candidate in spare)):
                connection.execute(sa.delete(leases).where(mine, here))
            connection.execute(sa.update(leases).where(mine).values(owner=None, full=False))

    def take(self, lease: Lease) -> Lease | None:
        def write() -> Lease | None:
            with self._locked(lease.strategy) as connection:
                here, c = self._at(lease.strategy, lease.trial), leases.c
                unchanged = sa.and_(here, c.owner.is_not_distinct_from(lease.owner), c.state == lease.state)
                died = lease.owner is not None and lease.state == "running"
                values: dict[str, Any] = {"owner": self._presence.id, "lost": c.lost + int(died), "since": time.time()}
                if lease.state == "running":
                    values["full"] = False
                if died:
                    values["reason"] = "its driver died"
                now = _rows(connection, here)
                if now and now[0].owner == self._presence.id:  # an answer of the database was lost
                    return now[0]
                connection.execute(sa.update(leases).where(unchanged).values(values))
                [now_held] = _rows(connection, here)
                return now_held if now_held.owner == self._presence.id else None

        return self._patiently(write)

    def drop(self, strategy: str, trial: int) -> None:
        def write() -> None:
            with self._locked(strategy) as connection:
                mine = sa.and_(self._at(strategy, trial), leases.c.owner == self._presence.id)
                connection.execute(sa.delete(leases).where(mine))

        self._patiently(write)

    def may_mend(self, strategy: str, trial: int) -> bool:
        found = self._patiently(partial(self._read, strategy, trial))
        return found is None or self.is_mine(found) or (self.is_free(found) and self.take(found) is not None)

    def news(self) -> Sequence[Lease]:
        c = leases.c
        known = (sa.and_(c.strategy == name, c.trial <= number) for name, number in self._known.items())
        wanted = sa.and_(c.study == self._study, c.trial != _ONCE, sa.not_(sa.or_(sa.false(), *known)))

        def read() -> list[Lease]:
            with self._store.transaction() as connection:
                return _rows(connection, wanted)

        found, in_sight = self._patiently(read), set[str]()
        for lease in found:  # in the order of their numbers
            if lease.state == "running":
                in_sight.add(lease.strategy)
            elif lease.strategy not in in_sight:
                self._known[lease.strategy] = lease.trial
        return found

    def entry(self, strategy: str, trial: int) -> Entry | None:
        return self._patiently(lambda: self._store.find(self._study, strategy, trial))

    @contextmanager
    def once(self, strategy: str, what: str, say: Callable[[str], None]) -> Iterator[None]:
        told = False
        while not self._take_once(strategy, what):
            if not told:
                told = True
                say(f"{strategy}: another driver finds out {what}; waiting for it")
            time.sleep(_WAIT)
        try:
            yield
        finally:
            self._patiently(lambda: self._leave_once(strategy))

    def _take_once(self, strategy: str, what: str) -> bool:
        def write() -> bool:
            with self._locked(strategy) as connection:
                here = self._at(strategy, _ONCE)
                found = _rows(connection, here)
                if found and not self.is_mine(found[0]) and not self.is_free(found[0]):
                    return False
                connection.execute(sa.delete(leases).where(here))
                connection.execute(self._new(strategy, _ONCE, what, {}, self._presence.id, "running", False))
                return True

        return self._patiently(write)

    def _leave_once(self, strategy: str) -> None:
        with self._locked(strategy) as connection:
            connection.execute(sa.delete(leases).where(self._at(strategy, _ONCE), leases.c.owner == self._presence.id))

    def _read(self, strategy: str, trial: int) -> Lease | None:
        with self._store.transaction() as connection:
            found = _rows(connection, self._at(strategy, trial))
        return found[0] if found else None

    @contextmanager
    def _locked(self, strategy: str) -> Iterator[Connection]:
        """A transaction that no other driver's of this strategy overlaps with."""
        which = zlib.crc32(f"{self._study}/{strategy}".encode()) - 2**31
        with self._store.transaction(write=True, lock=(_LOCK, which)) as connection:
            yield connection

    def _of(self, strategy: str) -> sa.ColumnElement[bool]:
        return sa.and_(leases.c.study == self._study, leases.c.strategy == strategy)

    def _at(self, strategy: str, trial: int) -> sa.ColumnElement[bool]:
        return sa.and_(self._of(strategy), leases.c.trial == trial)

    def _held(self, connection: Connection, strategy: str, trial: int, *states: State) -> bool:
        found = _rows(connection, self._at(strategy, trial))
        return bool(found) and self.is_mine(found[0]) and found[0].state in (states or ("running",))

    def _new(
        self,
        strategy: str,
        trial: int,
        digest: str,
        knobs: Mapping[str, int],
        owner: str | None,
        state: State,
        full: bool,
    ) -> sa.Insert:
        return sa.insert(leases).values(
            study=self._study,
            strategy=strategy,
            trial=trial,
            plan_digest=digest,
            knobs=json.dumps(dict(knobs)),
            owner=owner,
            state=state,
            full=full,
            lost=0,
            since=time.time(),
            reason="",
        )


def _count(connection: Connection, where: sa.ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(leases).where(where)).scalar_one())


def _rows(connection: Connection, where: sa.ColumnElement[bool]) -> list[Lease]:
    query = sa.select(leases).where(where).order_by(leases.c.strategy, leases.c.trial)
    return [
        Lease(
            row.strategy,
            row.trial,
            row.plan_digest,
            json.loads(row.knobs),
            row.owner,
            row.state,
            row.full,
            row.lost,
            row.since,
            row.reason,
        )
        for row in connection.execute(query)
    ]
