"""What a search makes small or large beside the loss of accuracy, and the limits that it keeps within."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cost_models import UNITS, CostModel
from leaderboard import Entry
from workloads import InputError

_OF_THE_NETWORK = ("bytes", "training")
"""What no target decides: the stored bytes of the plan's formats, and the seconds of the whole training."""
_LARGER_IS_BETTER = ("throughput",)
_ALIASES = {"fps": "throughput"}
_SCALES: Mapping[str, Mapping[str, float]] = {
    "s": {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "m": 60.0, "h": 3600.0},
    "J": {"": 1.0, "J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6},
    "B": {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "KiB": 2**10, "MiB": 2**20},
    "W": {"": 1.0, "W": 1.0, "mW": 1e-3},
    "1/s": {"": 1.0, "/s": 1.0, "fps": 1.0},
    "1": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9},
}
"""SI unit of a figure → how a bound may be written, and its size."""


@dataclass(frozen=True)
class Known:
    """What is known of a candidate at some stage of its evaluation."""

    accuracy: float
    """Fraction on validation; larger is better."""
    figures: Mapping[str, Mapping[str, float | None]]
    """Target name → figure name → value in the unit of `UNITS`; targets that were not asked yet are absent."""
    bytes: float
    training: float | None = None
    """Seconds of the whole training; None where it has not ended."""

    @classmethod
    def of(cls, entry: Entry) -> Known:
        """All of an entry."""
        figures = {cost.target: {name: f.value for name, f in cost.figures.items()} for cost in entry.costs}
        return cls(ranking_accuracy(entry), figures, float(entry.bytes), entry.training.total_seconds)

    def plain(self) -> dict[str, Any]:
        """Plain data that `from_plain` takes back, without the seconds of a training that has not ended."""
        figures = {target: dict(told) for target, told in self.figures.items()}
        return {"accuracy": self.accuracy, "figures": figures, "bytes": self.bytes}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Known:
        """What is known by plain data."""
        return cls(data["accuracy"], data["figures"], data["bytes"])


@dataclass(frozen=True)
class Objective:
    """A figure of one target, or one of the network itself (`target` None)."""

    figure: str
    target: str | None = None

    def __str__(self) -> str:
        return self.figure if self.target is None else f"{self.figure}@{self.target}"

    @property
    def larger_is_better(self) -> bool:
        return self.figure in _LARGER_IS_BETTER

    @property
    def unit(self) -> str:
        return {"bytes": "B", "training": "s"}.get(self.figure) or UNITS[self.figure]

    def value(self, known: Known) -> float | None:
        """In `unit`; None where it is not known yet, or cannot be had."""
        if self.target is None:
            return known.bytes if self.figure == "bytes" else known.training
        return known.figures.get(self.target, {}).get(self.figure)


@dataclass(frozen=True)
class Limit:
    """A bound that a network must keep to be worth anything: `objective` None is the drop of accuracy in points."""

    objective: Objective | None
    bound: float
    """In the objective's unit, or in points of accuracy."""

    def __str__(self) -> str:
        return "drop" if self.objective is None else str(self.objective)

    def violation(self, known: Known, dense_accuracy: float) -> float | None:
        """How far beyond the bound, relative to it: ≤ 0 keeps it; None where that is not known yet."""
        if self.objective is None:
            drop = 100 * (dense_accuracy - known.accuracy)
            return (drop - self.bound) / max(self.bound, 1.0)
        value = self.objective.value(known)
        if value is None:
            return None
        beyond = self.bound - value if self.objective.larger_is_better else value - self.bound
        return beyond / self.bound


def default_objectives(models: Sequence[CostModel]) -> tuple[Objective, ...]:
    """The one that every target names as its own."""
    return tuple(Objective(model.objective, model.name) for model in models)


def parse_objective(text: str, models: Sequence[CostModel]) -> tuple[Objective, ...]:
    """`latency` of every target that answers it, `latency@TARGET`, `bytes` or `training`; `fps` is the throughput.

    Raises `InputError` for a figure that no target of the search answers.
    """
    figure, at, name = text.partition("@")
    figure = _ALIASES.get(figure, figure)
    if figure in _OF_THE_NETWORK and not at:
        return (Objective(figure),)
    asked = [model for model in models if not at or model.name == name]
    answering = tuple(Objective(figure, model.name) for model in asked if figure in model.figures)
    if not answering:
        known = sorted({answer for model in models for answer in model.figures} | set(_OF_THE_NETWORK))
        raise InputError(
            f"objective {text!r}: no target of this search answers it; allowed: {', '.join(known)}, "
            f"each with @TARGET for one of {', '.join(model.name for model in models)} alone"
        )
    return answering


def parse_limit(text: str, models: Sequence[CostModel]) -> tuple[Limit, ...]:
    """`latency=2ms`, `drop=1.0` (points), `bytes=100kB`, `fps=500` (at least): a limit for every target that answers.

    Raises `InputError` for an unknown figure, and for a bound that is no positive number in the figure's unit.
    """
    name, given, bound = text.rpartition("=")
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([^\d\s]*)", bound.strip())
    if not given or not match:
        raise InputError(f"limit {text!r} is no FIGURE=BOUND; give latency=2ms, drop=1.0, bytes=100kB or fps=500")
    if name == "drop":
        if match[2]:
            raise InputError(
                f"limit {text!r}: a drop is in points of accuracy, a number without unit, such as drop=1.0"
            )
        return (Limit(None, float(match[1])),)
    limits = []
    for objective in parse_objective(name, models):
        scales = _SCALES[objective.unit]
        if match[2] not in scales or not float(match[1]) > 0:
            units = ", ".join(unit for unit in scales if unit) or "none"
            raise InputError(f"limit {text!r}: a positive number is expected, in one of the units {units}")
        limits.append(Limit(objective, float(match[1]) * scales[match[2]]))
    return tuple(limits)


def ranking_accuracy(entry: Entry) -> float:
    """Accuracy in the first runtime that ran the network, else in simulation: int8 counts as it is executed."""
    executed = [cost.runtime_accuracy for cost in entry.costs if cost.runtime_accuracy is not None]
    return (executed[0] if executed else entry.accuracy.validation).primary


def values(known: Known, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Accuracy, then every objective; raises `InputError` for an objective that could not be had."""
    found = [objective.value(known) for objective in objectives]
    for objective, value in zip(objectives, found, strict=True):
        if value is None:
            raise InputError(f"objective {objective} has no value here; choose another --objective")
    return (known.accuracy, *(float(value) for value in found if value is not None))
