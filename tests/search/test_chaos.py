"""Three of the faults of `scripts/chaos.py`: nothing finished is lost, nothing is left running, the number is exact."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

import shrinkboard as sb

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")


@pytest.fixture
def chaos(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(sb.__file__).parent / "scripts"))
    import chaos

    return chaos


def test_a_worker_one_of_two_drivers_and_the_database_are_killed(chaos: ModuleType) -> None:
    """With PostgreSQL where its programs are installed; SQLite otherwise, whose file is locked instead."""
    server = chaos.postgres_programs() is not None
    arm = chaos.Arm("postgresql", "local", 2, 1) if server else chaos.Arm("sqlite", "local", 1, 1)
    names = ["kill-worker", "kill-driver", "kill-database" if server else "lock-database"]
    kinds = [next(kind for kind in chaos.KINDS if kind.name == name) for name in names]
    with chaos.begun(arm, seed=0, trials=6) as run:
        faults = chaos.disturb(run, kinds, pause=0.5)
        assert [fault["kind"] for fault in faults] == names
        found, counts = chaos.breaches(run)
        assert found == []
        assert counts["finished"] == counts["asked"] == 2 * 6 + 2
        assert (counts["lost"], counts["left_running"]) == (0, 0)
        assert_that_breaches_are_found(chaos, run)
        assert run.close() == [], "no process is left behind"


def assert_that_breaches_are_found(chaos: ModuleType, run: Any) -> None:
    """The checks themselves: a board that lacks an entry, a trial that is left running, a lease that is still held."""
    engine = sa.create_engine(run.database.seen_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM sb_costs")
        connection.exec_driver_sql("DELETE FROM sb_entries WHERE strategy = 'uniform' AND trial = 0")
        connection.exec_driver_sql("UPDATE sb_leases SET state = 'running' WHERE strategy = 'chaotic' AND trial = 1")
    engine.dispose()
    optuna.load_study(study_name=f"{chaos.STUDY}/chaotic", storage=run.database.seen_url).ask()
    found = "\n".join(chaos.breaches(run)[0])
    for said in ("is gone or changed", "on the board are", "'RUNNING': 1", "still held by", "leases that are done"):
        assert said in found
