"""Old boards become new ones: the same tables as a fresh board, nothing lost, all of it or nothing.

`old_boards` holds what the programs of store versions 1 to 3 wrote; they have the same four entries.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from board_samples import entry, training

from leaderboard import LeaderboardError, Query, Reference, Store, _migrate, _tables

ROOT = Path(__file__).parents[2]
VERSIONS = (1, 2, 3)
KEY = "cpu-onnxruntime@ab12cd34"
old_versions = pytest.mark.parametrize("version", VERSIONS)


def dump(version: int) -> str:
    return (Path(__file__).parent / "old_boards" / f"version_{version}.sql").read_text()


def documents(version: int) -> list[str]:
    return re.findall(r"(?s)(\{\n\"id\".*?\n\}\n)'\);", dump(version).replace("''", "'"))


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def make_old(url: str, version: int) -> None:
    """A board as that version left it: its own dump or, in PostgreSQL, the rows of it in tables made by revisions."""
    if url.startswith("sqlite"):
        load(version, url.removeprefix("sqlite:///"))
        return
    memory = sa.create_engine("sqlite://")
    with memory.connect() as source, connected(url) as target:
        assert source.connection.dbapi_connection
        source.connection.dbapi_connection.executescript(dump(version))
        _migrate.upgrade(target, to=str(version))
        target.exec_driver_sql("DROP TABLE sb_alembic_version")
        target.exec_driver_sql("DELETE FROM sb_meta")
        made = sa.MetaData()
        made.reflect(target, only=lambda name, _: name.startswith("sb_"))
        for table in made.sorted_tables:
            rows = source.execute(sa.select(sa.Table(table.name, sa.MetaData(), autoload_with=source))).mappings().all()
            target.execute(sa.insert(table), [dict(row) for row in rows])
        target.exec_driver_sql("SELECT setval('sb_tracks_id_seq', (SELECT max(id) FROM sb_tracks))")


def load(version: int, file: str) -> None:
    connection = sqlite3.connect(file)
    connection.executescript(dump(version))
    connection.close()


def shape(url: str) -> dict[str, Any]:
    """All about the tables but the order of their columns."""
    with connected(url) as connection:
        inspector = sa.inspect(connection)
        return {
            name: {
                "columns": sorted(
                    (column["name"], str(column["type"]), column["nullable"], column["primary_key"])
                    for column in ({"primary_key": None, **column} for column in inspector.get_columns(name))
                ),
                "primary": inspector.get_pk_constraint(name)["constrained_columns"],
                "unique": sorted((one["name"], one["column_names"]) for one in inspector.get_unique_constraints(name)),
                "foreign": sorted(
                    (one["constrained_columns"], one["referred_table"], one["referred_columns"])
                    for one in inspector.get_foreign_keys(name)
                ),
                "indices": sorted((one["name"], one["column_names"]) for one in inspector.get_indexes(name)),
            }
            for name in inspector.get_table_names()
            if name.startswith("sb_")
        }


@old_versions
def test_nothing_is_lost(url: str, version: int) -> None:
    make_old(url, version)
    for _ in range(2):
        with Store(url, create=False) as store:
            assert sorted(one.to_json() for one in store.entries()) == sorted(documents(version))
            rows = store.query(Query(target="cpu-onnxruntime", front="training")).rows
            fresh = 15.5 if version == 1 else 3.5  # version 1 knew no recipes that start from fresh weights
            assert {(row.strategy, row.trial, row.accuracy, row.total_seconds) for row in rows} == {
                ("l1+int", 1, 0.95, fresh),
                ("pca_l1+int", 2, 0.97, 15.5),
                ("pca_l1+int", 0, 0.97, 15.5),
                ("dense", 0, 0.97, 15.5),
            }
            assert store.query(Query(finals=True)).rows == store.finals("digits/cnn", KEY) == []
            searched = store.searched("digits/cnn", KEY, ["first"])
            assert [(one.strategy, one.trial, one.accuracy) for one in searched] == [
                *(("l1+int", 1, 0.95), ("pca_l1+int", 0, 0.97), ("pca_l1+int", 2, 0.97)),
            ]
            throughput = 2000.0 if version == 3 else None
            assert store.reference("digits/cnn", KEY) == Reference(1e-3, 0.98, throughput)
    with Store(url) as store:
        assert not store.add_many(store.entries())
        assert store.add(entry(study="second", training=training(epoch_fp32=0.5)))
        assert store.query(Query(where="epoch_fp32 < 1 and seconds == 3.5", study="second")).rows[0].epoch_fp32 == 0.5
        learnt = store.freeze_reference("digits/cnn", KEY, Reference(2e-3, 0.5, 5.0))
        assert learnt == Reference(1e-3, 0.98, throughput or 5.0)


@old_versions
def test_a_board_of_any_version_becomes_what_a_new_one_is(url: str, version: int) -> None:
    make_old(url, version)
    Store(url).close()
    migrated = shape(url)
    with connected(url) as connection:
        ours = {
            "version_table": _tables.VERSION_TABLE,
            "include_name": lambda name, kind, _: kind != "table" or name.startswith("sb_"),
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=ours), _tables.metadata) == []
        for table in reversed([*_tables.metadata.sorted_tables, _tables.stamp]):
            table.drop(connection)
    Store(url).close()
    assert shape(url) == migrated


@old_versions
def test_the_revisions_make_what_the_programs_of_their_time_made(version: int, tmp_path: Path) -> None:
    load(version, f"{tmp_path}/old.db")
    with connected(f"sqlite:///{tmp_path}/revisions.db") as connection:
        _migrate.upgrade(connection, to=str(version))
        assert connection.exec_driver_sql("SELECT value FROM sb_meta").scalar_one() == str(version)
    made = shape(f"sqlite:///{tmp_path}/revisions.db")
    del made[_tables.VERSION_TABLE]
    assert made == shape(f"sqlite:///{tmp_path}/old.db")


OPENER = """
import sys
sys.path[:0] = [sys.argv[1]]
from leaderboard import Store
input()
with Store(sys.argv[2], create=False) as store:
    assert len(list(store.entries())) == 4
