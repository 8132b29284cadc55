"""Reproductions run to their end at the scale `smoke`, and a stopped one goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shrinkboard as sb

FOLDER = Path(sb.__file__).parent / "scripts" / "reproduce"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "harness")


@pytest.mark.parametrize("name", SCRIPTS)
def test_smoke(name: str, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", "--scale", "smoke", "--out", tmp_path, "--work", tmp_path / "work"],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert told.returncode == 0, told.stderr
    page = (tmp_path / f"{name}_smoke.md").read_text()
    assert f"python scripts/reproduce/{name}.py --scale smoke" in page
    tables = json.loads((tmp_path / f"{name}_smoke.json").read_text())["tables"]
    assert all(tables.values())


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(FOLDER))
    import harness

    return harness


def test_a_stopped_run_goes_on_after_its_last_whole_cell(harness, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def run() -> object:
        return harness.Run("name", "smoke", "cpu", None, tmp_path, tmp_path, {"smoke": "digits/cnn"})

    asked: list[int] = []

    def compute(value: int) -> dict:
        asked.append(value)
        return {"value": value}

    for value in (1, 2):
        assert run().cell({"cell": value}, lambda value=value: compute(value)) == {"cell": value, "value": value}
    with (tmp_path / "name-smoke-cpu.jsonl").open("a") as file:
        file.write('{"key": {"cell": 3}, "val')  # killed while writing
    for value in (1, 2, 3):
        assert run().cell({"cell": value}, lambda value=value: compute(value)) == {"cell": value, "value": value}
    assert asked == [1, 2, 3]
    assert run().cell({"cell": 3}, lambda: compute(4)) == {"cell": 3, "value": 3}


def test_a_device_that_is_not_there_is_refused_in_one_line() -> None:
    told = subprocess.run(
        [sys.executable, FOLDER / "pca_l1_table.py", "--device", "cuda:9"], capture_output=True, text=True, timeout=100
    )
    assert told.returncode == 2
    assert "finds no CUDA device" in told.stderr.splitlines()[-1]
