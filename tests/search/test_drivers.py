"""Drivers of a study: who lives, who is dead, who is merely not heard, and what they are asked to do."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from leaderboard import StorageUnavailable, Store
from search import drivers
from search.drivers import Presence, ask_to_stop, drivers_of
from search.processes import is_alive, machine, this_process


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "board.db")) as opened:
        yield opened


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(drivers, "time", clock)
    monkeypatch.setattr(drivers, "BEAT", 3600.0)  # nobody looks but the test
    return clock


@pytest.fixture
def join(store: Store, clock: Clock) -> Iterator[Callable[[], Presence]]:
    """Begins one more driver."""
    begun: list[Presence] = []

    def one() -> Presence:
        begun.append(Presence(store, "s", "local", 1))
        return begun[-1]

    yield one
    for presence in begun:
        presence.leave()


def move(store: Store, driver: str, **values: object) -> None:
    """Makes a driver's row one of another process or machine."""
    with store.transaction(write=True) as connection:
        connection.execute(sa.update(drivers.drivers).where(drivers.drivers.c.id == driver).values(**values))


def gone_process() -> str:
    """A process of this machine that lived, and is dead."""
    tell = "from search.processes import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True).stdout.strip()


def test_drivers_see_each_other_and_one_that_has_left_is_dead(join: Callable[[], Presence], store: Store) -> None:
    first = join()
    second = join()
    assert [other.id for other in second.others] == [first.id]
    first.look()
    assert [other.id for other in first.others] == [second.id]
    assert not first.is_dead(second.id)
    second.leave()
    first.look()
    assert first.others == [] and first.is_dead(second.id)
    assert next(d for d in drivers_of(store, "s") if d.id == second.id).ended is not None


def test_a_dead_process_of_this_machine_is_seen_at_once(join: Callable[[], Presence], store: Store) -> None:
    first, second = join(), join()
    move(store, second.id, process=gone_process())
    first.look()
    assert first.is_dead(second.id)


def test_a_process_of_another_machine_is_dead_only_after_its_row_stood_still_for_a_lease(
    join: Callable[[], Presence], store: Store, clock: Clock
) -> None:
    first, second = join(), join()
    move(store, second.id, machine="elsewher", process=gone_process())
    for seconds, dead in ((0.0, False), (drivers.LEASE - 1, False), (2.0, True)):
        clock.now += seconds
        first.look()
        assert first.is_dead(second.id) is dead
    second.look()  # it was only stopped
    first.look()
    assert not first.is_dead(second.id)


def test_clocks_of_machines_are_not_compared(join: Callable[[], Presence], store: Store, clock: Clock) -> None:
    first, second = join(), join()
    move(store, second.id, machine="elsewher", beat=0.0)  # a clock that is decades behind
    first.look()
    for beat in range(1, 4):
        clock.now += drivers.LEASE - 1
        move(store, second.id, beat=float(beat))
        first.look()
        assert not first.is_dead(second.id)


def test_a_driver_that_nobody_knows_is_not_dead(join: Callable[[], Presence]) -> None:
    assert not join().is_dead("0" * 16)


def test_other_studies_are_not_looked_at(join: Callable[[], Presence], store: Store) -> None:
    first = join()
    other = Presence(store, "another", "local", 1)
    first.look()
    assert first.others == []
    assert [driver.study for driver in drivers_of(store)] == ["s", "another"]
    other.leave()


def test_after_an_outage_whoever_lives_has_its_whole_time(
    join: Callable[[], Presence], store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = join(), join()
    move(store, second.id, machine="elsewher")
    first.look()
    clock.now += drivers.LEASE - 1
    monkeypatch.setattr(drivers, "BEAT", 0.01)
    real, tries = first._store, [0]

    class Away:
        def __getattr__(self, name: str) -> Callable[..., None]:
            tries[0] += 1
            raise StorageUnavailable("away")

    first._store = Away()  # type: ignore[assignment]
    first._left.set()  # its own thread waits for an hour
    first._thread.join()
    first._left.clear()
    first._thread = threading.Thread(target=Presence._live, args=(first,), daemon=True)
    first._thread.start()
    wait_for(lambda: tries[0] > 2)
    clock.now += drivers.LEASE
    first._store = real
    beat = beat_of(store, first.id)
    clock.now += 1.0
    wait_for(lambda: beat_of(store, first.id) != beat)
    assert not first.is_dead(second.id)
    clock.now += drivers.LEASE + 1
    wait_for(lambda: first.is_dead(second.id))


def test_a_wish_to_stop_is_heard(join: Callable[[], Presence], store: Store) -> None:
    first, second, third = join(), join(), join()
    third.leave()
    move(store, second.id, process=gone_process())
    assert first.stop == ""
    assert ask_to_stop(store, "s", "soon") == 1  # who has left or died needs no asking
    first.look()
    assert first.stop == "soon"
    assert ask_to_stop(store, "s", "now") == 1
    first.look()
    assert first.stop == "now"


def test_the_row_says_what_the_workers_do(join: Callable[[], Presence], store: Store) -> None:
    first = join()
    first.jobs = lambda: [{"strategy": "l1", "trial": 3, "stage": "full", "since": 1.0}]
    first.look()
    [driver] = drivers_of(store, "s")
    assert driver.jobs == [{"strategy": "l1", "trial": 3, "stage": "full", "since": 1.0}]
    assert (driver.executor, driver.workers, driver.machine, driver.process) == ("local", 1, machine(), this_process())
    assert not driver.gone


def test_a_storage_without_drivers_has_none(store: Store) -> None:
    assert drivers_of(store) == []


def test_a_process_is_told_from_a_later_one_of_the_same_number() -> None:
    number, _, started = this_process().partition(".")
    assert is_alive(f"{number}.{started}")
    assert not is_alive(f"{number}.{int(started) + 1}")
    assert not is_alive(gone_process())


def test_a_zombie_is_dead() -> None:
    tell = "from search.processes import this_process; print(this_process(), flush=True)"
    child = subprocess.Popen([sys.executable, "-c", tell], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = child.stdout.read().strip()
    wait_for(lambda: not is_alive(told))  # nobody has asked for its end yet
    child.wait()


def beat_of(store: Store, driver: str) -> float:
    return next(d.beat for d in drivers_of(store, "s") if d.id == driver)


def wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end, "it did not come to that in 20 s"
        time.sleep(0.01)
