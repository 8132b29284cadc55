"""A pruner followed by a number format: `pca_l1+int`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads import Dense, Progress, TrainingState

from .base import Compressed, Strategy
from .plan import LayerPlan, Plan
from .space import Space


class Pipeline(Strategy):
    """Two strategies in a row: the first decides the structure and the tuning, the second the formats."""

    def __init__(self, pruner: Strategy, formats: Strategy) -> None:
        self.pruner, self.formats = pruner, formats
        self.name = f"{pruner.name}+{formats.name}"
        self.summary = f"{pruner.summary}; {formats.summary}"
        self.source = f"{pruner.source}; {formats.source}"

    def space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        return self.pruner.space(dense, widths) + self.formats.space(dense, widths)

    def plan(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        structure, formats = self.pruner.plan(dense, knobs), self.formats.plan(dense, knobs)
        layers = dict(structure.layers)
        for name, layer in formats.layers.items():
            layers[name] = layers.get(name, LayerPlan()).model_copy(update=layer.model_dump(exclude_none=True))
        return Plan(
            strategy=self.name,
            channels=structure.channels,
            layers=layers,
            settings=structure.settings | formats.settings,
            notes=structure.notes | formats.notes,
        )

    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        return self.pruner.compress(dense, plan)

    def tune(
        self,
        compressed: Compressed,
        dense: Dense,
        epochs: float,
        *,
        total_epochs: float | None = None,
        state: TrainingState | None = None,
        progress: Progress | None = None,
    ) -> TrainingState:
        return self.pruner.tune(compressed, dense, epochs, total_epochs=total_epochs, state=state, progress=progress)
