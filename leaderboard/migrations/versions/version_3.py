"""The frozen throughput of the dense network."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "3", "2"


def upgrade() -> None:
    op.add_column("sb_references", sa.Column("throughput", sa.Double))
    op.execute("UPDATE sb_meta SET value = '3' WHERE name = 'schema'")
