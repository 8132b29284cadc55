"""The log of a study: what was tried, how far it got, what it cost to find out. Replays and explanations read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import optuna

Stage = Literal["cost", "screen", "rung", "full"]


@dataclass(frozen=True)
class Step:
    """One job that was done for a candidate."""

    stage: Stage
    """`cost`: ended by a limit before any accuracy was asked for; `screen`: costed, and judged untrained; `rung`:
    trained for a part; `full`: evaluated in full."""
    epochs: float
    """That the candidate had been trained for at the end of the step."""
    values: tuple[float, ...]
    """Accuracy, then the objectives, as known at its end: the accuracy alone where an objective was not known yet, and
    nothing where it was not asked for."""
    seconds: float
    """That the step took."""


@dataclass(frozen=True)
class Record:
    """One candidate of a study."""

    number: int
    params: Mapping[str, int]
    digest: str
    """Of the plan."""
    steps: tuple[Step, ...] = ()
    ended: str = "full"
    """`full`, `paused`, or why it was rejected or failed."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was known last of a candidate without an entry; a paused one is taken up with it again."""
    failed: bool = False
    """True where the job after the last step came to nothing."""

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` takes back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """The record of plain data."""
        steps = tuple(Step(s["stage"], s["epochs"], tuple(s["values"]), s["seconds"]) for s in data["steps"])
        notes, failed = dict(data["notes"]), data.get("failed", False)
        return cls(data["number"], dict(data["params"]), data["digest"], steps, data["ended"], notes, failed)


def records(storage: optuna.storages.BaseStorage, study: str, strategy: str) -> list[Record]:
    """All candidates of a strategy in a study, by number; raises `KeyError` where there is no such study."""
    stored = optuna.load_study(study_name=f"{study}/{strategy}", storage=storage)
    ended = [logged(trial) for trial in stored.get_trials(deepcopy=False)]
    return sorted([*(r for r in ended if r is not None), *paused(stored)], key=lambda record: record.number)


def logged(trial: optuna.trial.FrozenTrial) -> Record | None:
    """The record that a stored trial holds; None for trials from before there was a log."""
    text = trial.user_attrs.get("log")
    return None if text is None else Record.from_json(json.loads(text))


def paused(stored: optuna.Study) -> list[Record]:
    """Candidates that wait for more training."""
    waiting: Sequence[str] = [
        text for name, text in stored.user_attrs.items() if name.startswith(_PAUSED) and text is not None
    ]
    return [Record.from_json(json.loads(text)) for text in waiting]


def keep_paused(stored: optuna.Study, record: Record) -> None:
    """Remembers a candidate that waits, in the place of what was remembered of it."""
    stored.set_user_attr(f"{_PAUSED}{record.number}", json.dumps(record.to_json()))


def forget_paused(stored: optuna.Study, number: int) -> None:
    """The candidate waits no more."""
    if stored.user_attrs.get(f"{_PAUSED}{number}") is not None:
        stored.set_user_attr(f"{_PAUSED}{number}", None)


_PAUSED = "paused."
