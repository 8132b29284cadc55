"""What Alembic runs: the revisions, on the connection and in the transaction of whoever upgrades a board."""

from alembic import context

from leaderboard._tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
