"""What a device was like in calm, remembered between processes: how long, how little, and what if the file is bad."""

import contextlib
import errno
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import calm
from cost_models.calm import LIFETIME, CalmLevels
from cost_models.measured import MeasuredTarget, Program, Quiet, Session
from cost_models.power.meter import NoMeter
from cost_models.timing import Effort
from workloads import FP32

SEE = """
import sys
from cost_models.calm import CalmLevels
levels = CalmLevels("target@1", "network")
print("ready", flush=True)
sys.stdin.readline()
for level in sys.argv[1:]:
    levels.seen(float(level))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHRINKBOARD_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def levels():
    return CalmLevels("target@1", "network")


@pytest.fixture
def now(monkeypatch):
    """A clock that the test sets: now[0]."""
    moment = [1e9]
    monkeypatch.setattr(calm.time, "time", lambda: moment[0])
    return moment


def file_in(cache):
    (path,) = cache.rglob("*.json")
    return path


def test_nothing_is_known_at_first(levels):
    assert levels.known() is None


def test_the_lowest_level_stays_and_each_measurement_keeps_its_own(levels):
    assert [levels.seen(level) for level in (3e-3, 2e-3, 5e-3)] == [3e-3, 2e-3, 5e-3]
    assert levels.known() == CalmLevels("target@1", "network").known() == 2e-3


def test_targets_and_networks_are_apart(levels):
    levels.seen(1e-3)
    assert CalmLevels("target@2", "network").known() is None
    assert CalmLevels("target@1", "other").known() is None


def test_a_level_is_believed_for_a_day(levels, now):
    levels.seen(1e-3)
    now[0] += LIFETIME
    assert levels.known() == 1e-3
    now[0] += 1
    assert levels.known() is None
    levels.seen(4e-3)  # higher than the old one, which no longer counts
    assert levels.known() == 4e-3


def test_a_higher_level_does_not_prolong_the_lower(levels, now):
    levels.seen(1e-3)
    now[0] += LIFETIME / 2
    levels.seen(2e-3)
    now[0] += LIFETIME / 2 + 1
    assert levels.known() is None


def test_a_level_from_the_future_is_not_believed(levels, now):
    levels.seen(1e-3)
    now[0] -= 10
    assert levels.known() is None


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe\x00", b'{"seconds": 1}', b'{"seconds": "x", "time": 1}',
     b'{"seconds": null, "time": null}', b'{"seconds": [1], "time": 1}', b"[" * 100_000]
    + [json.dumps({"seconds": level, "time": 1e9}).encode() for level in (0.0, -1.0, math.nan, math.inf)],
)  # fmt: skip
def test_a_damaged_file_is_no_level_and_is_written_anew(levels, now, cache, damage):
    levels.seen(1e-3)
    file_in(cache).write_bytes(damage)
    assert levels.known() is None
    levels.seen(2e-3)
    assert levels.known() == 2e-3


@given(st.binary(max_size=40))
def test_no_file_makes_it_fail(damage):
    levels = CalmLevels("target@1", "network")
    levels.seen(1e-3)
    file_in(Path(os.environ["SHRINKBOARD_CACHE"])).write_bytes(damage)
    assert levels.known() is None or levels.known() > 0


def test_a_folder_that_cannot_be_written_forgets(levels, cache):
    # A file where the folder should be refuses every user, root too, as a read-only folder refuses others.
    (cache / "calm").write_text("in the way")
    assert levels.seen(1e-3) == 1e-3
    assert levels.known() is None


def test_a_disk_that_fills_up_in_the_middle_keeps_the_old_level(levels, cache, monkeypatch):
    levels.seen(2e-3)

    def half(handle, mode):
        os.write(handle, b'{"sec')
        os.close(handle)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fdopen", half)
    assert levels.seen(1e-3) == 1e-3
    assert levels.known() == 2e-3
    assert list((cache / "calm").iterdir()) == [file_in(cache)]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_keeps_what_it_has(levels, cache):
    levels.seen(2e-3)
    (cache / "calm").chmod(0o500)
    try:
        assert levels.seen(1e-3) == 1e-3
        assert levels.known() == 2e-3
    finally:
        (cache / "calm").chmod(0o700)


def test_two_processes_at_once_leave_a_whole_file(levels, cache):
    """Each lowers the level again and again; whoever reads sees a whole level all the time."""
    ours, theirs = ([1 / (10 + 2 * step + odd) for step in range(200)] for odd in (0, 1))
    process = subprocess.Popen(
        [sys.executable, "-c", SEE, *map(repr, theirs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    for level in ours:
        levels.seen(level)
        assert levels.known() is not None
    process.communicate(timeout=60)
    assert process.returncode == 0
    # Whoever wrote last may not have seen the other's last level.
    assert levels.known() in (ours[-1], theirs[-1])
    assert list((cache / "calm").iterdir()) == [file_in(cache)]


class Device(MeasuredTarget):
    """A runtime on a clock of its own, of whose disturbance `slowdown` tells."""

    device, base, summary = "toy", "toy", "a clock that the test winds"

    def __init__(self):
        super().__init__(Effort(budget=0.1, pairs=20), Effort(budget=0.1, pairs=5))
        self.now, self.slowdown = 0.0, 1.0

    def _build(self, deployable):
        return Network(self, {layer.name: (FP32, FP32) for layer in deployable.network.compute_layers})

    def _runtime(self):
        return {"runtime": "toy"}

    @contextlib.contextmanager
    def _quiet(self):
        yield Quiet(lambda: None, lambda: self.now)

    def _meter(self):
        return NoMeter("a clock draws nothing")


class Network(Program):
    memory = 1

    def __init__(self, device, executed):
        self.device, self.executed = device, executed

    def session(self, batch, threads):
        return Toy(self.device)


class Toy(Session):
    def __init__(self, device):
        self.device = device

    def feed(self, images):
        pass

    def run(self):
        self.device.now += 1e-3 * self.device.slowdown

    def fetch(self):
        raise NotImplementedError


@pytest.fixture
def dense(network, deploy, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # of the lock
    return deploy(network("plain"))


def test_a_study_that_starts_in_disturbance_freezes_the_calm_that_was_seen_before(dense):
    device = Device()
    calm_reference = device.freeze(dense)
    assert calm_reference.latency == pytest.approx(1e-3)
    later = Device()
    later.slowdown = 1.3
    assert later.freeze(dense).latency == pytest.approx(1e-3)
    assert later.cost(dense, calm_reference).unstable
    later.slowdown = 1.0
    assert not later.cost(dense, calm_reference).unstable


def test_without_an_earlier_level_the_first_calm_measurement_corrects_the_level(dense):
    device = Device()
    device.slowdown = 1.3
    reference = device.freeze(dense)
    assert reference.latency == pytest.approx(1.3e-3)
    device.slowdown = 1.0
    cost = device.cost(dense, reference)
    assert not cost.unstable and cost.telemetry["reference_slowdown"] == pytest.approx(1 / 1.3)
    device.slowdown = 1.3  # what passed for calm before now is disturbance
    assert device.cost(dense, reference).unstable
    assert Device().freeze(dense).latency == pytest.approx(1e-3)
