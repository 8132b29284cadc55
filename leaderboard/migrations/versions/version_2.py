"""The whole cost of training."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "2", "1"


def upgrade() -> None:
    op.add_column("sb_entries", sa.Column("starts_from", sa.String(20)))
    for name in ("total_epochs", "epoch_fp32", "epoch_bf16", "dense_epoch_fp32", "dense_epoch_bf16"):
        op.add_column("sb_entries", sa.Column(name, sa.Double))
    op.add_column("sb_costs", sa.Column("total_seconds", sa.Double))
    # In version 1 every method started from the trained network.
    op.execute("UPDATE sb_entries SET total_epochs = dense_epochs + epochs")
    op.execute(
        "UPDATE sb_costs SET total_seconds = (SELECT dense_seconds + seconds FROM sb_entries WHERE id = sb_costs.entry)"
    )
    op.create_index("sb_costs_training", "sb_costs", ["track", "total_seconds", "accuracy", "entry"])
    op.execute("UPDATE sb_meta SET value = '2' WHERE name = 'schema'")
