"""Results on the test split and where they come from, benchmarks, and indices that hold what boards are filtered by."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision, down_revision = "4", "3"


def upgrade() -> None:
    op.add_column("sb_entries", sa.Column("evaluation_seconds", sa.Double))
    for index in ("sb_costs_front", "sb_costs_training", "sb_costs_entry"):
        op.drop_index(index, "sb_costs")
    late: dict[str, sa.types.TypeEngine[Any]] = {
        "final": sa.Boolean(),
        "strategy": sa.String(200),
        "validation": sa.Double(),
    }
    for name, kind in late.items():
        op.add_column("sb_costs", sa.Column(name, kind))
    # Before this version no test accuracy could be recorded.
    op.execute(
        "UPDATE sb_costs SET final = FALSE, validation = accuracy, "
        "strategy = (SELECT strategy FROM sb_entries WHERE id = sb_costs.entry)"
    )
    with op.batch_alter_table("sb_costs") as costs:
        for name, kind in late.items():
            costs.alter_column(name, existing_type=kind, nullable=False)
        costs.alter_column("total_seconds", existing_type=sa.Double(), nullable=False)
    covered = ["accuracy", "entry", "drop", "latency", "strategy"]
    op.create_index("sb_costs_front", "sb_costs", ["track", "final", "speedup", *covered])
    op.create_index("sb_costs_training", "sb_costs", ["track", "final", "total_seconds", *covered])
    op.create_table(
        "sb_finals",
        sa.Column("track", sa.Integer, sa.ForeignKey("sb_tracks.id"), primary_key=True),
        sa.Column("entry", sa.String(16), sa.ForeignKey("sb_entries.id"), primary_key=True),
        sa.Column("study", sa.String(200)),
        sa.Column("trial", sa.BigInteger),
        sa.Column("search_seed", sa.BigInteger),
        sa.Column("chosen", sa.Boolean, nullable=False),
    )
    op.create_table(
        "sb_benchmarks",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("workload", sa.String(200), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.execute("UPDATE sb_meta SET value = '4' WHERE name = 'schema'")
