"""`bn_scale`: channels ranked by the scale of their batch norm, with one threshold for the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

import shrinkboard as sb

KEEP = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class BatchNormScale(sb.Strategy):
    """A channel counts as much as the factor |γ| that batch norm multiplies it by; the smallest ones are cut."""

    name = "bn_scale"
    summary = "one threshold on the scales of batch norm for the whole network"
    source = (
        "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, section 3; one "
        "shot on the network as it is, without the L1 penalty on γ that the paper trains it with"
    )

    def _space(self, dense: sb.Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> sb.Space:
        return sb.Space(choices=(sb.Choice("keep", KEEP, default=KEEP.index(0.5)),), ladder_knob="keep")

    def _resolve(self, dense: sb.Dense, knobs: Mapping[str, Any]) -> sb.Plan:
        keep = float(knobs.get("keep", 0.5))
        groups = sb.channel_groups(dense)
        found = {group.name: scales(dense.module, group) for group in groups}
        ranked = np.sort(np.concatenate(list(found.values())))[::-1]
        threshold = ranked[max(1, round(keep * len(ranked))) - 1]
        # `width` keeps at least one channel of a group, and what a grouped convolution must keep together.
        kept = {group.name: group.width((found[group.name] >= threshold).mean()) for group in groups}
        return sb.Plan(
            strategy=self.name,
            channels={group.name: kept[group.name] / group.channels for group in groups},
            notes={"keep": keep, "threshold": float(threshold)},
        )

    def _compress(self, dense: sb.Dense, plan: sb.Plan) -> sb.Compressed:
        return sb.cut(dense, plan, scales)


def scales(module: nn.Module, group: sb.ChannelGroup) -> np.ndarray:
    """|γ| of every channel, shape (channels,); the mean where coupled layers have a batch norm each [our choice]."""
    found = []
    for part in group.slices:
        layer = module.get_submodule(part.layer)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine:
            found.append(layer.weight.detach().abs().double().numpy()[part.index[:, 0]])
    if not found:
        raise sb.InputError(
            f"strategy 'bn_scale': the channels of layer {group.name!r} pass no batch norm with a scale; choose "
            "another strategy for this network"
        )
    return np.mean(found, axis=0)
