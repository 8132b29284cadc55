"""The tables of the store. All names start with `sb_`, for Optuna keeps its own tables in the same database."""

from __future__ import annotations

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

STORE_VERSION = 4
"""Of these tables. Every change of them raises it and adds a revision of that name to `migrations/versions`."""
VERSION_TABLE = "sb_alembic_version"
"""Holds the version of a board; Optuna keeps its own `alembic_version` in the same database."""

metadata = MetaData()

meta = Table(
    "sb_meta", metadata, Column("name", String(40), primary_key=True), Column("value", String(200), nullable=False)
)
"""Its `schema` was the version up to 3; programs of that time look here, find 4, and leave the board alone."""
META = {"name": "schema", "value": "4"}

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
    Column("strategy", String(200), nullable=False),
    Column("accuracy", Double, nullable=False),
    Column("drop", Double, nullable=False),
    Column("validation", Double, nullable=False),
    Column("speedup", Double),
    Column("low", Double),
    Column("high", Double),
    Column("latency", Double),
    Column("energy", Double),
    Column("unstable", Boolean, nullable=False),
    Column("total_seconds", Double, nullable=False),
    # A front is computed on one of these indices alone, from its best end to its worst; those that follow `entry` are
    # what boards are filtered by most.
    Index("sb_costs_front", "track", "final", "speedup", "accuracy", "entry", "drop", "latency", "strategy"),
    Index("sb_costs_training", "track", "final", "total_seconds", "accuracy", "entry", "drop", "latency", "strategy"),
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

stamp = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))
"""As Alembic makes it, so that a new board needs no Alembic."""
