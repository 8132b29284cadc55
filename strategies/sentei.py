"""`sentei`: the same number of stored weights in every filter, retrained with distillation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from workloads import Dense, InputError, Loss, steps_in, trace

from .base import TEMPERATURE, Compressed, Strategy, check_names, formats_of
from .ops.distillation import SimilarityLoss, distillation_loss
from .ops.groups import output_layers
from .ops.masks import kept_per_filter, top_of_groups, top_per_filter
from .ops.weights import filters_first
from .plan import LayerPlan, Plan, Setting
from .space import Choice, Family, Space

SPARSITY = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
"""Ordered from the smallest network to the largest."""
DISTILLATION_WEIGHT = 1.0
"""λ [our reconstruction: the source gives no value]."""
PATTERNS = ("filter", "2:4")
END = 0.6
"""Part of the retraining after which a gradual schedule has reached its final masks [our reconstruction]."""
INTERVAL = 100
"""Optimiser steps between two refreshes of a gradual schedule's masks [our reconstruction]."""


class Sentei(Strategy):
    """Filter-wise pruning: every filter of a layer keeps the K = roundup((1 − s)·n, 4) largest of its n weights.

    A dataflow accelerator that skips zeros runs the filters of a block side by side and waits for the longest, so equal
    filters leave no lane idle. The first layer and those that make the outputs stay dense, and retraining learns
    from the dense network: CE + λT²·KL with λ = 1, T = 4 (2 for segmentation) [our reconstruction: the source gives no
    values].

    Masks come at once, or with the knob `gradual` in refreshes up to 60 % of retraining: s_t = s(1 − (1 − t/t_end)³)
    (Zhu and Gupta, arXiv:1710.01878, section 3). A plan holds the number of refreshes: so many that they lie 100 steps
    apart in the recipe's tuning; another budget stretches them. However short a training, its last refresh takes place;
    a network that is not trained at all gets its masks from `recalibrate`.

    The knob `pattern` = "2:4" keeps two of every four consecutive inputs instead, the case of equal filters that GPUs'
    sparse tensor cores run: at once, at half the weights, and in no search space, for no target rewards it.
    Layers whose inputs do not divide by four then stay dense. The knob `pairwise` weighs an additional loss, the
    similarities among the dense network's features (0: none).
    """

    name = "sentei"
    summary = "equal nonzeros in every filter, retrained with distillation"
    source = "SENTEI: filter-wise pruning with distillation for a zero-weight-skipping FPGA accelerator"

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        members = tuple(sparse_layers(dense))
        temperatures = (1.0, 2.0, 4.0, 8.0)
        return Space(
            choices=(
                Choice("distillation", (0.0, 0.5, DISTILLATION_WEIGHT, 2.0), default=2),
                Choice("temperature", temperatures, default=temperatures.index(TEMPERATURE[dense.workload.task])),
                Choice("gradual", (False, True), default=0),
            ),
            families=(Family("sparsity", SPARSITY, members, default=SPARSITY.index(0.8)),),
            ladder_knob="sparsity",
        )

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        pattern = knobs.get("pattern", "filter")
        if pattern not in PATTERNS:
            raise InputError(f"sentei: the pattern is {pattern!r}; allowed: {', '.join(PATTERNS)}")
        gradual, pairwise = bool(knobs.get("gradual", False)), float(knobs.get("pairwise", 0.0))
        temperature = float(knobs.get("temperature", TEMPERATURE[dense.workload.task]))
        if pattern == "2:4" and (gradual or "sparsity" in knobs):
            raise InputError(
                "sentei: the pattern 2:4 masks half the weights at once; leave out the knobs gradual and sparsity, or "
                "use the pattern filter"
            )
        if temperature <= 0 or pairwise < 0:
            raise InputError(
                f"sentei: temperature {temperature:g} must be positive, pairwise {pairwise:g} must not be negative"
            )
        settings: dict[str, Setting] = {
            "distillation": float(knobs.get("distillation", DISTILLATION_WEIGHT)),
            "temperature": temperature,
        }
        if pattern == "2:4":
            layers = {
                name: LayerPlan(sparsity=0.5)
                for name in sparse_layers(dense)
                if filters_first(dense.module.get_submodule(name)).shape[1] % 4 == 0
            }
            settings["pattern"] = pattern
        else:
            layers = _filter_plans(dense, knobs.get("sparsity", {}))
        if gradual:
            settings["refreshes"] = _refreshes(dense)
        if pairwise:
            settings["pairwise"] = pairwise
        return Plan(strategy=self.name, layers=layers, settings=settings)

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        check_names(dense, plan)
        compressed = Compressed(copy.deepcopy(dense.module), plan, dense.seed, formats=formats_of(plan))
        if not plan.settings.get("refreshes"):
            _mask(compressed, 1.0)
        return compressed

    def loss(self, compressed: Compressed, dense: Dense) -> Loss | None:
        loss = super().loss(compressed, dense)
        pairwise = float(compressed.plan.settings.get("pairwise", 0.0))
        if not pairwise:
            return loss
        loss = loss or distillation_loss(dense.module, dense.workload, weight=0.0, temperature=1.0)
        return SimilarityLoss(loss, compressed.module, dense.module, dense.workload, pairwise)

    def stages(self, plan: Plan, steps: int) -> Sequence[int]:
        """As many steps as the plan has refreshes; in a training too short for all, the early ones are 0: left out.

        Of a single step the last refresh comes after it.
        """
        refreshes = int(plan.settings.get("refreshes", 0))
        end = max(1, round(END * steps))
        if end < refreshes:
            return [max(0, end - refreshes + k) for k in range(1, refreshes + 1)]
        return [round(end * k / refreshes) for k in range(1, refreshes + 1)]

    def advance(self, compressed: Compressed, dense: Dense, stage: int, momenta: dict[str, Tensor]) -> None:
        elapsed = (stage + 1) / int(compressed.plan.settings["refreshes"])
        _mask(compressed, 1 - (1 - elapsed) ** 3)
        compressed.mask_momenta(momenta)

    def recalibrate(self, compressed: Compressed, dense: Dense) -> None:
        if not compressed.masks:
            _mask(compressed, 1.0)
        super().recalibrate(compressed, dense)


