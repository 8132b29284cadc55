"""The store: entries, their costs, frozen references and benchmarks in one SQLite or PostgreSQL database."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, make_url

from . import _tables as tables
from .benchmark import Benchmark
from .entry import Entry, Method, TargetCost
from .errors import LeaderboardError, StorageUnavailable, quoted
from .finals import Final, Searched
from .query import Board, Listed, Query, Row, listed, mark, run

_ALLOWED = "allowed: a file name, sqlite:///FILE, postgresql://USER@HOST/DATABASE"
# A writer holds the lock for milliseconds; whoever waits this long stands behind something that hangs.
_BUSY_SECONDS = 60.0
# Entries that go in with one statement; a document may have 100 kB.
_BATCH = 500
_CREATION_LOCK = (0x5B0A2D,)
POSTGRES = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 60_000}
"""How connections to PostgreSQL are made: a network that swallows packets ends them within a minute (libpq)."""


@dataclass(frozen=True)
class Reference:
    """What is frozen for one workload and target key: latency of the dense network in seconds, its accuracy in 0…1."""

    latency: float
    dense_accuracy: float
    throughput: float | None = None
    """Inferences a second of the dense network in batches, where the target relates throughput to it."""


@dataclass(frozen=True)
class Tried:
    """A strategy on a track."""

    strategy: str
    entries: int
    method: Method | None
    """What its newest entry says of it."""
    knobs: list[dict[str, Any]]
    """Of its newest entries, the newest first."""


class Store:
    """Entries in a database.

    Several processes may write at once; each opens its own `Store` (do not pass one through a fork or a pickle). Within
    a process a `Store` may be used from several threads. Every method raises `LeaderboardError` where the database
    cannot be reached; no message holds a password.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Opens `url`: a file name, `sqlite:///FILE` or `postgresql://…`; `create=False` refuses a new one."""
        self._url = _url(url)
        self.name = _shown(self._url)
        """The storage, fit to be shown: its password is masked."""
        _check_file(self._url, create)
        with self._errors():
            self._engine = _engine(self._url)
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The database's URL with its password, for a library that opens the same database; never to be shown."""
        return self._url.render_as_string(hide_password=False)

    def close(self) -> None:
        """Gives the connections back; the store cannot be used afterwards."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, entry: Entry) -> bool:
        """Adds one entry; False if it is already there. The same key with other content is refused."""
        return self.add_many([entry]) == 1

    def add_many(
        self, entries: Iterable[Entry], sources: Iterable[str] | None = None, benchmarks: Iterable[Benchmark] = ()
    ) -> int:
        """Adds all entries, and freezes all `benchmarks`, or, where one is refused, none.

        Returns how many entries were new. `sources` names where each came from, such as its file; the message of a
        refusal then starts with that name.
        """
        listed = list(entries)
        named = [""] * len(listed) if sources is None else [f"{source}: " for source in sources]
        with self.transaction(write=True) as connection:
            for benchmark in benchmarks:
                _freeze(connection, benchmark)
            return sum(
                _add(connection, listed[start : start + _BATCH], named[start : start + _BATCH])
                for start in range(0, len(listed), _BATCH)
            )

    def add_within(self, connection: Connection, entry: Entry) -> bool:
        """As `add`, as a part of a writer's `transaction`."""
        return _add(connection, [entry], [""]) == 1

    def get(self, id_prefix: str) -> Entry:
        """The one entry whose id starts with `id_prefix` (at least 4 hexadecimal digits)."""
        if not re.fullmatch(r"[0-9a-f]{4,16}", id_prefix):
            raise LeaderboardError(f"entry id {quoted(id_prefix)}: 4 to 16 hexadecimal digits are expected")
        column = tables.entries.c.id
        # A range, for LIKE cannot use the index; "g" follows the last hexadecimal digit.
        within = sa.and_(column >= id_prefix, column < id_prefix + "g")
        query = sa.select(column, tables.entries.c.document).where(within).limit(2)
        with self.transaction() as connection:
            found = connection.execute(query).all()
        if not found:
            raise LeaderboardError(f"no entry starts with {id_prefix!r}; `shrinkboard leaderboard` lists the entries")
        if len(found) > 1:
            ids = f"{found[0].id}, {found[1].id}, …"
            raise LeaderboardError(f"several entries start with {id_prefix!r} ({ids}); add digits")
        return Entry.from_json(found[0].document)

    def entries(self, study: str | None = None) -> Iterator[Entry]:
        """All entries, or those of one study, by strategy and trial; read in pieces, so that millions fit."""
        c = tables.entries.c
        query = sa.select(c.document).order_by(c.study, c.strategy, c.trial)
        if study is not None:
            query = query.where(c.study == study)
        with self.transaction() as connection:
            for row in connection.execution_options(yield_per=200).execute(query):
                yield Entry.from_json(row.document)

    def find(self, study: str, strategy: str, trial: int) -> Entry | None:
        """The entry of one trial of a study; None where there is none."""
        c = tables.entries.c
        at_key = sa.and_(c.study == study, c.strategy == strategy, c.trial == trial)
        with self.transaction() as connection:
            found = connection.execute(sa.select(c.document).where(at_key)).scalar()
        return None if found is None else Entry.from_json(found)

    def weights(self) -> set[str]:
        """Digests of all networks that entries name."""
        document = tables.entries.c.document
        # Text in both; only PostgreSQL has to be told that it is JSON.
        postgres = self._engine.dialect.name == "postgresql"
        found = (sa.cast(document, sa.JSON) if postgres else sa.type_coerce(document, sa.JSON))["weights"].as_string()
        with self.transaction() as connection:
            return {row.weights for row in connection.execute(sa.select(found.label("weights"))) if row.weights}

    def query(self, query: Query) -> Board:
        """The rows that `query` asks for, one track per workload and target key."""
        with self.transaction() as connection:
            return run(connection, query)

    def mark(self, query: Query) -> Hashable:
        """Another one whenever the answer to `query` may be another; far quicker than the answer."""
        with self.transaction() as connection:
            return mark(connection, query)

    def pareto(self, workload: str, key: str) -> tuple[Row, ...]:
        """The front of one workload on one target key, fastest first; entries without a speed-up take no part.

        Empty where there is no entry yet (`query` refuses a workload or target that the storage does not know).
        """
        c = tables.tracks.c
        with self.transaction() as connection:
            if connection.execute(sa.select(c.id).where(c.workload == workload, c.key == key)).first() is None:
                return ()
            (track,) = run(connection, Query(workload=workload, target=key, pareto=True)).tracks
            return track.rows

    def tracks(self) -> list[Listed]:
        """The tracks that the storage holds, by workload and key."""
        with self.transaction() as connection:
            return listed(connection)

    def tried(self, workload: str, key: str, strategy: str | None = None, newest: int = 200) -> list[Tried]:
        """The strategies of a track, or one of them, by name; empty where there is none."""
        c, costs, e = tables.tracks.c, tables.costs.c, tables.entries.c
        of_track = [c.workload == workload, c.key == key, *([] if strategy is None else [costs.strategy == strategy])]
        named = sa.select(costs.strategy, sa.func.count()).select_from(tables.tracks.join(tables.costs))
        counted = named.where(*of_track).group_by(costs.strategy).order_by(costs.strategy)
        with self.transaction() as connection:
            method, knobs = (_part(connection, name) for name in ("method", "knobs"))
            described = sa.select(method, knobs).select_from(tables.tracks.join(tables.costs).join(tables.entries))
            latest = described.where(*of_track).order_by(e.created.desc(), e.id).limit(newest)
            found = []
            for name, entries in connection.execute(counted).all():
                rows = connection.execute(latest.where(costs.strategy == name)).all()
                about = None if rows[0][0] is None else Method.model_validate_json(rows[0][0])
                found.append(Tried(name, entries, about, [json.loads(row[1]) for row in rows]))
            return found

    def finals(self, workload: str, key: str) -> list[Final]:
        """Every entry with a test accuracy on one track: finalists and controls, by strategy, search and seed."""
        c, e, f = tables.costs.c, tables.entries.c, tables.finals.c
        columns = {
            **{name: e[name] for name in ("id", "strategy", "role", "seed", "dense_accuracy")},
            **{name: f[name] for name in ("study", "trial", "search_seed", "chosen")},
            **{name: c[name] for name in ("speedup", "low", "high", "latency", "energy", "unstable")},
            **{name: c[name] for name in ("validation", "accuracy")},
            **{name: e[name] for name in ("parameters", "dense_parameters", "macs", "dense_macs", "bytes", "epochs")},
            **{name: e[name] for name in ("seconds", "total_epochs", "epoch_fp32", "dense_epoch_fp32")},
            "final_study": e.study,
            "total_seconds": c.total_seconds,
        }
        query = (
            sa.select(*(column.label(name) for name, column in columns.items()))
            .select_from(tables.finals)
            .join(tables.tracks)
            .join(tables.costs, sa.and_(c.track == f.track, c.entry == f.entry))
            .join(tables.entries, e.id == f.entry)
            .where(tables.tracks.c.workload == workload, tables.tracks.c.key == key)
            .order_by(e.strategy, f.study.nulls_first(), f.trial, e.seed, e.study, e.id)
        )
        with self.transaction() as connection:
            return [Final(**row) for row in connection.execute(query).mappings()]

    def searched(self, workload: str, key: str, studies: Iterable[str]) -> list[Searched]:
        """The full evaluations of these searches on one track, by strategy, study and trial; no controls."""
        c, e = tables.costs.c, tables.entries.c
        columns = {
            **{name: e[name] for name in ("strategy", "study", "trial", "seed", "parameters", "dense_parameters")},
            **{name: e[name] for name in ("seconds", "evaluation_seconds", "created")},
            "speedup": c.speedup,
            "accuracy": c.validation,
        }
        query = (
            sa.select(*(column.label(name) for name, column in columns.items()))
            .select_from(tables.tracks)
            .join(tables.costs)
            .join(tables.entries)
            .where(tables.tracks.c.workload == workload, tables.tracks.c.key == key)
            .where(e.study.in_(list(studies)), e.role == "candidate", c.final.is_(sa.false()))
            .order_by(e.strategy, e.study, e.trial)
        )
        with self.transaction() as connection:
            return [Searched(**row) for row in connection.execute(query).mappings()]

    def benchmarks(self) -> list[Benchmark]:
        """Every definition, by name and version."""
        c = tables.benchmarks.c
        with self.transaction() as connection:
            found = connection.execute(sa.select(c.document).order_by(c.name, c.version)).scalars().all()
        return [Benchmark.from_json(document) for document in found]

    def freeze_benchmark(self, benchmark: Benchmark) -> Benchmark:
        """Adds a definition; refused where one of this name and version stands with other content."""
        with self.transaction(write=True) as connection:
            return _freeze(connection, benchmark)

    def reference(self, workload: str, key: str) -> Reference | None:
        """The frozen reference of a workload on a target key, None where there is none yet."""
        with self.transaction() as connection:
            return _reference(connection, workload, key)

    def freeze_reference(self, workload: str, key: str, reference: Reference) -> Reference:
        """Freezes `reference` unless one stands already; returns the one that stands.

        One that stands without a throughput, as boards of older versions have them, is given that of `reference`.
        """
        positive = [reference.latency, 1.0 if reference.throughput is None else reference.throughput]
        if not (all(math.isfinite(x) and x > 0 for x in positive) and 0 <= reference.dense_accuracy <= 1):
            raise LeaderboardError(
                f"{quoted(reference)}: a positive latency in seconds, a positive throughput or none, and an accuracy "
                "in 0…1 expected"
            )
        values = {
            "workload": workload,
            "key": key,
            "latency": reference.latency,
            "dense_accuracy": reference.dense_accuracy,
            "throughput": reference.throughput,
        }
        with self.transaction(write=True) as connection:
            c = tables.references.c
            if not _insert_if_absent(connection, tables.references, [values]) and reference.throughput is not None:
                connection.execute(
                    sa.update(tables.references)
                    .where(c.workload == workload, c.key == key, c.throughput.is_(None))
                    .values(throughput=reference.throughput)
                )
            standing = _reference(connection, workload, key)
        assert standing is not None
        return standing

    def _open(self, create: bool) -> None:
        with self.transaction() as connection:
            version = _version(connection)
        if version is None and not create:
            raise LeaderboardError(f"storage {self.name} holds no leaderboard yet; run `shrinkboard search` first")
        if version is None:
            version = self._create()
        if version < tables.STORE_VERSION:
            self._upgrade()
        if version > tables.STORE_VERSION:
            raise LeaderboardError(
                f"storage {self.name} has schema {version}, this shrinkboard knows {tables.STORE_VERSION}; upgrade it"
            )

    def _create(self) -> int:
        """Makes the tables and returns their version: another's, where another process was first."""
        if self._engine.dialect.name == "sqlite":
            with self._errors():
                _use_wal(self._engine)
        with self.transaction(write=True, lock=_CREATION_LOCK) as connection:
            standing = _version(connection)
            if standing is not None:
                return standing
            tables.stamp.create(connection)
            tables.metadata.create_all(connection)
            connection.execute(sa.insert(tables.stamp).values(version_num=str(tables.STORE_VERSION)))
            connection.execute(sa.insert(tables.meta).values(tables.META))
            return tables.STORE_VERSION

    def _upgrade(self) -> None:
        from . import _migrate

        with self.transaction(write=True, lock=_CREATION_LOCK) as connection:
            # Read again below the lock: another process may have been first, and then there is nothing to do.
            stamped = _stamped(connection)
            _migrate.upgrade(connection, None if stamped is not None else _version(connection))

    def make_tables(self, metadata: sa.MetaData) -> None:
        """Makes the tables that another room keeps beside the board's, where they are missing."""
        with self.transaction(write=True, lock=_CREATION_LOCK) as connection:
            metadata.create_all(connection)

    @contextmanager
    def transaction(self, write: bool = False, lock: tuple[int, ...] = ()) -> Iterator[Connection]:
        """A transaction, undone where an exception leaves it; a writing one may wait for others'.

        Of two with the same `lock`, one number or two of 32 bits, the second begins when the first has ended; in SQLite
        that is so of all writing ones.
        """
        with self._errors(), self._engine.connect() as connection:
            connection = connection.execution_options(sb_write=write)
            with connection.begin():
                if lock and connection.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(*lock)))
                yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (exc.SQLAlchemyError, ImportError, OSError) as error:
            away = isinstance(error, (exc.OperationalError, exc.InterfaceError))
            kind = StorageUnavailable if away else LeaderboardError
            raise kind(f"storage {self.name}: {_reason(error, self._url)}") from None


