"""One threshold on the scores of all channels: which stay when a network is to keep so many weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from .groups import ChannelGroup
from .saliency import scored_layers

Widths = Mapping[str, int]


def channel_sums(scores: Mapping[str, Tensor], group: ChannelGroup) -> np.ndarray:
    """Sum of the scores of every channel's weights, over all layers that produce the channel, shape (channels,).

    Plain sums: neither by the number of weights of a filter nor by their layer's mean are they divided.
    """
    total = np.zeros(group.channels)
    for producer in group.producers:
        total += scores[producer.layer].flatten(1).double().sum(1).numpy()[producer.index[:, 0]]
    return total


def weight_counter(module: nn.Module, groups: Sequence[ChannelGroup]) -> Callable[[Widths], int]:
    """Width of every group → weights of convolutions and linear layers (biases apart) that a cut to it leaves."""
    layers = scored_layers(module)
    sides: dict[str, list[tuple[str, ChannelGroup, int]]] = {name: [] for name in layers}
    for group in groups:
        for part in group.slices:
            if part.layer in layers:
                sides[part.layer].append((part.side, group, part.index.shape[1]))

    def count(widths: Widths) -> int:
        total = 0
        for name, layer in layers.items():
            inputs, outputs, tied, kernel = _shape(layer)
            for side, group, repeats in sides[name]:
                gone = (group.channels - widths[group.name]) * repeats
                outputs -= gone if side != "in" else 0
                inputs -= gone if side != "out" else 0
                tied -= gone if side == "both" else 0
            total += outputs * (inputs // tied) * kernel
        return total

    return count


def widths_for(
    count: Callable[[Widths], int], groups: Sequence[ChannelGroup], scores: Mapping[str, np.ndarray], weights: int
) -> dict[str, int]:
    """Widths when one threshold on `scores` (group → (channels,)) leaves as near to `weights` as can be.

    Tied channels stand or fall together, by their sum; channels of −∞ are gone already; the best of every group stays.
    Of two widths that are equally near the smaller network is taken; of equal scores the earlier group and the lower
    index stay.
    """
    units = {g.name: scores[g.name].reshape(g.ties, g.units).sum(0) for g in groups}
    ranked = [
        (-value, place, unit)
        for place, group in enumerate(groups)
        for unit, value in enumerate(units[group.name])
        if unit != np.argmax(units[group.name]) and value > -np.inf
    ]
    ranked.sort()

    def widths(best: int) -> dict[str, int]:
        more = np.bincount([place for _, place, _ in ranked[:best]], minlength=len(groups))
        return {g.name: int(1 + n) * g.ties for g, n in zip(groups, more, strict=True)}

    # One channel more never leaves fewer weights.
    over = bisect_right(range(len(ranked) + 1), weights, key=lambda best: count(widths(best)))
    near = [best for best in (over - 1, over) if 0 <= best <= len(ranked)]
    return widths(min(near, key=lambda best: abs(count(widths(best)) - weights)))


def without_channels(
    masks: Mapping[str, Tensor], groups: Sequence[ChannelGroup], keep: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """`masks` (layer → filters first) less the weights that a cut to the channels `keep` removes."""
    masks = {name: mask.clone() for name, mask in masks.items()}
    for group in groups:
        gone = np.setdiff1d(np.arange(group.channels), keep[group.name])
        for part in group.slices:
            if part.layer not in masks:
                continue
            channels = torch.from_numpy(part.index[gone].ravel())
            if part.side != "in":
                masks[part.layer][channels] = False
            elif group.ties == 1:  # a grouped convolution reads zeros there, which does as well
                masks[part.layer][:, channels] = False
    return masks


def _shape(layer: nn.Module) -> tuple[int, int, int, int]:
    """Inputs, outputs, groups and kernel size of a layer."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return layer.in_channels, layer.out_channels, layer.groups, prod(layer.kernel_size)
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features, 1, 1