def sparse_layers(dense: Dense) -> dict[str, int]:
    """Layers that may be masked → weights of one filter: all but the first layer and those that make the outputs.

    Transposed convolutions are among them, but for grouped ones, whose weights do not lie filter by filter.
    """
    if "sparse_layers" not in dense.memo:
        example = dense.workload.example
        network = trace(dense.module, example)
        fixed = output_layers(dense.module, example) | {network.compute_layers[0].name}
        dense.memo["sparse_layers"] = {
            layer.name: layer.weights // layer.out_channels
            for layer in network.compute_layers
            if layer.name not in fixed and not (layer.transposed and layer.groups > 1)
        }
    layers: dict[str, int] = dense.memo["sparse_layers"]
    return layers


def _filter_plans(dense: Dense, sparsity: Mapping[str, float]) -> dict[str, LayerPlan]:
    layers = {}
    for name, weights in sparse_layers(dense).items():
        wanted = float(sparsity.get(name, 0.8))
        if not 0 <= wanted < 1:
            raise InputError(f"the sparsity of layer {name!r} is {wanted}; it must lie in [0, 1)")
        kept = kept_per_filter(weights, wanted)
        if kept < weights:
            layers[name] = LayerPlan(sparsity=1 - kept / weights)
    return layers


def _refreshes(dense: Dense) -> int:
    steps = steps_in(dense.workload.recipe.tune_epochs, dense.workload, dense.splits.train)
    return max(1, round(END * steps / INTERVAL))


def _mask(compressed: Compressed, part: float) -> None:
    """Masks, by the weights as they are now, a `part` of what the plan says; 1 gives exactly its masks."""
    for name, layer in compressed.plan.layers.items():
        if not layer.sparsity:
            continue
        weight = filters_first(compressed.module.get_submodule(name))
        weights = weight[0].numel()
        if compressed.plan.settings.get("pattern") == "2:4":
            compressed.masks[name] = top_of_groups(weight)
        else:
            # The plan is resolved: its sparsity names K exactly.
            final = round((1 - layer.sparsity) * weights)
            kept = final if part == 1 else max(final, kept_per_filter(weights, part * layer.sparsity))
            compressed.masks[name] = top_per_filter(weight, kept)
    compressed.apply_masks(compressed.module)