def _url(text: str) -> URL:
    """The URL that `text` means; whatever stands before an @ in a bad one is kept out of the message."""
    shown = quoted(re.sub(r"(pass\w*=)[^&\s]*", r"\1***", re.sub(r"//.*@", "//***@", text), flags=re.IGNORECASE))
    if not text or "\0" in text:
        raise LeaderboardError(f"storage {shown} is not a storage; {_ALLOWED}")
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        raise LeaderboardError(f"storage {shown} is not a valid URL; {_ALLOWED}") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise LeaderboardError(f"storage {shown} is of the unknown kind {quoted(url.get_backend_name())}; {_ALLOWED}")
    return url


def _secrets(url: URL) -> dict[str, str]:
    """Parts of the query string that hold a password."""
    return {name: str(value) for name, value in url.query.items() if "pass" in name.lower()}


def _shown(url: URL) -> str:
    return url.update_query_dict(dict.fromkeys(_secrets(url), "***")).render_as_string(hide_password=True)


def _check_file(url: URL, create: bool) -> None:
    """What SQLite itself would only call "unable to open database file"."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return
    assert url.database is not None
    file = Path(url.database)
    name = quoted(str(file))
    try:
        if file.is_dir():
            raise LeaderboardError(f"storage {name} is a folder; give a file in it, such as board.db")
        if not file.exists() and not create:
            raise LeaderboardError(f"storage {name} does not exist; run `shrinkboard search` first or give --storage")
        if not file.parent.is_dir():
            raise LeaderboardError(f"storage {name}: its folder does not exist; create it first")
    except OSError as error:
        raise LeaderboardError(f"storage {name} cannot be opened ({error.strerror}); {_ALLOWED}") from None


def _engine(url: URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, connect_args=POSTGRES)
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})

    # The driver's own transactions start at the first write; one that has read before is then refused at once where
    # another process wrote in between. So we begin them ourselves, and a writing one takes the lock at its start.
    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        write = connection.get_execution_options().get("sb_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _use_wal(engine: sa.Engine) -> None:
    """Readers then never wait for a writer. SQLite does not queue for this change, so we try again ourselves."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode = WAL")
            return
        except connection.dbapi_connection.OperationalError as error:  # type: ignore[union-attr]
            if "locked" not in str(error) or time.monotonic() > end:
                raise exc.OperationalError(None, None, error) from None
            time.sleep(0.05)
        finally:
            connection.close()


