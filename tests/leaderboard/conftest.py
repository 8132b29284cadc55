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
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = str(tmp_path / "board.db")
    if request.param == "postgresql":
        assert POSTGRES
        url = POSTGRES
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            for table in ("finals", "costs", "tracks", "entries", "benchmarks", "references", "meta"):
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS sb_{table}")
        engine.dispose()
    with Store(url) as opened:
        yield opened
