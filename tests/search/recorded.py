"""A study that a fake evaluator has searched, and how its log is compared with another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from leaderboard import Store
from search import Campaign, Staging, Subject, run_campaign
from search.log import Record
from search.replay import Recorded

from .fakes import FakeEvaluator

STAGED = Staging(screen=True, rungs=(0.25, 0.5))
NAME = "s"


def searched(file: Path, evaluator: FakeEvaluator, trials: int = 24, **changes: Any) -> None:
    """Fills `file` with a study of the strategy l1."""
    plain = {"sampler": "random", "staging": STAGED, "strategies": ("l1",)}
    campaign = Campaign(
        name=NAME,
        subject=Subject("digits/cnn"),
        targets=("counts",),
        epochs=4.0,
        training_epochs=4.0,
        **plain | changes,  # type: ignore[arg-type]
    )
    with Store(str(file)) as store:
        run_campaign(campaign, store, trials=trials, evaluator=evaluator)


@contextmanager
def opened(file: Path, strategy: str = "l1") -> Iterator[Recorded]:
    """The study in `file`, read for replays."""
    with Store(str(file)) as store:
        yield Recorded.read(store, optuna.storages.RDBStorage(store.url), NAME, strategy)


def told(log: Sequence[Record]) -> list[tuple[Any, ...]]:
    """All of a log but its seconds."""
    return [
        (r.number, r.digest, dict(r.params), [(s.stage, s.epochs, s.values) for s in r.steps], r.ended, r.failed)
        for r in log
    ]
