"""`pca_l1`: principal components choose the widths, L1 norms choose the channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from workloads import Dense, InputError, Progress, TrainingState

from .base import Compressed, Strategy
from .ops.channels import cut, cut_module, l1_scores, ratios
from .ops.groups import ChannelGroup, channel_groups, find_groups, shrink
from .ops.spectrum import contribution_width, output_spectra
from .plan import Plan
from .space import Choice, Family, Space
from .uniform import ALIGN

ALPHA = (0.80, 0.85, 0.90, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
PUBLISHED_ALPHA = 0.99
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
    summary = "PCA of feature maps chooses the widths, L1 norms choose the channels"
    source = "PCA+L1 (vgg16_bn, cumulative contribution ratio 99.0 %, L1 of trained weights, 20-epoch retraining)"

    def space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
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

    def plan(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        groups = channel_groups(dense)
        if "rho" in knobs:
            alpha, widths = self._bisect(dense, float(knobs["rho"]))
        else:
            alpha = float(knobs.get("alpha", PUBLISHED_ALPHA))
            widths = pca_widths(groups, _spectra(dense), alpha)
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
            notes={"alpha": alpha, "rho": self._reduction(dense, widths)},
        )

    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        return cut(dense, plan, l1_scores)

    def tune(
        self,
        compressed: Compressed,
        dense: Dense,
        epochs: float,
        *,
        total_epochs: float | None = None,
        state: TrainingState | None = None,
        progress: Progress | None = None,
    ) -> TrainingState:
        rounds = int(compressed.plan.settings.get("rounds", 1))
        total = epochs if total_epochs is None else total_epochs
        start = state.epochs_done if state else 0.0
        boundaries = [total * (k + 1) / rounds for k in range(rounds)]
        stops = [b for b in boundaries[:-1] if start < b <= start + epochs]
        done = start
        for stop in [*stops, start + epochs]:
            if stop > done:
                state = super().tune(compressed, dense, stop - done, total_epochs=total, state=state, progress=progress)
                done = stop
            if stop in boundaries[:-1]:
                self._prune_again(compressed, dense)
                assert state is not None
                state.optimizer = {}  # momenta have the shapes of the network before the cut
        assert state is not None
        return state

    def _prune_again(self, compressed: Compressed, dense: Dense) -> None:
        groups = find_groups(compressed.module, dense.workload.example)
        spectra = output_spectra(compressed.module, _layers(groups), dense.workload, dense.splits.train)
        settings = compressed.plan.settings
        widths = pca_widths(groups, spectra, float(settings["alpha"]))
        widths = {g.name: g.width(widths[g.name] / g.channels, int(settings["align"])) for g in groups}
        compressed.module = cut_module(dense, compressed.module, groups, ratios(groups, widths), l1_scores)

    def _bisect(self, dense: Dense, rho: float) -> tuple[float, dict[str, int]]:
        """Alpha whose widths reduce the parameters by `rho` ± 0.005, and the widths."""
        if not 0 < rho < 1:
            raise InputError(f"parameter reduction rho is {rho}; it must lie between 0 and 1")
        low, high = 0.80, 0.99999
        for _ in range(60):
            alpha = (low + high) / 2
            widths = pca_widths(channel_groups(dense), _spectra(dense), alpha)
            reached = self._reduction(dense, widths)
            if abs(reached - rho) <= 0.005:
                return alpha, widths
            low, high = (alpha, high) if reached > rho else (low, alpha)
        raise InputError(
            f"no alpha in [.80, .99999] reduces the parameters of {dense.workload.name} by {rho:.3f} ± 0.005; the "
            f"nearest reduction is {reached:.3f}: ask for another rho"
        )

    def _reduction(self, dense: Dense, widths: Mapping[str, int]) -> float:
        """ρ = 1 − P'/P of the widths."""
        groups = channel_groups(dense)
        small = shrink(dense.module, groups, {g.name: g.keep(np.zeros(g.channels), widths[g.name]) for g in groups})
        return 1 - _parameters(small) / _parameters(dense.module)


def pca_widths(groups: list[ChannelGroup], spectra: Mapping[str, np.ndarray], alpha: float) -> dict[str, int]:
    """Width of every group at a contribution ratio: the largest of its members', whole units; `alpha` in (0, 1]."""
    if not 0 < alpha <= 1:
        raise InputError(f"the cumulative contribution ratio alpha is {alpha}; it must lie in (0, 1]")
    widths = {}
    for group in groups:
        wanted = max(contribution_width(spectra[producer.layer], alpha) for producer in group.producers)
        widths[group.name] = min(-(-wanted // group.ties) * group.ties, group.channels)
    return widths


def _layers(groups: list[ChannelGroup]) -> list[str]:
    return sorted({producer.layer for group in groups for producer in group.producers})


def _spectra(dense: Dense) -> dict[str, np.ndarray]:
    if "pca_spectra" not in dense.memo:
        layers = _layers(channel_groups(dense))
        dense.memo["pca_spectra"] = output_spectra(dense.module, layers, dense.workload, dense.splits.train)
    spectra: dict[str, np.ndarray] = dense.memo["pca_spectra"]
    return spectra


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
