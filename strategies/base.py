"""The contract of a strategy, and what it makes: a physically smaller network with its masks and formats."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from workloads import (
    FP32,
    Dense,
    Format,
    Formats,
    InputError,
    LayerFormats,
    Loss,
    Progress,
    TrainingState,
    fold_batch_norm,
    reestimate_batch_norm,
    steps_in,
    train,
)

from .ops.distillation import distillation_loss
from .ops.grids import TRAINING_RATIOS, on_grid
from .ops.groups import channel_groups
from .ops.minifloat import RATIOS
from .ops.straight_through import quantised_pass
from .ops.weights import filters_first
from .plan import Plan, Setting
from .space import Space

TEMPERATURE = {"classification": 4.0, "segmentation": 2.0}
"""Of distillation, unless a knob says otherwise [our reconstruction: no source of ours gives a value]."""
OPTIONS = ("distillation", "temperature", "straight_through")
"""Knobs that every strategy takes beside its own."""


@dataclass
class Compressed:
    """A compressed network: shrunk module, masks, and the number formats it is to run in."""

    module: nn.Module
    plan: Plan
    seed: int
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Layer → boolean mask of its weight, filters first; True is kept. Masked weights are exactly zero at all times."""
    formats: Formats = field(default_factory=dict)
    """Layer → formats that the network is deployed in; `module` itself holds fp32 weights."""

    def nonzeros(self) -> dict[str, np.ndarray]:
        """Layer → stored weights of every filter, shape (filters,); only layers with a mask."""
        return {name: mask.flatten(1).sum(1).numpy() for name, mask in self.masks.items()}

    def apply_masks(self, module: nn.Module) -> None:
        """Zeroes the masked weights of `module` (this network or a copy of it) in place."""
        for name, mask in self.masks.items():
            weight = filters_first(module.get_submodule(name))
            weight.mul_(mask.to(weight.device))

    def mask_momenta(self, momenta: Mapping[str, Tensor]) -> None:
        """Zeroes the optimiser's momentum buffers (parameter name → buffer) where weights are masked, in place."""
        for name, mask in self.masks.items():
            if f"{name}.weight" in momenta:
                transposed = isinstance(self.module.get_submodule(name), nn.ConvTranspose2d)
                momenta[f"{name}.weight"].mul_(mask.transpose(0, 1) if transposed else mask)

    def deployed(self, calibration: Sequence[Tensor]) -> nn.Module:
        """A copy as it is deployed: batch norm folded, weights on the grids of their formats.

        Biases are corrected on `calibration` (normalised batches) where the plan says so; weights that were trained
        straight-through lie on the grids that the training saw.
        """
        settings = self.plan.settings
        return on_grid(
            fold_batch_norm(self.module),
            self.formats,
            calibration if settings.get("bias_correction") else None,
            TRAINING_RATIOS if settings.get("straight_through") else RATIOS,
        )


