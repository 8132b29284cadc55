"""A pruner followed by a number format: `pca_l1+int`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from workloads import Dense, Loss

from .base import Compressed, Strategy
from .plan import LayerPlan, Plan
from .space import Space


class Pipeline(Strategy):
    """Two strategies in a row: the first decides the structure and the tuning, the second the formats."""

    def __init__(self, pruner: Strategy, formats: Strategy) -> None:
        self.pruner, self.formats = pruner, formats
        self.start, self.drop_share = pruner.start, pruner.drop_share
        self.name = f"{pruner.name}+{formats.name}"
        self.summary = f"{pruner.summary}; {formats.summary}"
        self.source = f"{pruner.source}; {formats.source}"

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        return self.pruner._space(dense, widths) + self.formats._space(dense, widths)

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        structure, formats = self.pruner._resolve(dense, knobs), self.formats._resolve(dense, knobs)
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

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        return self.pruner._compress(dense, plan)

    def _drop_order(self, dense: Dense) -> tuple[str, ...]:
        return self.pruner._drop_order(dense)

    def epochs(self, dense: Dense, plan: Plan, tuning: float, training: float) -> float:
        return self.pruner.epochs(dense, plan, tuning, training)

    def loss(self, compressed: Compressed, dense: Dense) -> Loss | None:
        return self.pruner.loss(compressed, dense)

    def stages(self, plan: Plan, steps: int) -> Sequence[int]:
        return self.pruner.stages(plan, steps)

    def advance(self, compressed: Compressed, dense: Dense, stage: int, momenta: dict[str, Tensor]) -> None:
        self.pruner.advance(compressed, dense, stage, momenta)

    def recalibrate(self, compressed: Compressed, dense: Dense) -> None:
        self.pruner.recalibrate(compressed, dense)
