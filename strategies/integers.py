"""`int`: mixed-precision integers, a weight and an activation width for every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from workloads import Dense, InputError, trace

from .dense import Unchanged
from .ops.groups import output_layers
from .plan import LayerPlan, Plan
from .space import Family, Space

ALL_WIDTHS = frozenset(range(2, 9))


class Integers(Unchanged):
    """Symmetric integers a channel for weights, asymmetric a tensor for activations, calibrated on training images.

    Widths are chosen a layer: weights 2–8, activations 4–8 bits; the first layer and those that make the outputs have
    8. Alone it quantises the dense network; behind a `+` it is the number format of another strategy's network.
    """

    name = "int"
    summary = "mixed-precision integers: bits chosen for every layer"
    source = "static post-training quantisation, per channel and per tensor (Nagel et al. 2021, sections 2 and 3)"
    stage: Literal["structure", "format"] = "format"

    def space(self, dense: Dense, widths: frozenset[int] = ALL_WIDTHS) -> Space:
        weight_bits = tuple(sorted(widths & ALL_WIDTHS)) or (8,)
        activation_bits = tuple(bits for bits in weight_bits if bits >= 4) or (8,)
        members = tuple(name for name, fixed in _layers(dense).items() if not fixed)
        return Space(
            families=(
                Family("weight_bits", weight_bits, members, default=len(weight_bits) - 1),
                Family("activation_bits", activation_bits, members, default=len(activation_bits) - 1),
            ),
            ladder_knob="weight_bits",
        )

    def plan(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        layers = {}
        for name, fixed in _layers(dense).items():
            weight = 8 if fixed else int(knobs.get("weight_bits", {}).get(name, 8))
            activation = 8 if fixed else int(knobs.get("activation_bits", {}).get(name, 8))
            if not (2 <= weight <= 8 and 2 <= activation <= 8):
                raise InputError(
                    f"layer {name!r} asks for {weight} weight and {activation} activation bits; 2 to 8 are allowed"
                )
            layers[name] = LayerPlan(weight_format=f"int{weight}", activation_format=f"int{activation}")
        return Plan(strategy=self.name, layers=layers)


def _layers(dense: Dense) -> dict[str, bool]:
    """Layer with weights → whether its width is fixed at 8 bits."""
    if "quantised_layers" not in dense.memo:
        example = dense.workload.example
        names = [layer.name for layer in trace(dense.module, example).compute_layers]
        fixed = output_layers(dense.module, example) | {names[0]}
        dense.memo["quantised_layers"] = {name: name in fixed for name in names}
    layers: dict[str, bool] = dense.memo["quantised_layers"]
    return layers
