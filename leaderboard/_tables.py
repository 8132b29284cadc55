"""The tables of the store. All names start with `sb_`, for Optuna keeps its own tables in the same database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Connection

STORE_VERSION = 4
"""Version of these tables, kept in `sb_meta`; raised with every change of them."""

metadata = MetaData()

meta = Table(
    "sb_meta", metadata, Column("name", String(40), primary_key=True), Column("value", String(200), nullable=False)
)

entries = Table(
    "sb_entries",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("study", String(200), nullable=False),
    Column("strategy", String(200), nullable=False),
    Column("trial", BigInteger, nullable=False),
    Column("workload", String(200), nullable=False),
    Column("role", String(20), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("plan_digest", String(200), nullable=False),
    Column("top1", Double),
    Column("top5", Double),
    Column("miou", Double),
    Column("dense_accuracy", Double, nullable=False),
    Column("parameters", BigInteger, nullable=False),
    Column("macs", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("dense_parameters", BigInteger, nullable=False),
    Column("dense_macs", BigInteger, nullable=False),
    Column("epochs", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("dense_epochs", Double, nullable=False),
    Column("dense_seconds", Double, nullable=False),
    Column("starts_from", String(20)),
    Column("total_epochs", Double),
    Column("epoch_fp32", Double),
    Column("epoch_bf16", Double),
    Column("dense_epoch_fp32", Double),
    Column("dense_epoch_bf16", Double),
    Column("evaluation_seconds", Double),
    Column("created", String(40), nullable=False),
    # Last, so that SQLite reads the columns above without touching the pages that a long document overflows into.
    Column("document", Text, nullable=False),
    UniqueConstraint("study", "strategy", "trial", name="sb_entries_key"),
)

tracks = Table(
    "sb_tracks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("workload", String(200), nullable=False),
    Column("target", String(200), nullable=False),
    Column("key", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    UniqueConstraint("workload", "key", name="sb_tracks_key"),
)
"""What may be ranked together: one workload on one target key. Few rows: costs stay narrow, listing is instant."""

costs = Table(
    "sb_costs",
    metadata,
    Column("track", ForeignKey(tracks.c.id), primary_key=True),
    Column("entry", ForeignKey(entries.c.id), primary_key=True),
    Column("final", Boolean, nullable=False),
    Column("accuracy", Double, nullable=False),
    Column("drop", Double, nullable=False),
    Column("validation", Double, nullable=False),
    Column("speedup", Double),
    Column("low", Double),
    Column("high", Double),
    Column("latency", Double),
    Column("energy", Double),
    Column("unstable", Boolean, nullable=False),
    Column("total_seconds", Double),
    # The Pareto queries run on one of these indices alone, from its best end to its worst.
    Index("sb_costs_front", "track", "final", "speedup", "accuracy", "entry"),
    Index("sb_costs_training", "track", "final", "total_seconds", "accuracy", "entry"),
    Index("sb_costs_entry", "entry"),
)

"""What is filtered, sorted and ranked by. `accuracy` and `drop` are of the test split where `final`."""

finals = Table(
    "sb_finals",
    metadata,
    Column("track", ForeignKey(tracks.c.id), primary_key=True),
    Column("entry", ForeignKey(entries.c.id), primary_key=True),
    Column("study", String(200)),
    Column("trial", BigInteger),
    Column("search_seed", BigInteger),
    Column("chosen", Boolean, nullable=False),
    Index("sb_finals_entry", "entry"),
)
"""Where entries with a test accuracy come from: study, trial and seed of a search, which a dense network lacks."""

benchmarks = Table(
    "sb_benchmarks",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("workload", String(200), nullable=False),
    Column("key", String(200), nullable=False),
    Column("document", Text, nullable=False),
)

references = Table(
    "sb_references",
    metadata,
    Column("workload", String(200), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("latency", Double, nullable=False),
    Column("dense_accuracy", Double, nullable=False),
    Column("throughput", Double),
)


def upgrade(connection: Connection, version: int) -> None:
    """Brings the tables from an older version to this one."""
    if version < 2:
        _add_training_cost(connection)
    if version < 3:
        _add_columns(connection, references.c.throughput)
    _add_finals(connection)
    connection.execute(sa.update(meta).where(meta.c.name == "schema").values(value=str(STORE_VERSION)))


def _add_training_cost(connection: Connection) -> None:
    """Version 2: the whole cost of training."""
    late = ("starts_from", "total_epochs", "epoch_fp32", "epoch_bf16", "dense_epoch_fp32", "dense_epoch_bf16")
    _add_columns(connection, *(entries.c[name] for name in late), costs.c.total_seconds)
    # In version 1 every method started from the trained network.
    connection.execute(sa.update(entries).values(total_epochs=entries.c.dense_epochs + entries.c.epochs))
    whole = sa.select(entries.c.dense_seconds + entries.c.seconds).where(entries.c.id == costs.c.entry)
    connection.execute(sa.update(costs).values(total_seconds=whole.scalar_subquery()))


def _add_finals(connection: Connection) -> None:
    """Version 4: results on the test split, of which there were none before."""
    _add_columns(connection, entries.c.evaluation_seconds, costs.c.final, costs.c.validation)
    connection.execute(sa.update(costs).values(final=False, validation=costs.c.accuracy))
    for index in costs.indexes:
        index.drop(connection, checkfirst=True)
        index.create(connection)
    metadata.create_all(connection, [finals, benchmarks])


def _add_columns(connection: Connection, *columns: sa.Column[Any]) -> None:
    for column in columns:
        kind = column.type.compile(connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind}")
