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
    Grids,
    InputError,
    LayerFormats,
    LayerGrids,
    Loss,
    Progress,
    TrainingState,
    fold_batch_norm,
    reestimate_batch_norm,
    steps_in,
    train,
)

from .ops.blocks import branches, data_free_order, groups_before, named, removal_order, without
from .ops.distillation import distillation_loss
from .ops.grids import TRAINING_RATIOS, Simulated, on_grid, weight_grids
from .ops.groups import channel_groups
from .ops.minifloat import RATIOS
from .ops.straight_through import quantised_pass
from .ops.weights import filters_first
from .plan import Plan, Setting
from .space import Choice, Space

TEMPERATURE = {"classification": 4.0, "segmentation": 2.0}
"""Of distillation, unless a knob says otherwise [our reconstruction: no source of ours gives a value]."""
OPTIONS = ("distillation", "temperature", "straight_through")
"""Knobs that every strategy takes beside its own."""
DROP = "drop"
"""The knob that says how many residual branches go."""


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
        corrects = self.plan.settings.get("bias_correction")
        return on_grid(fold_batch_norm(self.module), self.formats, calibration if corrects else None, self._clips_tried)

    def grids(self, calibration: Sequence[Tensor]) -> Grids:
        """The grids of the network as it is deployed: of its weights, and of its layers' inputs by `calibration`."""
        weights = weight_grids(fold_batch_norm(self.module), self.formats, self._clips_tried)
        inputs = Simulated(self.deployed(calibration), self.formats, calibration).grids
        return {name: LayerGrids(weights.get(name), inputs.get(name)) for name in self.formats}

    @property
    def _clips_tried(self) -> Tensor:
        return TRAINING_RATIOS if self.plan.settings.get("straight_through") else RATIOS


class Strategy(abc.ABC):
    """One published way of shrinking a network.

    An implementation overrides `_space`, `_resolve` and `_compress`; the public methods around them drop residual
    branches, which every strategy can do. The dense network that `_resolve`, `_compress` and `advance` see has lost
    them already, and so has the untrained one of its workload: a method works on it as on any other.

    Obligations of an implementation:

    - `_resolve` is deterministic in the dense network and the knobs, and returns a resolved plan: equal networks, equal
      digests. `channels` are the widths that `_compress` gives; a layer's `sparsity` is the one that the last stage
      leaves.
    - `_compress` trains nothing, never changes `dense` in place, and returns a module that is physically smaller where
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
    drop_share: float | None = 0.0
    """Of the network's residual branches, the share that goes unless the knob `drop` says otherwise.

    A method that drops some by itself refuses a network without branches. None leaves the knob out of the search space.
    """
    one_shot: Mapping[str, Setting] = MappingProxyType({})
    """Knob values under which the method has no stages; its controls are made so."""
    summary: str
    """One line for `shrinkboard strategies`."""
    source: str
    """Paper and section, and what is our reconstruction where the source is silent."""

    def space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        """The knobs on this network. `widths` are the integer bit widths that some target of the search rewards.

        Beside the method's own there is `drop`, where the network has residual branches that can go.
        """
        default, count = self._dropped_unless_told(dense), len(branches(dense))
        space = self._space(dense, widths)
        if self.drop_share is None or not count:
            return space
        return space + Space(choices=(Choice(DROP, tuple(range(count, -1, -1)), default=count - default),))

    def plan(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        """The resolved plan for knob values (`Space.decode`); knobs left out take the method's published values.

        Every strategy can be asked for more than its own knobs. `drop` is the number of residual branches that go,
        first those without which the loss is least (`ops/blocks.py`; by structure alone where the method starts from
        initial weights), or a text of their names with commas; `dropped` lists them instead. `distillation` is the
        weight λ of learning from the dense network's outputs at `temperature` (0, the default of most methods, leaves
        it out); `straight_through` makes training see the plan's number formats.
        """
        dropped = self._branches_to_drop(dense, knobs)
        reduced = without(dense, dropped)
        plan = self._resolve(reduced, self._knobs_on(reduced, dense, knobs) if dropped else knobs)
        settings: dict[str, Setting] = {}
        if "distillation" in knobs or "temperature" in knobs:
            weight = float(knobs.get("distillation", plan.settings.get("distillation", 0.0)))
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
        return plan.model_copy(update={"dropped": dropped, "settings": merged})

    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        """The compressed network, untrained. Raises `InputError` where the plan names what the network has not."""
        return self._compress(without(dense, plan.dropped), plan)

    @abc.abstractmethod
    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        """As `space`, without the knob `drop`, which may still be the `ladder_knob`."""

    @abc.abstractmethod
    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        """As `plan`, for the method's own knobs on a network that has lost its branches."""

    @abc.abstractmethod
    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        """As `compress`, on a network that has lost its branches."""

    def _drop_order(self, dense: Dense) -> tuple[str, ...]:
        """All branches, the first to go first. Trained weights have no say in what starts from initial ones."""
        return data_free_order(dense) if self.start == "initial" else removal_order(dense)

    def _dropped_unless_told(self, dense: Dense) -> int:
        """Branches that go by default; raises `InputError` where the method lives by dropping and there are none."""
        share, count = self.drop_share or 0.0, len(branches(dense))
        if share and not count:
            raise InputError(
                f"strategy {self.name!r}: network {dense.workload.name} has no residual branch that could be dropped; "
                "use a strategy that cuts channels (l1, pca_l1)"
            )
        return max(round(share * count), 1) if share else 0

    def _branches_to_drop(self, dense: Dense, knobs: Mapping[str, Any]) -> tuple[str, ...]:
        """Names in network order."""
        default, count = self._dropped_unless_told(dense), len(branches(dense))
        if "dropped" in knobs:
            return tuple(branch.name for branch in named(dense, knobs["dropped"]))
        drop = knobs.get(DROP, default)
        if isinstance(drop, str):
            names = [name.strip() for name in drop.split(",") if name.strip()]
            return tuple(branch.name for branch in named(dense, names))
        if drop not in range(count + 1):
            raise InputError(
                f"strategy {self.name!r}: drop is {drop!r}; network {dense.workload.name} has {count} residual "
                f"branches that can be dropped, so give a whole number from 0 to {count}"
            )
        # The order costs evaluations: it is asked for only where something goes.
        return tuple(branch.name for branch in named(dense, self._drop_order(dense)[: int(drop)])) if drop else ()

    def _knobs_on(self, reduced: Dense, dense: Dense, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """The knobs with the values of every family for the members that the reduced network has.

        A prune group that is called otherwise there, because its first producer is gone, keeps its value.
        """
        found = dict(knobs)
        before = {family.name: family.members for family in self._space(dense).families}
        for family in self._space(reduced).families:
            if not isinstance(given := knobs.get(family.name), Mapping):
                continue
            gone = set(before[family.name]) - set(family.members)
            found[family.name] = {member: value for member, value in given.items() if member not in gone}
            for member in set(family.members) - set(before[family.name]):
                if (old := groups_before(dense, reduced)[member]) in given:
                    found[family.name][member] = given[old]
        return found

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
                reduced = without(dense, compressed.plan.dropped)
                self.advance(compressed, reduced, stages.index(stop), state.optimizer)
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