def _reason(error: Exception, url: URL) -> str:
    """First line of what the driver said, without the password."""
    if isinstance(error, ImportError):
        return f"the driver is not installed ({error.name or error}); install shrinkboard[postgres]"
    text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    line = " ".join(text.splitlines()[0].split())
    for secret in filter(None, (url.password, *_secrets(url).values())):
        line = line.replace(secret, "***")
    hints = {
        "not a database": "; give another file, this one is something else",
        "readonly": "; make the file and its folder writable",
        "unable to open": "; check that the file and its folder may be read and written",
        "locked": "; another process holds it for long, try again",
    }
    return line + next((hint for part, hint in hints.items() if part in line), "")


def _version(connection: Connection) -> int | None:
    """Of the board's tables; None where there are none."""
    stamped = _stamped(connection)
    if stamped is not None or not sa.inspect(connection).has_table(tables.meta.name):
        return stamped
    value = connection.execute(sa.select(tables.meta.c.value).where(tables.meta.c.name == "schema")).scalar()
    return None if value is None else int(value)


def _part(connection: Connection, name: str) -> sa.ColumnElement[Any]:
    """A field of an entry's document as JSON, without reading the rest of it into Python."""
    document = tables.entries.c.document
    if connection.dialect.name == "sqlite":
        return sa.func.json_extract(document, f"$.{name}")
    return sa.cast(sa.cast(document, postgresql.JSON)[name], sa.Text)


