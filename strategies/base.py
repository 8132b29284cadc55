"""The contract of a strategy, and what it makes: a physically smaller network with its masks and formats."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from workloads import FP32, Dense, Format, Formats, InputError, LayerFormats, Loss, Progress, TrainingState, train

from .ops.groups import channel_groups
from .plan import Plan
from .space import Space


@dataclass
class Compressed:
    """A compressed network: shrunk module, masks, and the number formats it is to run in."""

    module: nn.Module
    plan: Plan
    seed: int
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Layer → boolean mask of its weight's shape; True is kept. Masked weights are exactly zero at all times."""
    formats: Formats = field(default_factory=dict)
    """Layer → formats that the network is deployed in; `module` itself holds fp32 weights."""

    def nonzeros(self) -> dict[str, np.ndarray]:
        """Layer → stored weights of every filter, shape (filters,); only layers with a mask."""
        return {name: mask.flatten(1).sum(1).numpy() for name, mask in self.masks.items()}

    def apply_masks(self, module: nn.Module) -> None:
        """Zeroes the masked weights of `module` (this network or a copy of it) in place."""
        for name, mask in self.masks.items():
            layer = module.get_submodule(name)
            assert isinstance(layer.weight, Tensor)
            layer.weight.data.mul_(mask)


class Strategy(abc.ABC):
    """One published way of shrinking a network.

    Obligations of an implementation:

    - `plan` is deterministic in the dense network and the knobs, and returns a resolved plan: equal networks, equal
      digests.
    - `compress` trains nothing, never changes `dense` in place, and returns a module that is physically smaller where
      the plan removes channels; batch-norm statistics are re-estimated there where channels or weights were removed.
    - `tune` is resumable: `a` epochs and then `b` more with the returned state equal `a + b` at once. It keeps the
      masks.
    - Validation and test data are never touched; randomness comes from the seed of `dense` alone.
    - A network that the method cannot handle raises `InputError` with one clear line.
    - Instances hold no state of a run; they may be used by several processes.
    """

    name: str
    """The name that the command takes."""
    stage: Literal["structure", "format"] = "structure"
    """A format stage may stand behind a `+`: `pca_l1+int`."""
    summary: str
    """One line for `shrinkboard strategies`."""
    source: str
    """Paper and section, and what is our reconstruction where the source is silent."""

    @abc.abstractmethod
    def space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        """The knobs on this network. `widths` are the integer bit widths that some target of the search rewards."""

    @abc.abstractmethod
    def plan(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        """The resolved plan for knob values (`Space.decode`); knobs left out take the method's published values."""

    @abc.abstractmethod
    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        """The compressed network, untrained. Raises `InputError` where the plan names what the network has not."""

    def loss(self, compressed: Compressed, dense: Dense) -> Loss | None:
        """What tuning minimises, (outputs, targets, images) → scalar; None for the recipe's cross-entropy."""
        return None

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
        return train(
            compressed.module,
            dense.workload,
            dense.splits.train,
            seed=dense.seed,
            epochs=epochs,
            total_epochs=total_epochs,
            learning_rate=dense.workload.recipe.tune_learning_rate,
            state=state,
            loss=self.loss(compressed, dense),
            after_step=compressed.apply_masks if compressed.masks else None,
            progress=progress,
        )


def check_names(dense: Dense, plan: Plan) -> None:
    """Raises `InputError` where the plan names a prune group or layer that the network has not."""
    groups = [group.name for group in channel_groups(dense)]
    for name in plan.channels:
        if name not in groups:
            raise InputError(f"plan: the network has no prune group {name!r}; its groups are {', '.join(groups)}")
    layers = [name for name, module in dense.module.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
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
