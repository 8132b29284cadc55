"""What `int` and `minifloat` share: a weight and an activation width for every layer, of one kind of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from workloads import Dense, InputError, trace

from .dense import Unchanged
from .ops.groups import output_layers
from .plan import LayerPlan, Plan, Setting
from .space import Family, Space

ALL_WIDTHS = frozenset(range(2, 9))


class NumberFormat(Unchanged):
    """Widths chosen a layer; the first layer and those that make the outputs have 8 bits.

    Alone it quantises the dense network; behind a `+` it is the number format of another strategy's network. The common
    level of `weight_bits` is the mean width: a knob of its own for the mean would say the same twice.
    """

    stage: Literal["structure", "format"] = "format"
    prefix: str
    """Of the format's names, as in `int8`."""
    narrowest: int
    """Width in bits."""
    corrects_biases: bool
    """Unless the knob `bias_correction` says otherwise."""

    def _space(self, dense: Dense, widths: frozenset[int] = ALL_WIDTHS) -> Space:
        weight_bits = tuple(bits for bits in sorted(widths & ALL_WIDTHS) if bits >= self.narrowest) or (8,)
        activation_bits = tuple(bits for bits in weight_bits if bits >= 4) or (8,)
        members = tuple(name for name, fixed in _layers(dense).items() if not fixed)
        return Space(
            families=(
                Family("weight_bits", weight_bits, members, default=len(weight_bits) - 1),
                Family("activation_bits", activation_bits, members, default=len(activation_bits) - 1),
            ),
            ladder_knob="weight_bits",
        )

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        layers = {}
        for name, fixed in _layers(dense).items():
            weight = 8 if fixed else int(knobs.get("weight_bits", {}).get(name, 8))
            activation = 8 if fixed else int(knobs.get("activation_bits", {}).get(name, 8))
            if not (self.narrowest <= weight <= 8 and self.narrowest <= activation <= 8):
                raise InputError(
                    f"layer {name!r} asks for {weight} weight and {activation} activation bits; {self.narrowest} to 8 "
                    f"are allowed by {self.name}"
                )
            layers[name] = LayerPlan(
                weight_format=f"{self.prefix}{weight}", activation_format=f"{self.prefix}{activation}"
            )
        return Plan(strategy=self.name, layers=layers, settings=self._settings(knobs))

    def _settings(self, knobs: Mapping[str, Any]) -> dict[str, Setting]:
        # Training that sees the formats moves the biases itself: its batch norm has met the quantised weights.
        corrects = knobs.get("bias_correction", self.corrects_biases and not knobs.get("straight_through"))
        return {"bias_correction": True} if corrects else {}


def _layers(dense: Dense) -> dict[str, bool]:
    """Layer with weights → whether its width is fixed at 8 bits."""
    if "quantised_layers" not in dense.memo:
        example = dense.workload.example
        names = [layer.name for layer in trace(dense.module, example).compute_layers]
        fixed = output_layers(dense.module, example) | {names[0]}
        dense.memo["quantised_layers"] = {name: name in fixed for name in names}
    layers: dict[str, bool] = dense.memo["quantised_layers"]
    return layers
