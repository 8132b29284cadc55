"""Looking at a search that runs, and ending it, as a user does: each command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from search.drivers import Driver
from search.processes import is_alive, machine, this_process
from tests.test_command import shrinkboard

SEARCH = [
    "search",
    "--strategy",
    "uniform,l1",
    "--target",
    "counts",
    "--trials",
    "200",
    "--epochs",
    "0.3",
    "--study",
    "s",
]


def test_a_search_can_be_watched_and_ended_from_another_terminal(tmp_path: Path) -> None:
    import shrinkboard as sb

    environment = os.environ | {"PYTHONPATH": str(Path(sb.__file__).parent)}
    command = [
        sys.executable,
        "-m",
        "shrinkboard",
        *SEARCH,
        "--workers",
        "2",
        "--stages",
        "none",
        "--sampler",
        "random",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as searching:
        try:
            found: dict = {}
            end = time.monotonic() + 120
            while time.monotonic() < end and not (
                found.get("rate") and found["drivers"] and found["drivers"][0]["jobs"]
            ):
                time.sleep(1.0)
                asked = shrinkboard(tmp_path, "status", "s", "--format", "json")
                found = json.loads(asked.stdout) if asked.returncode == 0 else {}
            assert [one["wanted"] for one in found["strategies"]] == [200, 200]
            assert 0 < sum(one["finished"] for one in found["strategies"]) < 400
            assert found["left"] > 0
            [driver] = found["drivers"]
            assert (driver["executor"], driver["workers"], driver["machine"]) == ("local", 2, machine())
            assert {job["strategy"] for job in driver["jobs"]} <= {"uniform", "l1", "dense", "dense+int"}
            workers = shrinkboard(tmp_path, "workers").stdout
            assert driver["driver"][:8] in workers
            stopped = shrinkboard(tmp_path, "stop", "s")
            assert (stopped.returncode, stopped.stdout.startswith("1 driver asked")) == (0, True)
            told, _ = searching.communicate(timeout=60)
        finally:
            if searching.poll() is None:
                searching.kill()
    assert searching.returncode == 0
    assert "stopped: " in told
    assert "add --resume" in told
    after = json.loads(shrinkboard(tmp_path, "status", "s", "--format", "json").stdout)
    assert after["drivers"] == []
    assert sum(one["running"] for one in after["strategies"]) == 0
    text = shrinkboard(tmp_path, "status").stdout  # all studies of the storage, in short
    assert "no driver is at work" in text
    assert "/200" in text
    again = shrinkboard(tmp_path, "stop", "s")
    assert (again.returncode, "no driver is at work" in again.stderr) == (2, True)
    unknown = shrinkboard(tmp_path, "status", "other")
    assert (unknown.returncode, "there are s" in unknown.stderr) == (2, True)


def test_a_process_is_told_from_a_later_one_of_the_same_number() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        started = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        assert is_alive(f"{other.pid}.{started}")
        assert not is_alive(f"{other.pid}.1")
        other.kill()
        other.wait()
        assert not is_alive(f"{other.pid}.{started}")
    assert is_alive(this_process())


def test_only_its_own_machine_knows_that_a_process_is_gone() -> None:
    told = ("d", "s", machine(), "999999999.1", "local", 1, 0.0, 0.0, None, "", ())
    assert Driver(*told).gone  # type: ignore[arg-type]
    assert not Driver(*told[:2], "elsewhere", *told[3:]).gone  # type: ignore[arg-type]
