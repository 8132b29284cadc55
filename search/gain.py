"""How much faster or smaller than the dense network a candidate is: the axis beside the accuracy of a hypervolume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard import CAP, Entry, hypervolume
from workloads import InputError

from .objectives import Known, Objective


@dataclass(frozen=True)
class Gain:
    """A speed-up that the target tells, or dense ÷ candidate of an objective; larger is better."""

    objective: Objective
    told: bool
    """True where the objective's target tells a speed-up."""
    dense: float
    """The objective of the dense network."""
    dense_accuracy: float
    cap: float
    """Gain that counts as 1."""

    def __str__(self) -> str:
        if self.told:
            return f"speed-up on {self.objective.target}"
        return f"{self.objective} ÷ dense" if self.objective.larger_is_better else f"dense ÷ {self.objective}"

    def of(self, entry: Entry) -> float | None:
        """The gain of an entry; None where its target could not tell."""
        if self.told:
            return _speedup(entry, self.objective)
        value = self.objective.value(Known.of(entry))
        if value is None or value <= 0:
            return None
        return value / self.dense if self.objective.larger_is_better else self.dense / value

    def hypervolume(self, gains: Sequence[float], accuracies: Sequence[float]) -> float:
        """`leaderboard.hypervolume`, with the dense network and the cap of this gain."""
        return hypervolume(gains, accuracies, self.dense_accuracy, self.cap)


def gain_of(entries: Sequence[Entry], objectives: Sequence[Objective]) -> Gain:
    """The gain of a study by the first objective that has one; `entries` are all of the study, with its controls.

    Raises `InputError` where none has a speed-up, or a dense network to compare with.
    """
    dense = next((entry for entry in entries if entry.strategy == "dense"), None)
    kinds = {cost.target: cost.kind for entry in entries for cost in entry.costs}
    for objective in objectives:
        told = any(_speedup(entry, objective) is not None for entry in entries)
        value = objective.value(Known.of(dense)) if dense else None
        if told or value:
            cap = CAP[kinds.get(objective.target or "", "modelled")]
            return Gain(objective, told, value or 0.0, entries[0].accuracy.dense_validation, cap)
    named = ", ".join(map(str, objectives))
    raise InputError(f"the study has no dense network to compare {named} with; run its search again with --resume")


def _speedup(entry: Entry, objective: Objective) -> float | None:
    for cost in entry.costs:
        if cost.target == objective.target and cost.speedup is not None:
            return cost.speedup.value
    return None
