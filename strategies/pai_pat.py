"""`pai_pat`: widths from noise through the untrained network, and once more from its maps after some training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from workloads import Dense, initial

from .base import Compressed, Strategy, check_names, formats_of
from .ops.channels import best_channels, l1_scores, ratios
from .ops.groups import channel_groups, shrink
from .ops.spectrum import noise_spectra
from .ops.weights import draw_kaiming_normal
from .pca_l1 import (
    ALPHA,
    MULTIPLIER,
    PUBLISHED_ALPHA,
    alpha_for,
    pca_widths,
    producing_layers,
    prune_by_pca,
    reduction,
)
from .plan import Plan, Setting
from .space import Choice, Family, Space
from .uniform import ALIGN

FIRST_PART = 30 / 200
"""Of the training: 30 of 200 epochs lie before the second pruning."""


class PaiPat(Strategy):
    """Prunes at initialisation, trains a little, prunes again by `pca_l1`, and trains to the end.

    Standard normal noise goes through the untrained network, batch norm in train mode; the widths that explain `alpha0`
    of the variance of every layer's raw output are kept, channels of the largest initial L1 norm first. After 15 % of
    the training (30 of 200 epochs) the maps of real images choose the widths again at `alpha1`; weights and momenta
    of the channels kept go on under the one learning-rate schedule. Initialisation is Kaiming-normal; `fresh` draws the
    small network's weights anew.

    With `rho` alpha1 is chosen, when its time comes, to reduce the dense network's parameters by that much in all. The
    first cut takes at most half of it: where alpha0 would take more, it is raised. [Our reconstruction: which channels
    are kept at initialisation, the schedule, the momenta, the share of the first cut.]
    """

    name = "pai_pat"
    start = "initial"
    summary = "widths by PCA of noise before training, and of feature maps after 15 % of it"
    source = "pruning at initialisation and after training by PCA (30 + 170 epochs, contribution ratio 99.0 %)"

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        members = tuple(group.name for group in channel_groups(dense))
        one, published = MULTIPLIER.index(1.0), ALPHA.index(PUBLISHED_ALPHA)
        return Space(
            choices=(
                Choice("alpha0", ALPHA, default=published),
                Choice("alpha1", ALPHA, default=published),
                Choice("fresh", (False, True), default=0),
                ALIGN,
            ),
            families=(Family("multiplier", MULTIPLIER, members, default=one, base=one),),
            ladder_knob="alpha1",
        )

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        groups = channel_groups(dense)
        if "noise_spectra" not in dense.memo:
            dense.memo["noise_spectra"] = noise_spectra(
                kaiming(dense), producing_layers(groups), dense.workload, dense.seed
            )
        spectra = dense.memo["noise_spectra"]
        alpha0, alpha1 = float(knobs.get("alpha0", PUBLISHED_ALPHA)), float(knobs.get("alpha1", PUBLISHED_ALPHA))
        settings: dict[str, Setting] = {"align": int(knobs.get("align", 1))}
        if "rho" in knobs:
            settings["rho"] = rho = float(knobs["rho"])
            if reduction(dense.module, groups, pca_widths(groups, spectra, alpha0)) > rho / 2:
                alpha0, _ = alpha_for(rho / 2, dense.module, groups, spectra)
        else:
            settings["alpha1"] = alpha1
        if knobs.get("fresh"):
            settings["fresh"] = True
        widths = pca_widths(groups, spectra, alpha0)
        multiplier: Mapping[str, float] = knobs.get("multiplier", {})
        widths = {
            g.name: g.width(multiplier.get(g.name, 1.0) * widths[g.name] / g.channels, int(settings["align"]))
            for g in groups
        }
        notes: dict[str, Setting] = {"alpha0": alpha0, "rho0": reduction(dense.module, groups, widths)}
        return Plan(strategy=self.name, channels=ratios(groups, widths), settings=settings, notes=notes)

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        check_names(dense, plan)
        groups, whole = channel_groups(dense), kaiming(dense)
        module = shrink(whole, groups, best_channels(whole, groups, plan.channels, l1_scores))
        if plan.settings.get("fresh"):
            draw_kaiming_normal(module, dense.seed + 1)
        return Compressed(module, plan, dense.seed, formats=formats_of(plan))

    def stages(self, plan: Plan, steps: int) -> Sequence[int]:
        return [max(1, round(FIRST_PART * steps))] if steps > 1 else []

    def advance(self, compressed: Compressed, dense: Dense, stage: int, momenta: dict[str, Tensor]) -> None:
        settings = compressed.plan.settings
        prune_by_pca(
            compressed,
            dense,
            momenta,
            alpha=float(settings.get("alpha1", PUBLISHED_ALPHA)),
            align=int(settings["align"]),
            rho=float(settings["rho"]) if "rho" in settings else None,
        )


def kaiming(dense: Dense) -> nn.Module:
    """The untrained network with Kaiming-normal weights: equal seeds, equal weights."""
    module = initial(dense.workload, dense.seed)
    draw_kaiming_normal(module, dense.seed)
    return module
