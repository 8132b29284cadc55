"""The lock between processes, pinning, telemetry and the fingerprint on the machine that runs the tests."""

import concurrent.futures
import itertools
import math
import os
import platform
import re
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cost_models.machine import Telemetry, exclusive, fingerprint, pinned, processor
from workloads import InputError

HOLD = """
import sys
from cost_models.machine import exclusive
from workloads import InputError
try:
    with exclusive(sys.argv[1], timeout=float(sys.argv[2])):
        print("in", flush=True)
        sys.stdin.readline()
except InputError as error:
    print("refused:", error)
"""


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def process(device, timeout=0.2):
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, device, str(timeout)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_a_second_process_waits_outside():
    with exclusive("toy"):
        out, _ = process("toy").communicate(timeout=60)
        assert out.startswith("refused: device toy") and out.count("\n") == 1
        out, _ = process("other").communicate("\n", timeout=60)
        assert out == "in\n"
    out, _ = process("toy").communicate("\n", timeout=60)
    assert out == "in\n"


def test_a_killed_process_holds_nothing():
    killed = process("toy")
    assert killed.stdout.readline() == "in\n"
    with pytest.raises(InputError), exclusive("toy", timeout=0.05):
        pass
    killed.kill()
    killed.communicate()
    with exclusive("toy", timeout=5):
        pass


def test_the_lock_belongs_to_its_owner_only(tmp_path):
    with exclusive("toy"):
        (lock,) = tmp_path.glob("shrinkboard-*")
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600


TURNS = """
import sys, time
from cost_models.machine import exclusive
print("ready", flush=True)
sys.stdin.readline()
for _ in range(15):
    asked = time.monotonic()
    with exclusive("toy", timeout=60):
        entered = time.monotonic()
        time.sleep(0.02)
        print(entered, time.monotonic(), asked, flush=True)
"""


def test_two_processes_never_measure_at_once():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TURNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    turns = []
    for who, process in enumerate(processes):
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        turns += [(*map(float, line.split()), who) for line in out.splitlines()]
    turns.sort()
    assert len(turns) == 30
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(turns))
    # They did want it at the same time: each asked for it before the other was through.
    for who in (0, 1):
        first_asked = min(asked for *_, asked, asker in turns if asker == who)
        assert first_asked < max(left for _, left, _, holder in turns if holder != who)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_pinning_to_several_cpus_turns_through_all():
    allowed = os.sched_getaffinity(0)
    for count in (1, 2, len(allowed), len(allowed) + 3):
        seen = set()
        with pinned(count) as pin:
            for _ in allowed:
                own = os.sched_getaffinity(0)
                assert own == set(pin.cpus) and len(own) == min(count, len(allowed))
                with concurrent.futures.ThreadPoolExecutor(1) as threads:  # a thread that starts now goes along
                    assert threads.submit(os.sched_getaffinity, 0).result() == own
                seen |= own
                pin.move()
        assert seen == allowed == os.sched_getaffinity(0)


def test_where_nothing_can_be_pinned_nothing_is(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(2) as pin:
        pin.move()
        assert pin.cpus == ()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_pinning_is_undone():
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), pinned() as pin:
        assert os.sched_getaffinity(0) == {max(before)}
        for _ in before:
            pin.move()
        assert os.sched_getaffinity(0) == {max(before)}
        raise KeyError
    assert os.sched_getaffinity(0) == before


def test_telemetry_reads_figures_or_none():
    seen = Telemetry().read()
    assert set(seen) == {"seconds", "steal", "switches", "pressure", "cpus", "frequency"}
    assert all(value is None or (math.isfinite(value) and value >= 0) for value in seen.values())


def proc(path):
    try:
        return Path("/proc", path).read_text()
    except OSError as error:
        pytest.skip(f"/proc/{path}: {error.strerror}")


def company(cpu):
    return subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_switches_and_pressure_are_those_of_the_system():
    """A busy process on the same CPU makes both; /proc says how many."""

    def counters():
        stalled = float(re.search(r"some .*total=(\d+)", proc("pressure/cpu"))[1]) / 1e6
        return stalled, int(re.search(r"nonvoluntary_ctxt_switches:\s*(\d+)", proc("thread-self/status"))[1])

    with pinned() as pin:
        hog = company(pin.cpus[0])
        try:
            outside = counters()
            telemetry = Telemetry()
            inside = counters()
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                pass
            inner = counters()
            seen = telemetry.read()
            outer = counters()
        finally:
            hog.kill()
            hog.wait()
    assert seen["cpus"] == 1 and seen["seconds"] >= 1.0
    stalled, switched = seen["pressure"] * seen["seconds"], seen["switches"] * seen["seconds"]
    # What lies between the readings inside and outside of the telemetry's is all that may differ.
    assert inner[0] - inside[0] - 1e-3 <= stalled <= outer[0] - outside[0] + 1e-3
    assert inner[1] - inside[1] <= round(switched) <= outer[1] - outside[1]
    assert switched > 5 and seen["pressure"] > 0.1


def test_steal_is_a_share_of_the_jiffies_of_the_cpus_in_use():
    """/proc/stat with 30 of 200 new jiffies stolen; guest time is in user time already and not counted twice."""
    cpu = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    others = "cpu  900 0 0 9000 0 0 0 0 0 0\n" + f"cpu{cpu + 1} 0 0 0 {{}} 0 0 0 0 0 0\n"
    files = iter(
        [
            others.format(100) + f"cpu{cpu} 100 0 100 800 0 0 0 50 7 0\n",
            others.format(900) + f"cpu{cpu} 150 0 120 900 0 0 0 80 9 0\n",
        ]
    )
    real = Path.read_text

    def read_text(path, *args, **kwargs):
        return next(files) if path == Path("/proc/stat") else real(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", read_text)
        with pinned():
            assert Telemetry().read()["steal"] == pytest.approx(30 / 200)


def test_frequency_is_that_of_the_cpu_in_use():
    with pinned():
        seen = Telemetry().read()["frequency"]
        cpu = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        limits = Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq")
        if not limits.exists():
            assert seen is None
            return
        low, high = (float((limits / f"cpuinfo_{end}_freq").read_text()) * 1e3 for end in ("min", "max"))
    assert 0.9 * low <= seen <= 1.1 * high


def test_telemetry_without_any_source(monkeypatch):
    def unreadable(*_args, **_kwargs):
        raise OSError

    monkeypatch.setattr(Path, "read_text", unreadable)
    monkeypatch.setitem(sys.modules, "resource", None)
    seen = Telemetry().read()
    assert [seen[name] for name in ("steal", "switches", "pressure", "frequency")] == [None] * 4


def test_the_fingerprint_tells_runtimes_apart_and_not_hosts(monkeypatch):
    before = fingerprint({"version": "1"})
    assert len(before) == 8 and before != fingerprint({"version": "2"})
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert fingerprint({"version": "1"}) == before
    assert platform.node() not in processor().model
