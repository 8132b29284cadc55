"""Magnitude pruning of channels: a ratio chosen for each group, or one threshold for the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from workloads import Dense

from .base import Compressed, Strategy
from .ops.channels import cut, l1_scores, ratios
from .ops.groups import ChannelGroup, channel_groups
from .plan import Plan
from .space import Choice, Family, Space
from .uniform import ALIGN, KEEP


class LayerwiseL1(Strategy):
    """`l1`: a keep ratio of its own for every group, channels of the largest L1 norm kept (Li et al., ICLR 2017)."""

    name = "l1"
    summary = "a keep ratio searched for every layer group, channels by L1 norm"
    source = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3"

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        members = tuple(group.name for group in channel_groups(dense))
        return Space((ALIGN,), (Family("keep", KEEP, members, default=KEEP.index(0.5)),), ladder_knob="keep")

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        groups = channel_groups(dense)
        keep: Mapping[str, float] = knobs.get("keep", {})
        align = int(knobs.get("align", 1))
        widths = {group.name: group.width(float(keep.get(group.name, 0.5)), align) for group in groups}
        return Plan(strategy=self.name, channels=ratios(groups, widths))

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        return cut(dense, plan, l1_scores)


class GlobalL1(Strategy):
    """`global_l1`: one threshold on the layer-normalised L1 norms of all channels; it decides every width."""

    name = "global_l1"
    summary = "one threshold on layer-normalised L1 norms for the whole network"
    source = "global magnitude pruning of channels; norms divided by their layer's mean [our reconstruction]"

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        return Space(choices=(Choice("keep", KEEP, default=KEEP.index(0.5)), ALIGN), ladder_knob="keep")

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        keep = float(knobs.get("keep", 0.5))
        groups = channel_groups(dense)
        widths = global_widths(dense.module, groups, keep)
        align = int(knobs.get("align", 1))
        widths = {group.name: group.width(widths[group.name] / group.channels, align) for group in groups}
        return Plan(strategy=self.name, channels=ratios(groups, widths), notes={"keep": keep})

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        return cut(dense, plan, l1_scores)


def global_widths(module: nn.Module, groups: list[ChannelGroup], keep: float) -> dict[str, int]:
    """Width of every group when the best `keep` of all channels stay; every group keeps at least one unit."""
    # A group of several coupled layers sums their scores; divided by their number it compares with a group of one.
    scores = {g.name: l1_scores(module, g).reshape(g.ties, g.units).mean(0) / len(g.producers) for g in groups}
    size = {g.name: g.ties for g in groups}
    best = {name: int(np.argmax(values)) for name, values in scores.items()}
    ranked = sorted(
        (
            (value, name, unit)
            for name, values in scores.items()
            for unit, value in enumerate(values)
            if unit != best[name]
        ),
        key=lambda item: (-item[0], item[1], item[2]),
    )
    widths = dict(size)
    room = round(keep * sum(g.channels for g in groups)) - sum(widths.values())
    for _, name, _ in ranked:
        if size[name] > room:
            break
        widths[name] += size[name]
        room -= size[name]
    return widths