def _stamped(connection: Connection) -> int | None:
    """The version that Alembic knows of; None for boards from before version 4, too."""
    if not sa.inspect(connection).has_table(tables.VERSION_TABLE):
        return None
    return int(connection.execute(sa.select(tables.stamp.c.version_num)).scalar_one())


def _reference(connection: Connection, workload: str, key: str) -> Reference | None:
    c = tables.references.c
    row = connection.execute(
        sa.select(c.latency, c.dense_accuracy, c.throughput).where(c.workload == workload, c.key == key)
    ).one_or_none()
    return None if row is None else Reference(row.latency, row.dense_accuracy, row.throughput)


def _insert_if_absent(connection: Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> set[Any]:
    """First columns of the primary keys of those rows that went in."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    # What it returns says whether a row went in; the driver's row count is not kept for every database.
    statement = insert(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return set(connection.execute(statement, rows).scalars())


def _freeze(connection: Connection, benchmark: Benchmark) -> Benchmark:
    c = tables.benchmarks.c
    values = {
        "name": benchmark.name,
        "version": benchmark.version,
        "workload": benchmark.workload,
        "key": benchmark.key,
        "document": benchmark.to_json(),
    }
    _insert_if_absent(connection, tables.benchmarks, [values])
    at_key = sa.and_(c.name == benchmark.name, c.version == benchmark.version)
    standing = Benchmark.from_json(connection.execute(sa.select(c.document).where(at_key)).scalar_one())
    if standing != benchmark:
        raise LeaderboardError(
            f"benchmark {quoted(benchmark.id)} stands with other content; a definition is never changed, raise its "
            "version"
        )
    return standing


def _add(connection: Connection, entries: Sequence[Entry], sources: Sequence[str]) -> int:
    """Adds a batch and returns how many were new; a refusal begins with the source of its entry."""
    absent = _insert_if_absent(connection, tables.entries, [_entry_row(entry) for entry in entries])
    costs: list[dict[str, Any]] = []
    finals: list[dict[str, Any]] = []
    known: dict[tuple[str, str], Any] = {}
    new = absent.copy()
    for entry, source in zip(entries, sources, strict=True):
        try:
            if entry.id not in absent:
                _refuse_other_content(connection, entry)
                continue
            tracks = [_track(connection, known, entry.workload, cost) for cost in entry.costs]
        except LeaderboardError as error:
            raise LeaderboardError(f"{source}{error}") from None
        absent.remove(entry.id)  # the same entry once more in this batch is not new
        costs += [_cost_row(entry, cost, track) for cost, track in zip(entry.costs, tracks, strict=True)]
        if entry.final:
            finals += [_final_row(entry, cost, track) for cost, track in zip(entry.costs, tracks, strict=True)]
    for table, rows in ((tables.costs, costs), (tables.finals, finals)):
        if rows:
            connection.execute(sa.insert(table), rows)
    return len(new)


def _entry_row(entry: Entry) -> dict[str, Any]:
    scores, training = entry.accuracy.test or entry.accuracy.validation, entry.training
    return {
        "id": entry.id,
        "study": entry.study,
        "strategy": entry.strategy,
        "trial": entry.trial,
        "workload": entry.workload,
        "role": entry.role,
        "seed": entry.seed,
        "plan_digest": entry.plan_digest,
        "top1": scores.top1,
        "top5": scores.top5,
        "miou": scores.miou,
        "dense_accuracy": entry.dense_accuracy,
        "parameters": entry.parameters,
        "macs": entry.macs,
        "bytes": entry.bytes,
        "dense_parameters": entry.dense_parameters,
        "dense_macs": entry.dense_macs,
        "epochs": training.epochs,
        "seconds": training.seconds,
        "dense_epochs": training.dense_epochs,
        "dense_seconds": training.dense_seconds,
        "starts_from": training.starts_from,
        "total_epochs": training.total_epochs,
        "epoch_fp32": training.epoch_fp32,
        "epoch_bf16": training.epoch_bf16,
        "dense_epoch_fp32": training.dense_epoch_fp32,
        "dense_epoch_bf16": training.dense_epoch_bf16,
        "evaluation_seconds": entry.evaluation_seconds,
        "created": entry.created,
        "document": entry.to_json(),
    }


def _cost_row(entry: Entry, cost: TargetCost, track: int) -> dict[str, Any]:
    accuracy, speedup = entry.ranking_accuracy(cost), cost.speedup
    return {
        "track": track,
        "entry": entry.id,
        "final": entry.final,
        "strategy": entry.strategy,
        "accuracy": accuracy,
        # In points; rounded, so that 0.98 − 0.97 is a drop of exactly one.
        "drop": round(100 * (entry.dense_accuracy - accuracy), 9),
        "validation": entry.validation_accuracy(cost),
        "speedup": None if speedup is None else speedup.value,
        "low": None if speedup is None else speedup.low,
        "high": None if speedup is None else speedup.high,
        "latency": cost.value("latency"),
        "energy": cost.value("energy"),
        "unstable": cost.unstable,
        "total_seconds": entry.training.total_seconds,
    }


def _final_row(entry: Entry, cost: TargetCost, track: int) -> dict[str, Any]:
    origin = entry.origin
    return {
        "track": track,
        "entry": entry.id,
        "study": None if origin is None else origin.study,
        "trial": None if origin is None else origin.trial,
        "search_seed": None if origin is None else origin.seed,
        "chosen": origin is not None and cost.key in origin.targets,
    }


def _refuse_other_content(connection: Connection, entry: Entry) -> None:
    c = tables.entries.c
    at_key = sa.and_(c.study == entry.study, c.strategy == entry.strategy, c.trial == entry.trial)
    standing = connection.execute(sa.select(c.id).where(at_key)).scalar()
    if standing is None:
        raise LeaderboardError(f"entry {entry.id}: another study, strategy or trial has an entry of the same id")
    if standing != entry.id:
        raise LeaderboardError(
            f"study {quoted(entry.study)}, strategy {quoted(entry.strategy)}, trial {entry.trial} is already entry "
            f"{standing}, with other content than {entry.id}; use another study name"
        )


def _track(connection: Connection, known: dict[tuple[str, str], Any], workload: str, cost: TargetCost) -> int:
    """Id of the track, made where it is missing; `known` holds those of this batch."""
    found = known.get((workload, cost.key))
    if found is None:
        c = tables.tracks.c
        query = sa.select(c.id, c.target, c.kind).where(c.workload == workload, c.key == cost.key)
        found = connection.execute(query).one_or_none()
        if found is None:
            values = {"workload": workload, "target": cost.target, "key": cost.key, "kind": cost.kind}
            _insert_if_absent(connection, tables.tracks, [values])
            found = connection.execute(query).one()
        known[workload, cost.key] = found
    if (found.target, found.kind) != (cost.target, cost.kind):
        raise LeaderboardError(
            f"target key {quoted(cost.key)} holds {found.kind} results of {quoted(found.target)}, given {cost.kind} "
            f"ones of {quoted(cost.target)}; measured and modelled are never ranked together, use another key"
        )
    return int(found.id)
