"""`pca_l1`: principal components choose the widths, L1 norms choose the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor, nn

from workloads import Dense, InputError

from .base import Compressed, Strategy
from .ops.channels import cut, cut_again, l1_scores, ratios
from .ops.groups import ChannelGroup, channel_groups, find_groups, shrink
from .ops.spectrum import contribution_width, output_spectra
from .plan import Plan
from .space import Choice, Family, Space
from .uniform import ALIGN

ALPHA = (0.80, 0.85, 0.90, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
PUBLISHED_ALPHA = 0.99
TOLERANCE = 0.005
"""Of a wanted reduction of parameters: half a point."""
MULTIPLIER = (0.5, 0.75, 1.0, 1.25)


class PcaL1(Strategy):
    """Keeps in every layer as many channels as principal components explain `alpha` of its outputs' variance.

    The components are those of every convolution's raw output, before batch norm and ReLU [our reconstruction], over
    un-augmented training images; the channels kept are those of the largest L1 norm. In a group of coupled layers the
    width is the largest of its members'. Three modes, chosen by knobs:

    - paper: `alpha` (0.99 unless given), one shot, then tuning;
    - sweep: `rho`, a wanted reduction of parameters 1 − P'/P: alpha is bisected in [.80, .99999] to ± 0.5 points;
    - iterative: `rounds` of pruning at `alpha` and tuning, the epochs divided evenly among them.

    A search may also move every group's width by a `multiplier`.
    """

    name = "pca_l1"
    one_shot = MappingProxyType({"rounds": 1})
    summary = "PCA of feature maps chooses the widths, L1 norms choose the channels"
    source = "PCA+L1 (vgg16_bn, cumulative contribution ratio 99.0 %, L1 of trained weights, 20-epoch retraining)"

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        members = tuple(group.name for group in channel_groups(dense))
        one = MULTIPLIER.index(1.0)
        return Space(
            choices=(
                Choice("alpha", ALPHA, default=ALPHA.index(PUBLISHED_ALPHA)),
                Choice("rounds", (3, 2, 1), default=2),
                ALIGN,
            ),
            families=(Family("multiplier", MULTIPLIER, members, default=one, base=one),),
            ladder_knob="alpha",
        )

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        groups = channel_groups(dense)
        spectra = _spectra(dense)
        alpha = float(knobs.get("alpha", PUBLISHED_ALPHA))
        if "rho" in knobs:
            rho = float(knobs["rho"])
            alpha, reached = alpha_for(rho, dense.module, groups, spectra)
            if abs(reached - rho) > TOLERANCE:
                raise InputError(
                    f"no alpha in [.80, .99999] reduces the parameters of {dense.workload.name} by {rho:.3f} ± "
                    f"{TOLERANCE}; the nearest reduction is {reached:.3f}: ask for another rho"
                )
        widths = pca_widths(groups, spectra, alpha)
        multiplier: Mapping[str, float] = knobs.get("multiplier", {})
        align, rounds = int(knobs.get("align", 1)), int(knobs.get("rounds", 1))
        wanted = {g.name: multiplier.get(g.name, 1.0) * widths[g.name] / g.channels for g in groups}
        widths = {g.name: g.width(wanted[g.name], align) for g in groups}
        # Later rounds depend on alpha; with one round the widths say all.
        settings: dict[str, bool | int | float | str] = {}
        if rounds > 1:
            settings = {"alpha": alpha, "rounds": rounds, "align": align}
        return Plan(
            strategy=self.name,
            channels=ratios(groups, widths),
            settings=settings,
            notes={"alpha": alpha, "rho": reduction(dense.module, groups, widths)},
        )

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        return cut(dense, plan, l1_scores)

    def stages(self, plan: Plan, steps: int) -> Sequence[int]:
        rounds = int(plan.settings.get("rounds", 1))
        return sorted({round(steps * k / rounds) for k in range(1, rounds)} & set(range(1, steps)))

    def advance(self, compressed: Compressed, dense: Dense, stage: int, momenta: dict[str, Tensor]) -> None:
        settings = compressed.plan.settings
        prune_by_pca(compressed, dense, momenta, alpha=float(settings["alpha"]), align=int(settings["align"]))


def pca_widths(groups: list[ChannelGroup], spectra: Mapping[str, np.ndarray], alpha: float) -> dict[str, int]:
    """Width of every group at a contribution ratio: the largest of its members', whole units; `alpha` in (0, 1]."""
    if not 0 < alpha <= 1:
        raise InputError(f"the cumulative contribution ratio alpha is {alpha}; it must lie in (0, 1]")
    widths = {}
    for group in groups:
        wanted = max(contribution_width(spectra[producer.layer], alpha) for producer in group.producers)
        widths[group.name] = min(-(-wanted // group.ties) * group.ties, group.channels)
    return widths


def alpha_for(
    rho: float,
    module: nn.Module,
    groups: list[ChannelGroup],
    spectra: Mapping[str, np.ndarray],
    *,
    parameters: int | None = None,
) -> tuple[float, float]:
    """Alpha in [.80, .99999] that reduces the parameters by `rho` ± 0.005 or as near as can be, and its reduction.

    The reduction counts from `parameters`, by default those of `module`. Bisection: a larger alpha keeps more.
    """
    if not 0 < rho < 1:
        raise InputError(f"parameter reduction rho is {rho}; it must lie between 0 and 1")

    def tried(alpha: float) -> tuple[float, float]:
        return alpha, reduction(module, groups, pca_widths(groups, spectra, alpha), parameters)

    def miss(found: tuple[float, float]) -> float:
        return abs(found[1] - rho)

    low, high = 0.80, 0.99999
    best = min(tried(low), tried(high), key=miss)
    for _ in range(30):
        if miss(best) <= TOLERANCE:
            break
        alpha, reached = tried((low + high) / 2)
        best = min(best, (alpha, reached), key=miss)
        low, high = (alpha, high) if reached > rho else (low, alpha)
    return best


def reduction(
    module: nn.Module, groups: list[ChannelGroup], widths: Mapping[str, int], parameters: int | None = None
) -> float:
    """ρ = 1 − P'/P of the widths, P being `parameters` or those of `module`."""
    small = shrink(module, groups, {g.name: g.keep(np.zeros(g.channels), widths[g.name]) for g in groups})
    return 1 - count_parameters(small) / (parameters or count_parameters(module))


def prune_by_pca(
    compressed: Compressed,
    dense: Dense,
    momenta: dict[str, Tensor],
    *,
    alpha: float,
    align: int = 1,
    rho: float | None = None,
) -> None:
    """PCA + L1 on a network in training, in place: its own maps choose the widths, its own weights the channels.

    With `rho`, alpha is the one that brings the reduction of the dense network's parameters nearest to it.
    """
    groups = find_groups(compressed.module, dense.workload.example)
    spectra = output_spectra(compressed.module, producing_layers(groups), dense.workload, dense.splits.train)
    if rho is not None:
        alpha, _ = alpha_for(rho, compressed.module, groups, spectra, parameters=count_parameters(dense.module))
    widths = pca_widths(groups, spectra, alpha)
    widths = {g.name: g.width(widths[g.name] / g.channels, align) for g in groups}
    cut_again(compressed, groups, ratios(groups, widths), l1_scores, momenta)


def producing_layers(groups: list[ChannelGroup]) -> list[str]:
    return sorted({producer.layer for group in groups for producer in group.producers})


def _spectra(dense: Dense) -> dict[str, np.ndarray]:
    if "pca_spectra" not in dense.memo:
        layers = producing_layers(channel_groups(dense))
        dense.memo["pca_spectra"] = output_spectra(dense.module, layers, dense.workload, dense.splits.train)
    spectra: dict[str, np.ndarray] = dense.memo["pca_spectra"]
    return spectra


def count_parameters(module: nn.Module) -> int:
    """Trained numbers of a network."""
    return sum(parameter.numel() for parameter in module.parameters())