"""


def test_two_processes_open_an_old_board_at_once(url: str) -> None:
    make_old(url, 1)
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(ROOT), url], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for opener in openers:
        assert opener.stdin
        opener.stdin.write("\n")
        opener.stdin.flush()
    for opener in openers:
        _, said = opener.communicate(timeout=50)
        assert opener.returncode == 0, said


def test_an_upgrade_that_fails_leaves_the_board_as_it_was(url: str) -> None:
    make_old(url, 2)
    with connected(url) as connection:
        connection.exec_driver_sql("CREATE TABLE sb_benchmarks (other INTEGER)")  # the last that version 4 makes
    before = shape(url)
    with pytest.raises(LeaderboardError, match="sb_benchmarks") as caught:
        Store(url)
    assert "\n" not in str(caught.value)
    assert shape(url) == before
    with connected(url) as connection:
        connection.exec_driver_sql("DROP TABLE sb_benchmarks")
    with Store(url) as store:
        assert len(list(store.entries())) == 4


def test_optuna_keeps_its_own_version_in_the_same_database(url: str) -> None:
    import optuna

    make_old(url, 3)
    address = url.replace("postgresql:", "postgresql+psycopg:")
    storage = optuna.storages.RDBStorage(address)
    versions = storage.get_current_version(), storage.get_head_version()
    Store(url).close()
    again = optuna.storages.RDBStorage(address)
    assert (again.get_current_version(), again.get_head_version()) == versions


def test_alembic_is_imported_for_old_boards_only(tmp_path: Path) -> None:
    load(3, f"{tmp_path}/old.db")
    code = (
        "import sys; from leaderboard import Store\n"
        "for name in ('new', 'new', 'old'):\n"
        f"    Store(f'{tmp_path}/{{name}}.db').close(); print('alembic' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert told.stdout.split() == ["False", "False", "True"], told.stderr
