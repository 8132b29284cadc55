"""Entries, their costs, and the frozen references."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "1", None


def upgrade() -> None:
    op.create_table(
        "sb_meta",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.String(200), nullable=False),
    )
    op.create_table(
        "sb_entries",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("study", sa.String(200), nullable=False),
        sa.Column("strategy", sa.String(200), nullable=False),
        sa.Column("trial", sa.BigInteger, nullable=False),
        sa.Column("workload", sa.String(200), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("plan_digest", sa.String(200), nullable=False),
        sa.Column("top1", sa.Double),
        sa.Column("top5", sa.Double),
        sa.Column("miou", sa.Double),
        sa.Column("dense_accuracy", sa.Double, nullable=False),
        sa.Column("parameters", sa.BigInteger, nullable=False),
        sa.Column("macs", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("dense_parameters", sa.BigInteger, nullable=False),
        sa.Column("dense_macs", sa.BigInteger, nullable=False),
        sa.Column("epochs", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("dense_epochs", sa.Double, nullable=False),
        sa.Column("dense_seconds", sa.Double, nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.UniqueConstraint("study", "strategy", "trial", name="sb_entries_key"),
    )
    op.create_table(
        "sb_tracks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("workload", sa.String(200), nullable=False),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.UniqueConstraint("workload", "key", name="sb_tracks_key"),
    )
    op.create_table(
        "sb_costs",
        sa.Column("track", sa.Integer, sa.ForeignKey("sb_tracks.id"), primary_key=True),
        sa.Column("entry", sa.String(16), sa.ForeignKey("sb_entries.id"), primary_key=True),
        sa.Column("accuracy", sa.Double, nullable=False),
        sa.Column("drop", sa.Double, nullable=False),
        sa.Column("speedup", sa.Double),
        sa.Column("low", sa.Double),
        sa.Column("high", sa.Double),
        sa.Column("latency", sa.Double),
        sa.Column("energy", sa.Double),
        sa.Column("unstable", sa.Boolean, nullable=False),
    )
    op.create_index("sb_costs_front", "sb_costs", ["track", "speedup", "accuracy", "entry"])
    op.create_index("sb_costs_entry", "sb_costs", ["entry"])
    op.create_table(
        "sb_references",
        sa.Column("workload", sa.String(200), primary_key=True),
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("latency", sa.Double, nullable=False),
        sa.Column("dense_accuracy", sa.Double, nullable=False),
    )
    op.execute("INSERT INTO sb_meta (name, value) VALUES ('schema', '1')")
