"""`conventional`: the small weights of the whole network are pruned in steps, with tuning after each."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor

from workloads import Dense, InputError

from .base import Compressed, Strategy, check_names, formats_of
from .ops.masks import top_global
from .ops.saliency import magnitude
from .plan import Plan, Setting
from .space import Choice, Space

SPARSITY = Choice("sparsity", (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0), default=6)
STEPS = Choice("steps", (4, 2, 1), default=1)


class Conventional(Strategy):
    """Global magnitude pruning of single weights: in each of `steps` steps the smallest are masked, and tuning goes on.

    After step k of n the share k/n of `sparsity` is masked; the steps divide the tuning evenly, so that it begins and
    ends with training. With `steps` 0 all is pruned at once, before tuning. All convolutions and linear layers count,
    biases and batch norm do not. A run of fewer optimiser steps than `steps` + 1 has no room for the last prune steps.
    """

    name = "conventional"
    summary = "the smallest weights of the whole network, pruned in steps"
    source = (
        "Han et al., Learning both Weights and Connections, NeurIPS 2015, section 3, with one threshold for the whole "
        "network; sparsity and steps [our reconstruction]"
    )
    one_shot = MappingProxyType({"steps": 0})

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        return Space(choices=(SPARSITY, STEPS), ladder_knob="sparsity")

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        return Plan(strategy=self.name, settings=pruning(knobs))

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        check_names(dense, plan)
        compressed = Compressed(copy.deepcopy(dense.module), plan, dense.seed, formats=formats_of(plan))
        prune_at_once(compressed)
        return compressed

    def stages(self, plan: Plan, steps: int) -> Sequence[int]:
        prunings = int(plan.settings.get("steps", 0))
        places = {round(steps * (k + 1) / (prunings + 1)) for k in range(prunings)}
        return sorted(places & set(range(1, steps)))

    def advance(self, compressed: Compressed, dense: Dense, stage: int, momenta: dict[str, Tensor]) -> None:
        settings = compressed.plan.settings
        prune_smallest(compressed, float(settings["sparsity"]) * (stage + 1) / int(settings["steps"]), momenta)


def pruning(knobs: Mapping[str, Any]) -> dict[str, Setting]:
    """The settings of a plan that prunes by the knobs `sparsity` and `steps`; none where nothing is to be pruned."""
    sparsity = float(knobs.get("sparsity", SPARSITY.levels[SPARSITY.default]))
    steps = int(knobs.get("steps", STEPS.levels[STEPS.default]))
    if not 0 <= sparsity < 1:
        raise InputError(f"the sparsity is {sparsity:g}; it must lie in [0, 1)")
    if steps < 0:
        raise InputError(f"the number of prune steps is {steps}; it must be 0 (all at once, before tuning) or more")
    return {"sparsity": sparsity, "steps": steps} if sparsity > 0 else {}


def prune_at_once(compressed: Compressed) -> None:
    """Prunes a network whose plan says so before any tuning: the sparsity is given, and no steps."""
    settings = compressed.plan.settings
    if settings.get("sparsity") and not settings.get("steps"):
        prune_smallest(compressed, float(settings["sparsity"]), {})


def prune_smallest(compressed: Compressed, sparsity: float, momenta: Mapping[str, Tensor]) -> None:
    """Masks the smallest |w| of all convolutions and linear layers of `compressed`, in place: round(s·n) of n weights.

    What was masked stays masked; of equal weights the earlier one is kept, by layer and then by index. The masked
    weights' `momenta`, by parameter name, become zero.
    """
    # Below every weight, so that a weight which happens to be zero does not take the place of a masked one.
    scores = {
        name: score.masked_fill(~compressed.masks[name], -1.0) if name in compressed.masks else score
        for name, score in magnitude(compressed.module).items()
    }
    total = sum(score.numel() for score in scores.values())
    compressed.masks.update(top_global(scores, total - round(sparsity * total)))
    compressed.mask_momenta(momenta)
    compressed.apply_masks(compressed.module)