class Strategy(abc.ABC):
    """One published way of shrinking a network.

    Obligations of an implementation:

    - `resolve` is deterministic in the dense network and the knobs, and returns a resolved plan: equal networks, equal
      digests. `channels` are the widths that `compress` gives; a layer's `sparsity` is the one that the last stage
      leaves.
    - `compress` trains nothing, never changes `dense` in place, and returns a module that is physically smaller where
      the plan removes channels. Batch-norm statistics stay as they were: training does not read them, and who
      evaluates an untuned network calls `recalibrate` first.
    - Training is resumable: `tune` for `a` epochs and then `b` more with the returned state equals `a + b` at once. It
      keeps the masks. Where the structure changes on the way, `stages` says when and `advance` does it.
    - Test data is never touched, validation data only where the method itself stops by it; randomness comes from the
      seed of `dense` alone.
    - A network that the method cannot handle raises `InputError` with one clear line, before any work.
    - Instances hold no state of a run; they may be used by several processes.
    """

    name: str
    """The name that the command takes."""
    stage: Literal["structure", "format"] = "structure"
    """A format stage may stand behind a `+`: `pca_l1+int`."""
    start: Literal["trained", "initial"] = "trained"
    """The weights to start from: those of the trained dense network, then tuned, or those before its training
    (`workloads.initial`), then trained by the whole recipe."""
    one_shot: Mapping[str, Setting] = MappingProxyType({})
    """Knob values under which the method has no stages; its controls are made so."""
    summary: str
    """One line for `shrinkboard strategies`."""
    source: str
    """Paper and section, and what is our reconstruction where the source is silent."""

    @abc.abstractmethod
    def space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        """The knobs on this network. `widths` are the integer bit widths that some target of the search rewards."""

    @abc.abstractmethod
    def resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        """The resolved plan for knob values (`Space.decode`); knobs left out take the method's published values."""

    @abc.abstractmethod
    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        """The compressed network, untrained. Raises `InputError` where the plan names what the network has not."""

    def plan(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        """`resolve`, and what every strategy can be asked for.

        `distillation` is the weight λ of learning from the dense network's outputs at `temperature` (0, the default of
        most methods, leaves it out); `straight_through` makes training see the plan's number formats.
        """
        plan = self.resolve(dense, knobs)
        settings: dict[str, Setting] = {}
        if "distillation" in knobs:
            weight = float(knobs["distillation"])
            temperature = float(knobs.get("temperature", TEMPERATURE[dense.workload.task]))
            if weight < 0 or temperature <= 0:
                raise InputError(
                    f"distillation of weight {weight:g} at temperature {temperature:g}: the weight must not be "
                    "negative, the temperature must be positive"
                )
            settings |= {"distillation": weight, "temperature": temperature}
        if knobs.get("straight_through"):
            if not formats_of(plan):
                raise InputError(
                    f"strategy {self.name!r} chooses no number formats that training could see: leave out "
                    "straight_through, or join a number format with +"
                )
            settings["straight_through"] = True
        merged = plan.settings | settings
        if merged.get("distillation") == 0:
            merged = {name: value for name, value in merged.items() if name not in ("distillation", "temperature")}
        return plan.model_copy(update={"settings": merged})

    def epochs(self, dense: Dense, plan: Plan, tuning: float, training: float) -> float:
        """Epochs of one full evaluation: `training` where the method starts from initial weights, else `tuning`."""
        return training if self.start == "initial" else tuning

    def loss(self, compressed: Compressed, dense: Dense) -> Loss | None:
        """What training minimises, (outputs, targets, images) → scalar; None for the recipe's cross-entropy."""
        settings = compressed.plan.settings
        if not settings.get("distillation"):
            return None
        return distillation_loss(
            dense.module, dense.workload, float(settings["distillation"]), float(settings["temperature"])
        )

    def stages(self, plan: Plan, steps: int) -> Sequence[int]:
        """Optimiser steps, of `steps` in all, after which `advance` is called: ascending, each in 1…steps.

        A training too short for all stages may leave early ones out by a 0 in their place.
        """
        return ()

    def advance(self, compressed: Compressed, dense: Dense, stage: int, momenta: dict[str, Tensor]) -> None:
        """Changes `compressed` in place at the end of a stage (counted from 0), and `momenta` in the same places.

        `momenta` are the optimiser's momentum buffers by parameter name.
        """
        raise NotImplementedError(f"strategy {self.name!r} has stages and no advance()")

    def recalibrate(self, compressed: Compressed, dense: Dense) -> None:
        """Makes an untuned network fit to be evaluated: its batch-norm statistics, from training images."""
        reestimate_batch_norm(compressed.module, dense.workload, dense.splits.train)

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
        """Trains `compressed` in place for `epochs` more, of `total_epochs` that the learning-rate schedule spans."""
        workload, split = dense.workload, dense.splits.train
        begun = state.epochs_done if state else 0.0
        total = begun + epochs if total_epochs is None else total_epochs
        first, last, steps = (steps_in(value, workload, split) for value in (begun, begun + epochs, total))
        stages = list(self.stages(compressed.plan, steps))
        rate = workload.recipe.learning_rate if self.start == "initial" else workload.recipe.tune_learning_rate
        loss, at = self.loss(compressed, dense), first
        for stop in sorted({*(step for step in stages if first < step <= last), last}):
            reached = begun + epochs if stop == last else stop / steps_in(1, workload, split)
            state = train(
                compressed.module,
                workload,
                split,
                seed=dense.seed,
                epochs=reached - (state.epochs_done if state else 0.0),
                total_epochs=total,
                learning_rate=rate,
                state=state,
                loss=loss,
                during_pass=(
                    quantised_pass(compressed.formats) if compressed.plan.settings.get("straight_through") else None
                ),
                after_step=compressed.apply_masks if compressed.masks else None,
                progress=_part(progress, at - first, last - first),
            )
            at = stop
            if stop in stages:
                self.advance(compressed, dense, stages.index(stop), state.optimizer)
        assert state is not None
        return state


def _part(progress: Progress | None, before: int, steps: int) -> Progress | None:
    """Progress of a piece of training, told as that of the whole."""
    return None if progress is None else lambda done, _: progress(before + done, steps)


def check_names(dense: Dense, plan: Plan) -> None:
    """Raises `InputError` where the plan names a prune group or layer that the network has not."""
    # A network whose channels cannot be grouped may still be masked.
    groups = [group.name for group in channel_groups(dense)] if plan.channels else []
    for name in plan.channels:
        if name not in groups:
            raise InputError(f"plan: the network has no prune group {name!r}; its groups are {', '.join(groups)}")
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    layers = [name for name, module in dense.module.named_modules() if isinstance(module, kinds)]
    for name in plan.layers:
        if name not in layers:
            raise InputError(f"plan: the network has no layer {name!r}; its layers are {', '.join(layers)}")


def formats_of(plan: Plan) -> dict[str, LayerFormats]:
    """The number formats that a plan asks for; layers without one stay in fp32."""
    return {
        name: LayerFormats(
            Format.parse(layer.weight_format) if layer.weight_format else FP32,
            Format.parse(layer.activation_format) if layer.activation_format else FP32,
        )
        for name, layer in plan.layers.items()
        if layer.weight_format or layer.activation_format
    }
