"""The store: what goes in comes out, all or nothing, from several processes, and never with a password."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from board_samples import cost, entry, scored

from leaderboard import LeaderboardError, Query, Reference, Store

ROOT = Path(__file__).parents[2]


def test_entries_come_back_as_they_went_in(store: Store) -> None:
    given = [entry(trial=trial, plan={"trial": trial}) for trial in range(5)]
    assert store.add_many(given) == 5
    assert list(store.entries()) == given
    assert list(store.entries("first")) == given
    assert list(store.entries("other")) == []
    assert all(store.get(one.id[:12]) == one for one in given)


def test_adding_twice_changes_nothing_and_other_content_is_refused(store: Store) -> None:
    assert store.add(entry())
    assert not store.add(entry(created="2020-01-01T00:00:00Z"))
    with pytest.raises(LeaderboardError, match="study 'first', strategy 'pca_l1\\+int', trial 0 is already entry"):
        store.add(entry(seed=7))
    assert list(store.entries()) == [entry(created=next(store.entries()).created)]


def test_a_refused_batch_leaves_nothing(store: Store) -> None:
    store.add(entry())
    with pytest.raises(LeaderboardError, match=r"b\.json: study"):
        store.add_many([scored(1, 0.9, 1.5, workload="new"), entry(seed=7)], sources=["a.json", "b.json"])
    assert len(list(store.entries())) == 1
    assert [track.workload for track in store.query(Query()).tracks] == ["digits/cnn"]
    with pytest.raises(LeaderboardError, match="'new' has no entries"):
        store.query(Query(workload="new"))


def test_measured_and_modelled_never_share_a_key(store: Store) -> None:
    store.add(entry())
    with pytest.raises(LeaderboardError, match="measured and modelled are never ranked together"):
        store.add(entry(trial=1, costs=[cost(kind="modelled")]))


@pytest.mark.parametrize("prefix", ["", "abc", "xyzw", "%%%%", "' OR 1=1 --", "A" * 16, "ffffffffff"])
def test_bad_prefix(store: Store, prefix: str) -> None:
    store.add(entry())
    with pytest.raises(LeaderboardError) as caught:
        store.get(prefix)
    assert "\n" not in str(caught.value)


def test_an_ambiguous_prefix(store: Store) -> None:
    ids: dict[str, str] = {}
    given = [entry(trial=trial) for trial in range(1000)]
    for one in given:  # a thousand ids have two with the same first four digits, almost surely
        if one.id[:4] in ids:
            store.add_many([one, next(other for other in given if other.id == ids[one.id[:4]])])
            with pytest.raises(LeaderboardError, match="several entries"):
                store.get(one.id[:4])
            return
        ids[one.id[:4]] = one.id
    pytest.fail("no two ids alike")


def test_references_are_frozen_by_the_first(store: Store) -> None:
    assert store.reference("w", "k") is None
    first = Reference(1e-3, 0.9, 1500.0)
    assert store.freeze_reference("w", "k", first) == first
    assert store.freeze_reference("w", "k", Reference(2e-3, 0.8)) == first
    assert store.reference("w", "k") == first
    for bad in (Reference(0.0, 0.9), Reference(float("nan"), 0.9), Reference(1.0, 1.5), Reference(1.0, 0.5, 0.0)):
        with pytest.raises(LeaderboardError):
            store.freeze_reference("w", "k2", bad)


WRITER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/leaderboard"]
from leaderboard import Reference, Store
from board_samples import entry
with Store(sys.argv[2]) as store:
    for trial in range(30):
        store.add(entry(study=sys.argv[3], trial=trial))
        store.add(entry(study="both", trial=trial))
        store.freeze_reference("w", str(trial), Reference(float(sys.argv[4]), 0.9))
"""


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    file = str(tmp_path / "board.db")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(ROOT), file, name, number], stderr=subprocess.PIPE, text=True
        )
        for name, number in (("one", "1"), ("two", "2"), ("three", "3"))
    ]
    for writer in writers:
        assert writer.wait(timeout=50) == 0, writer.stderr and writer.stderr.read()
        assert writer.stderr
        writer.stderr.close()
    with Store(file) as store:
        assert len(list(store.entries())) == 4 * 30
        assert store.query(Query(limit=1)).tracks[0].matched == 4 * 30
        assert store.reference("w", "0") is not None


BAD_URLS = [
    "",
    "mysql://me:hunter2@host/board",
    "postgresql://me:hunter2@127.0.0.1:1/board",
    "postgresql://me:hunter2/with@slash@127.0.0.1:port/board",
    "postgresql://127.0.0.1:1/board?user=me&password=hunter2",
    "nonsense://me:hunter2@host",
    "://",
    "a\0b",
    "x" * 5000,
    "sqlite:////nowhere/at/all/board.db",
    "nowhere/board.db",
]


@pytest.mark.parametrize("url", BAD_URLS, ids=lambda url: url[:30])
def test_a_storage_that_cannot_be_opened(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LeaderboardError) as caught:
        Store(url)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    assert "hunter2" not in message
    assert "storage" in message
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_board(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    for path in (tmp_path, text):
        with pytest.raises(LeaderboardError) as caught:
            Store(str(path))
        assert "\n" not in str(caught.value)
    assert text.read_text() == "not a database " * 100
    with pytest.raises(LeaderboardError, match="does not exist"):
        Store(str(tmp_path / "new.db"), create=False)
    assert not (tmp_path / "new.db").exists()
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE studies (id)").connection.close()
    with pytest.raises(LeaderboardError, match="holds no leaderboard yet"):
        Store(str(tmp_path / "other.db"), create=False)
    Store(str(tmp_path / "other.db")).close()  # beside Optuna's tables


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    file = str(tmp_path / "board.db")
    Store(file).close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE sb_alembic_version SET version_num = '999'")
    with pytest.raises(LeaderboardError, match="has schema 999"):
        Store(file)


def test_all_spellings_of_a_file_are_one_storage(tmp_path: Path) -> None:
    file = tmp_path / "with space?.db"
    with Store(str(file)) as store:
        store.add(entry())
    assert file.exists()
    with Store(f"sqlite:///{tmp_path}/plain.db") as store:
        store.add(entry())
    with Store(str(tmp_path / "plain.db"), create=False) as store:
        assert len(list(store.entries())) == 1


def test_a_damaged_document_is_one_line(tmp_path: Path) -> None:
    file = str(tmp_path / "board.db")
    with Store(file) as store:
        store.add(entry())
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE sb_entries SET document = replace(document, '0.97', '0.99')")
        with pytest.raises(LeaderboardError, match="it was changed"):
            store.get(entry().id)


def test_importing_the_room_is_light() -> None:
    heavy = {"pandas", "sqlalchemy", "pydantic", "numpy", "torch", "moocore"}
    code = f"import sys; import leaderboard, leaderboard.commands; print(sorted({heavy} & set(sys.modules)))"
    out: Any = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert out.stdout.strip() == "[]", out.stderr
