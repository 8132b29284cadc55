"""From scores of channels to a shrunk network: L1 norms, widths by group, and the cut with batch norm re-estimated."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import nn

from workloads import Dense, reestimate_batch_norm

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
    """Keeps the best channels of every group that the plan names, and re-estimates batch norm on training images."""
    check_names(dense, plan)
    module = cut_module(dense, dense.module, channel_groups(dense), plan.channels, scores)
    return Compressed(module, plan, dense.seed, formats=formats_of(plan))


def cut_module(
    dense: Dense, module: nn.Module, groups: list[ChannelGroup], channels: Mapping[str, float], scores: Scores
) -> nn.Module:
    """As `cut`, for any network of the workload: a smaller copy of `module` at the keep ratios `channels`."""
    chosen = {g.name: g.keep(scores(module, g), g.width(channels[g.name])) for g in groups if g.name in channels}
    small = shrink(module, groups, chosen)
    if any(len(kept) < group.channels for group in groups if (kept := chosen.get(group.name)) is not None):
        reestimate_batch_norm(small, dense.workload, dense.splits.train)
    return small


def _normalised(scores: np.ndarray) -> np.ndarray:
    mean = scores.mean()
    return scores / mean if mean > 0 else scores
