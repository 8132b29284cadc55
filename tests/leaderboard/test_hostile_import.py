"""Hostile files: refused in one line, without a trace; `scripts/fuzz_import.py` makes them and says what is checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from leaderboard import Entry, LeaderboardError, Store, exchange

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import fuzz_import
from fuzz_import import Broken, Case, Trial, file_of


@pytest.fixture
def trial(url: str) -> Trial:
    return Trial(url)


@settings(max_examples=250, suppress_health_check=list(HealthCheck))
@given(case=fuzz_import.cases())
def test_hostile_files(trial: Trial, case: Case) -> None:
    trial.check(case)


def test_what_must_not_happen_is_noticed(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = file_of("a kind", "[")
    trial.check(hostile)

    def instead(owner: object, name: str, work: Callable[..., Any]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, work)
            with pytest.raises(Exception, match=r"import|Popen|system|changed|message|boom|unexpected") as caught:
                trial.check(hostile)
            assert isinstance(caught.value, Broken) or "boom" in str(caught.value)

    def crash(*_: object) -> None:
        raise ValueError("boom")

    def refuse(text: str) -> Callable[..., None]:
        def work(*_: object) -> None:
            raise LeaderboardError(text)

        return work

    def start(*_: object) -> None:
        os.system("true")
        raise LeaderboardError("file: bad")

    def half(*_: object) -> None:
        with Store(trial._url) as store:
            store.add(Entry.from_fields(fuzz_import.fitted(fuzz_import.SPECIMENS["candidate"] | {"study": "half"})))
        raise LeaderboardError("file: bad")

    for work in (crash, refuse("two\nlines"), refuse(""), start, half):
        instead(exchange, "read_files", work)
    trial.check(hostile)  # and it goes on


def test_files_of_every_kind_are_made() -> None:
    seen: set[str] = set()

    @settings(max_examples=400, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(fuzz_import.cases())
    def draw(case: Case) -> None:
        seen.add(case.kind)

    draw()
    assert len(seen) == 9
