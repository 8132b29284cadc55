"""`sentei`: the same number of stored weights in every filter, retrained with distillation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from workloads import Dense, InputError, Loss, reestimate_batch_norm, trace

from .base import Compressed, Strategy, check_names, formats_of
from .ops.distillation import distillation_loss
from .ops.groups import output_layers
from .ops.masks import kept_per_filter, top_per_filter
from .ops.weights import filters_first
from .plan import LayerPlan, Plan
from .space import Family, Space

SPARSITY = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
"""Ordered from the smallest network to the largest."""
DISTILLATION_WEIGHT = 1.0
TEMPERATURE = {"classification": 4.0, "segmentation": 2.0}


class Sentei(Strategy):
    """Filter-wise pruning: every filter of a layer keeps the K = roundup((1 − s)·n, 4) largest of its n weights.

    A dataflow accelerator that skips zeros runs the filters of a block side by side and waits for the longest, so equal
    filters leave no lane idle. The first convolution and the classifier stay dense, and retraining learns from the
    dense network: CE + λT²·KL with λ = 1, T = 4 (2 for segmentation) [our reconstruction: the source gives no values].
    """

    name = "sentei"
    summary = "equal nonzeros in every filter, retrained with distillation"
    source = "SENTEI: filter-wise pruning with distillation for a zero-weight-skipping FPGA accelerator"

    def space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        members = tuple(sparse_layers(dense))
        return Space(
            families=(Family("sparsity", SPARSITY, members, default=SPARSITY.index(0.8)),), ladder_knob="sparsity"
        )

    def plan(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        sparsity: Mapping[str, float] = knobs.get("sparsity", {})
        layers = {}
        for name, weights in sparse_layers(dense).items():
            wanted = float(sparsity.get(name, 0.8))
            if not 0 <= wanted < 1:
                raise InputError(f"the sparsity of layer {name!r} is {wanted}; it must lie in [0, 1)")
            kept = kept_per_filter(weights, wanted)
            if kept < weights:
                layers[name] = LayerPlan(sparsity=1 - kept / weights)
        return Plan(
            strategy=self.name,
            layers=layers,
            settings={"distillation": DISTILLATION_WEIGHT, "temperature": TEMPERATURE[dense.workload.task]},
        )

    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        check_names(dense, plan)
        module = copy.deepcopy(dense.module)
        masks: dict[str, Tensor] = {}
        for name, layer_plan in plan.layers.items():
            if layer_plan.sparsity:
                weight = filters_first(module.get_submodule(name))
                # The plan is resolved: its sparsity names K exactly.
                kept = round((1 - layer_plan.sparsity) * weight[0].numel())
                masks[name] = top_per_filter(weight, kept)
        compressed = Compressed(module, plan, dense.seed, masks, formats_of(plan))
        compressed.apply_masks(module)
        if masks:
            reestimate_batch_norm(module, dense.workload, dense.splits.train)
        return compressed

    def loss(self, compressed: Compressed, dense: Dense) -> Loss:
        settings = compressed.plan.settings
        return distillation_loss(
            dense.module, dense.workload, float(settings["distillation"]), float(settings["temperature"])
        )


def sparse_layers(dense: Dense) -> dict[str, int]:
    """Layers that may be masked → weights of one filter: all but the first layer and those that make the outputs."""
    if "sparse_layers" not in dense.memo:
        example = dense.workload.example
        network = trace(dense.module, example)
        fixed = output_layers(dense.module, example) | {network.compute_layers[0].name}
        dense.memo["sparse_layers"] = {
            layer.name: layer.weights // layer.out_channels
            for layer in network.compute_layers
            if layer.name not in fixed and not isinstance(dense.module.get_submodule(layer.name), nn.ConvTranspose2d)
        }
    layers: dict[str, int] = dense.memo["sparse_layers"]
    return layers
