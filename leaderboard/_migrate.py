"""Old boards are brought up to date by the revisions in `migrations`. Alembic is imported here only, for it is slow."""

from __future__ import annotations

import threading

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

# Alembic's `op`, which the revisions call, is one for the whole process.
_ONE_AT_A_TIME = threading.Lock()


def upgrade(connection: Connection, stamped: int | None = None, to: str = "head") -> None:
    """Runs what is missing up to a revision, in the connection's own transaction.

    `stamped` is the version of a board from before migrations, which Alembic cannot know.
    """
    config = Config()
    config.set_main_option("script_location", "leaderboard:migrations")
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        if stamped is not None:
            command.stamp(config, str(stamped))
        command.upgrade(config, to)
