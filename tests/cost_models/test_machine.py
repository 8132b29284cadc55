"""The lock between processes, pinning, telemetry and the fingerprint on the machine that runs the tests."""

import math
import os
import platform
import socket
import stat
import subprocess
import sys
import tempfile
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
