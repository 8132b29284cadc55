"""The control that changes nothing: the dense network as it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from workloads import Dense

from .base import Compressed, Strategy, check_names, formats_of
from .plan import Plan
from .space import Space


class Unchanged(Strategy):
    """`dense`: every width and weight stays; the control of every ranking."""

    name = "dense"
    drop_share: float | None = None
    summary = "control: the dense network unchanged"
    source = "control"

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        return Space()

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        return Plan(strategy=self.name)

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        check_names(dense, plan)
        return Compressed(copy.deepcopy(dense.module), plan, dense.seed, formats=formats_of(plan))

    def recalibrate(self, compressed: Compressed, dense: Dense) -> None:
        """Nothing to do where no branch was dropped: no weight was changed, and published statistics are kept."""
        if compressed.plan.dropped:
            super().recalibrate(compressed, dense)
