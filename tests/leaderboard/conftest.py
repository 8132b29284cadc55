import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings

from leaderboard import Store

# A shared machine stalls now and then; how long an example takes is not what these tests ask.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

POSTGRES = os.environ.get("SHRINKBOARD_TEST_POSTGRES")
"""URL of an empty PostgreSQL database; the tests of the store then run on it too, and drop our tables in it."""


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a storage that holds nothing of ours."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/board.db"
    assert POSTGRES
    engine = sa.create_engine(POSTGRES)
    with engine.begin() as connection:
        for table in sa.inspect(connection).get_table_names():
            if table.startswith("sb_"):
                connection.exec_driver_sql(f"DROP TABLE {table} CASCADE")
    engine.dispose()
    return POSTGRES


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened
