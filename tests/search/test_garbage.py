"""What nobody needs goes; what some storage needs, or might, stays."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from leaderboard import Entry, Store
from search import Job
from search.boards import forget_boards, note_board, noted_boards, open_boards
from search.checkpoints import checkpoint_path
from search.drivers import Presence
from search.entry_commands import gc
from search.garbage import find_waste, remove
from search.leases import Leases
from search.networks import keep_network, network_file
from search.patience import Patience
from search.unsaved import keep_unsaved
from strategies import Compressed, strategy
from workloads import Dense, InputError

from .fakes import FakeEvaluator
from .test_campaign import campaign, run

DAY = 24 * 3600.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHRINKBOARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path: Path, cache: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "board.db")) as store:
        yield store


def network(digits: Dense, keep: float, days: float = 3.0, study: str = "ended") -> str:
    """Keeps a network, and makes it so old; its digest."""
    made: Compressed = strategy("uniform").compress(digits, strategy("uniform").plan(digits, {"keep": keep}))
    digest = keep_network(made, digits, study)
    assert digest is not None
    return aged(network_file(digest), days).stem


def aged(path: Path, days: float) -> Path:
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def entry_of(digits: Dense, weights: str) -> Entry:
    plan = strategy("uniform").plan(digits, {})
    found = FakeEvaluator(digits).run(Job("s", "uniform", 0, "candidate", plan.to_json(), {}, 1.0))
    assert isinstance(found, Entry)
    return Entry.create(**found.model_dump() | {"weights": weights})


def paused(study: str, trial: int, days: float = 3.0) -> Path:
    path = checkpoint_path(study, "l1+int", trial, "plan", "dense", 1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half trained")
    return aged(path, days)


def waste(*stores: Store) -> set[str]:
    return {one.path.name if "paused" in str(one.path) else one.path.stem for one in find_waste(stores)}


def test_networks_go_that_no_entry_names_and_only_old_ones(store: Store, digits: Dense) -> None:
    needed, spare = network(digits, 0.5), network(digits, 0.4)
    network(digits, 0.3, days=0.5)
    store.add(entry_of(digits, needed))
    assert waste(store) == {spare}
    assert [(one.kind, one.bytes) for one in find_waste([store])] == [("network", network_file(spare).stat().st_size)]
    remove(find_waste([store]))
    assert network_file(needed).exists() and not network_file(spare).exists() and waste(store) == set()


def test_a_network_that_another_storage_names_stays(store: Store, digits: Dense, tmp_path: Path) -> None:
    theirs, spare = network(digits, 0.5), network(digits, 0.4)
    with Store(str(tmp_path / "other.db")) as other:
        other.add(entry_of(digits, theirs))
        assert waste(store, other) == {spare}
    assert waste(store) == {theirs, spare}


def test_what_waits_for_its_storage_stays(store: Store, digits: Dense) -> None:
    keep_unsaved(entry_of(digits, network(digits, 0.5)))
    assert waste(store) == set()


def test_a_network_that_is_kept_again_is_young_again(store: Store, digits: Dense) -> None:
    digest = network(digits, 0.5)
    made = strategy("uniform").compress(digits, strategy("uniform").plan(digits, {"keep": 0.5}))
    assert keep_network(made, digits, "another") == digest
    assert waste(store) == set()


def test_nothing_of_a_running_study_goes(store: Store, digits: Dense) -> None:
    ours, others = network(digits, 0.5, study="live"), network(digits, 0.4)
    pause, other_pause = paused("live", 3), paused("dead", 3)
    presence = Presence(store, "live", "local", 1)
    try:
        assert waste(store) == {others, other_pause.name}
    finally:
        presence.leave()
    assert waste(store) == {ours, others, pause.name, other_pause.name}


def test_candidates_that_a_later_run_takes_up_stay(store: Store) -> None:
    presence = Presence(store, "s", "local", 1)
    leases = Leases(store, "s", presence, Patience())
    waits, ended = (leases.claim("l1+int", digest, {}, -1) for digest in ("a", "b"))
    assert waits is not None and ended is not None
    leases.end("l1+int", ended, "rejected", "beaten")
    leases.leave([])
    presence.leave()
    kept, gone, unknown = paused("s", waits), paused("s", ended), paused("s", 99)
    assert waste(store) == {gone.name, unknown.name}
    paused("s", ended, days=0.1)
    assert waste(store) == {unknown.name}
    remove(find_waste([store]))
    assert kept.exists() and not unknown.exists()


def test_what_a_killed_process_has_left_goes_and_empty_folders_with_it(store: Store, cache: Path) -> None:
    half = paused("s", 0)
    half.rename(half.with_name(".0-abc-x7"))
    dense = cache / "dense" / "digits.safetensors"
    dense.parent.mkdir()
    dense.write_bytes(b"trained")
    aged(dense, 1000.0)
    [one] = find_waste([store])
    assert one.kind == "left over"
    remove([one])
    assert not half.parent.exists() and dense.exists()


def test_every_storage_that_was_searched_into_is_asked(
    digits: Dense, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(str(tmp_path / "searched.db")) as searched:
        run(searched, FakeEvaluator(digits), trials=1, campaign=campaign(("uniform",)))
    assert [board.name for board in noted_boards()] == [str(tmp_path / "searched.db")]
    note_board(store)
    note_board(Store(":memory:"))  # nobody can ask it later
    monkeypatch.chdir(tmp_path)
    opened = open_boards(["board.db"], [])
    assert sorted(Path(found.name.removeprefix("sqlite:///")).name for found in opened) == ["board.db", "searched.db"]
    for found in opened:
        found.close()


@pytest.mark.parametrize("broken", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no database" * 100)])
def test_a_storage_that_cannot_be_asked_stops_everything(
    store: Store, tmp_path: Path, broken: Callable[[Path], None]
) -> None:
    path = tmp_path / "moved.db"
    with Store(str(path)) as moved:
        note_board(moved)
    broken(path)
    with pytest.raises(InputError, match=r"can be asked: .*moved\.db.*: --without /") as refusal:
        open_boards([str(tmp_path / "board.db")], [])
    assert "\n" not in str(refusal.value)
    [only] = open_boards([str(tmp_path / "board.db")], [str(path)])
    only.close()
    forget_boards([str(path)])
    assert noted_boards() == []


def test_a_database_on_a_server_is_asked_only_where_it_is_named(cache: Path, postgres: str, store: Store) -> None:
    with Store(make_url(postgres).set(password="open-sesame").render_as_string(hide_password=False)) as server:
        note_board(server)
    note_board(store)
    [noted] = [board.name for board in noted_boards() if not board.is_file]
    assert "sesame" not in "".join(note.read_text() for note in (cache / "boards").iterdir())
    with pytest.raises(InputError, match=r"on a server.*: --without postgresql://"):
        open_boards([], [])
    for storages, without, count in (([postgres], [], 2), ([], [noted], 1)):
        opened = open_boards(storages, without)
        assert len(opened) == count
        for found in opened:
            found.close()


def test_where_no_storage_is_known_nothing_is_waste(cache: Path) -> None:
    with pytest.raises(InputError, match="no storage is known to use this cache"):
        open_boards([], [])


def test_the_command_tells_what_would_go_and_removes_it_when_asked(
    store: Store, digits: Dense, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spare, size = network(digits, 0.5), network_file(network(digits, 0.5)).stat().st_size
    asked = [str(tmp_path / "board.db")]
    gc(dry_run=True, older_than="1h", storage=asked, without=None, format="json")
    told = json.loads(capsys.readouterr().out)
    assert (told["removed"], told["bytes"]) == (False, size)
    assert told["files"] == [{"file": str(network_file(spare)), "kind": "network", "bytes": size}]
    gc(dry_run=False, older_than="100h", storage=asked, without=None, format="table")
    assert "nothing in" in capsys.readouterr().out and network_file(spare).exists()
    gc(dry_run=False, older_than="1h", storage=asked, without=None, format="table")
    assert f"{size:,} bytes removed from" in capsys.readouterr().out and not network_file(spare).exists()
