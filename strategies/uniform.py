"""Controls that shrink every group by the same ratio: by L1 norm, and at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads import Dense

from .base import Compressed, Strategy
from .ops.channels import Scores, cut, l1_scores, random_scores, ratios
from .ops.groups import channel_groups
from .plan import Plan
from .space import Choice, Space

KEEP = tuple(round(0.05 * step, 2) for step in range(2, 21))
"""Keep ratios a search chooses from: .10, .15, … 1."""

ALIGN = Choice("align", (1, 8, 16), default=0)
"""Widths are rounded to a multiple of this. Runtimes compute channels in blocks: a width between two blocks can cost
more than the next larger one."""


class Uniform(Strategy):
    """`uniform`: the same keep ratio in every group, channels of the largest L1 norm kept (Li et al., ICLR 2017)."""

    name = "uniform"
    summary = "control: one keep ratio for all layers, channels by L1 norm"
    source = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3; the ratio is uniform"

    def scores(self, dense: Dense) -> Scores:
        """How channels are ranked within a group."""
        return l1_scores

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        return Space(choices=(Choice("keep", KEEP, default=KEEP.index(0.5)), ALIGN), ladder_knob="keep")

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        keep = float(knobs.get("keep", 0.5))
        groups = channel_groups(dense)
        widths = {group.name: group.width(keep, int(knobs.get("align", 1))) for group in groups}
        return Plan(strategy=self.name, channels=ratios(groups, widths), notes={"keep": keep})

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        return cut(dense, plan, self.scores(dense))


class RandomChannels(Uniform):
    """`random`: the same keep ratio in every group, channels drawn at random."""

    name = "random"
    summary = "control: one keep ratio for all layers, channels at random"
    source = "control (random channels)"

    def scores(self, dense: Dense) -> Scores:
        return random_scores(dense.seed)
