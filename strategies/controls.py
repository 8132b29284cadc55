"""Controls: a strategy's network with one thing taken away, to see what that thing was worth."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workloads import Dense, InputError, Loss, initial, trace

from .base import Compressed, Strategy
from .ops.blocks import branches
from .ops.channels import best_channels, random_scores
from .ops.groups import channel_groups, shrink
from .ops.weights import draw_kaiming_normal
from .plan import Plan
from .space import Space

CONTROLS = {
    "shuffle": "what is kept is drawn at random, as much of it in every layer",
    "reinit": "its structure and masks with fresh weights, trained as long as it is",
    "scratch-e": "its structure with fresh weights, trained for as many epochs as the dense network",
    "scratch-b": "its structure with fresh weights, trained for as many operations as the dense network",
}
_MOST_SCRATCH_B = 2.0
"""Times the dense network's epochs, however small the network (Liu et al. 2019, section 3)."""


class Control(Strategy):
    """`METHOD@CONTROL`: the network that METHOD plans, and one of its merits removed.

    - `shuffle` keeps as many weights (masks) or channels in every layer, and as many residual branches, drawn at
      random: a score that does not beat it earns no credit (Su et al. 2020, Frankle et al. 2021).
    - `reinit` keeps structure and masks and draws the weights anew (Kaiming-normal, He et al. 2015, section 2.2).
    - `scratch-e`, `scratch-b` train such a network as long as the dense one was, in epochs or in operations, the latter
      at most for twice the epochs (Liu et al., Rethinking the Value of Network Pruning, ICLR 2019, section 3).

    A method with stages is taken in its one-shot form; one that has none cannot be controlled so.
    """

    def __init__(self, method: Strategy, control: str) -> None:
        self.method, self.control = method, control
        self.name = f"{method.name}@{control}"
        self.start = method.start if control == "shuffle" else "initial"
        self.drop_share = method.drop_share
        self.summary = f"control of {method.name}: {CONTROLS[control]}"
        self.source = f"control; {method.source}"

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        space = self.method._space(dense, widths)
        return replace(space, choices=tuple(c for c in space.choices if c.name not in self.method.one_shot))

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        plan = self.method._resolve(dense, {**knobs, **self.method.one_shot})
        if self.method.stages(plan, 1000):
            raise InputError(
                f"strategy {self.name!r}: {self.method.name} changes its structure during training, so that there is "
                f"no one structure to control; leave out @{self.control}"
            )
        return plan.model_copy(update={"strategy": self.name})

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        made = self.method._compress(dense, plan.model_copy(update={"strategy": self.method.name}))
        made = replace(made, plan=plan)
        if self.control == "shuffle":
            return self._shuffled(made, dense)
        _draw_anew(made.module, dense.seed + 1)
        made.apply_masks(made.module)
        return made

    def _drop_order(self, dense: Dense) -> tuple[str, ...]:
        if self.control != "shuffle":
            return self.method._drop_order(dense)
        names = [branch.name for branch in branches(dense)]
        return tuple(str(name) for name in np.random.default_rng(dense.seed).permutation(names))

    def epochs(self, dense: Dense, plan: Plan, tuning: float, training: float) -> float:
        if self.control == "scratch-e":
            return training
        if self.control == "scratch-b":
            ratio = _macs(dense.module, dense) / _macs(self.compress(dense, plan).module, dense)
            return training * min(_MOST_SCRATCH_B, ratio)
        return self.method.epochs(dense, plan, tuning, training)

    def loss(self, compressed: Compressed, dense: Dense) -> Loss | None:
        return self.method.loss(compressed, dense)

    def _shuffled(self, made: Compressed, dense: Dense) -> Compressed:
        whole = dense.module if self.start == "trained" else initial(dense.workload, dense.seed)
        groups = channel_groups(dense) if made.plan.channels else []
        module = shrink(whole, groups, best_channels(whole, groups, made.plan.channels, random_scores(dense.seed)))
        if [(n, p.shape) for n, p in module.named_parameters()] != [
            (n, p.shape) for n, p in made.module.named_parameters()
        ]:
            raise InputError(
                f"strategy {self.name!r}: {self.method.name} replaces layers, which leaves nothing to shuffle; "
                "use @reinit, @scratch-e or @scratch-b"
            )
        draw = torch.Generator().manual_seed(dense.seed)
        masks = {name: _shuffled(mask, draw) for name, mask in made.masks.items()}
        shuffled = replace(made, module=module if groups else copy.deepcopy(module), masks=masks)
        shuffled.apply_masks(shuffled.module)
        return shuffled


def _shuffled(mask: Tensor, draw: torch.Generator) -> Tensor:
    return mask.flatten()[torch.randperm(mask.numel(), generator=draw)].view_as(mask)


def _draw_anew(module: nn.Module, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in module.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
    draw_kaiming_normal(module, seed)


def _macs(module: nn.Module, dense: Dense) -> int:
    return sum(layer.macs for layer in trace(module, dense.workload.example).compute_layers)
