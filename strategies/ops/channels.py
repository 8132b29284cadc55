"""From scores of channels to a shrunk network: L1 norms, widths by group, the cut, and the cut during training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from workloads import Dense

from ..base import Compressed, check_names, formats_of
from ..plan import Plan
from .groups import ChannelGroup, Slice, channel_groups, shrink
from .weights import filters_first

Scores = Callable[[nn.Module, ChannelGroup], np.ndarray]
"""(module, group) → one score a channel, shape (channels,); higher is kept."""


def l1_scores(module: nn.Module, group: ChannelGroup) -> np.ndarray:
    """L1 norm of every channel's weights, Σ|W[i]|, each layer divided by its mean and coupled layers summed."""
    return sum((_normalised(filter_l1(module, producer)) for producer in group.producers), np.zeros(group.channels))


def filter_l1(module: nn.Module, where: Slice) -> np.ndarray:
    """Σ|W[i]| of the filters of one layer, in the order of the group's channels, shape (channels,)."""
    weight = filters_first(module.get_submodule(where.layer)).flatten(1)
    return weight.abs().sum(1).double().numpy()[where.index[:, 0]]


def random_scores(seed: int) -> Scores:
    """Scores drawn from N(0, 1): the same for the same seed and group, whatever was drawn before."""

    def scores(module: nn.Module, group: ChannelGroup) -> np.ndarray:
        return np.random.default_rng([seed, *group.name.encode()]).standard_normal(group.channels)

    return scores


def ratios(groups: list[ChannelGroup], widths: Mapping[str, int]) -> dict[str, float]:
    """Width of every group as the keep ratio that a plan holds."""
    return {group.name: widths[group.name] / group.channels for group in groups}


def cut(dense: Dense, plan: Plan, scores: Scores) -> Compressed:
    """Keeps the best channels of every group that the plan names, in a smaller copy of the dense network."""
    check_names(dense, plan)
    groups = channel_groups(dense)
    module = shrink(dense.module, groups, best_channels(dense.module, groups, plan.channels, scores))
    return Compressed(module, plan, dense.seed, formats=formats_of(plan))


def cut_again(
    compressed: Compressed,
    groups: list[ChannelGroup],
    channels: Mapping[str, float],
    scores: Scores,
    momenta: dict[str, Tensor],
) -> None:
    """Cuts a network in training: `groups` are its own, `channels` their keep ratios; its momenta lose the same places.

    What is kept goes on as if nothing had happened: the optimiser's next step on it is the one it would have taken.
    """
    keep = best_channels(compressed.module, groups, channels, scores)
    moving = copy.deepcopy(compressed.module)
    for name, parameter in moving.named_parameters():
        parameter.data.copy_(momenta.get(name, torch.zeros_like(parameter)))
    small = dict(shrink(moving, groups, keep).named_parameters())
    momenta.update({name: small[name].detach().clone() for name in momenta})
    compressed.module = shrink(compressed.module, groups, keep)


def best_channels(
    module: nn.Module, groups: list[ChannelGroup], channels: Mapping[str, float], scores: Scores
) -> dict[str, np.ndarray]:
    """Channels that every group named in `channels` keeps at its ratio: those of the highest scores, ascending."""
    return {g.name: g.keep(scores(module, g), g.width(channels[g.name])) for g in groups if g.name in channels}


def _normalised(scores: np.ndarray) -> np.ndarray:
    mean = scores.mean()
    return scores / mean if mean > 0 else scores
