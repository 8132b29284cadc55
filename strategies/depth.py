"""`depth`: residual branches are dropped whole, and the shallower network learns from the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads import Dense

from .base import DROP, TEMPERATURE
from .dense import Unchanged
from .plan import Plan, Setting
from .space import Space

DISTILLATION_WEIGHT = 1.0
"""λ [our reconstruction: as `sentei` has it]."""


class Depth(Unchanged):
    """Drops the `drop` branches without which the loss rises least, then tunes with distillation.

    The order is greedy, by the loss on training images with batch norm re-estimated (`removal_order` in
    `ops/blocks.py`); all other widths and weights stay. The knob's default, a third of the branches, and the
    distillation, CE + λT²·KL with λ = 1 and T = 4 (2 for segmentation), are our reconstruction. Networks without a
    branch that can be dropped are refused.
    """

    name = "depth"
    drop_share = 1 / 3
    summary = "residual branches dropped whole, by least loss, then tuned with distillation"
    source = (
        "Veit, Wilber and Belongie, Residual Networks Behave Like Ensembles of Relatively Shallow Networks, NIPS 2016, "
        "section 4 (whole branches of a trained network are deleted, the skip stays); greedy order by loss, batch norm "
        "re-estimated, a third of the branches, and distillation [our reconstruction]"
    )

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        return Space(ladder_knob=DROP)

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        settings: dict[str, Setting] = {
            "distillation": DISTILLATION_WEIGHT,
            "temperature": TEMPERATURE[dense.workload.task],
        }
        return Plan(strategy=self.name, settings=settings)
