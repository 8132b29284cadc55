"""A compressed network as tensors, and made again from them: all that its plan does not say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from workloads import Dense, InputError, PadShortcut

from .base import Compressed, Strategy
from .ops.blocks import without
from .ops.groups import find_groups, shrink
from .ops.weights import filters_first
from .plan import Plan


def tensors_of(compressed: Compressed) -> dict[str, Tensor]:
    """Weights and buffers (`weight/NAME`), masks (`mask/LAYER`), and which channels shortcuts copy (`wiring/NAME`)."""
    shortcuts = {n: part for n, part in compressed.module.named_modules() if isinstance(part, PadShortcut)}
    return {
        **{f"weight/{name}": tensor.detach() for name, tensor in compressed.module.state_dict().items()},
        **{f"mask/{name}": mask for name, mask in compressed.masks.items()},
        **{f"wiring/{name}": torch.tensor(part.source, dtype=torch.int64) for name, part in shortcuts.items()},
    }


def rebuilt(strategy: Strategy, dense: Dense, plan: Plan, tensors: Mapping[str, Tensor]) -> Compressed:
    """The network that `tensors_of` was taken from, in eval mode.

    Its structure is what `compress` gives, narrowed to the tensors' shapes where stages of the training have cut more
    channels. The weights of `dense` play no part: an untrained network of the workload does as well. Raises
    `InputError` where these are not the tensors of a network of this plan.
    """
    weights, masks, wiring = (part_of(tensors, kind) for kind in ("weight", "mask", "wiring"))
    compressed = strategy.compress(dense, plan)
    module = compressed.module
    try:
        if any(name in weights and weights[name].shape != own.shape for name, own in module.state_dict().items()):
            module = _narrowed(module, without(dense, plan.dropped).workload.example, weights)
        for name, source in wiring.items():
            shortcut = module.get_submodule(name)
            assert isinstance(shortcut, PadShortcut)
            module.set_submodule(name, PadShortcut(shortcut.in_channels, source.tolist(), shortcut.stride))
        module.load_state_dict(dict(weights))
        for name, mask in masks.items():
            weight = filters_first(module.get_submodule(name))
            assert mask.dtype == torch.bool and mask.shape == weight.shape and not weight[~mask].any()
    except (AssertionError, AttributeError, KeyError, RuntimeError, ValueError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise InputError(f"the tensors are of another network than the plan's: {line}") from error
    compressed.module, compressed.masks = module.eval(), dict(masks)
    return compressed


def part_of(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Those of one kind, `KIND/NAME`, by their names."""
    return {name.removeprefix(f"{kind}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}/")}


def _narrowed(module: nn.Module, example: Tensor, weights: Mapping[str, Tensor]) -> nn.Module:
    """`module` with as many channels in every group as these weights have, whichever: weights are loaded afterwards."""
    groups, keep = find_groups(module, example), dict[str, np.ndarray]()
    for group in groups:
        layer, shape = module.get_submodule(group.name), weights[f"{group.name}.weight"].shape
        width = shape[1] * layer.groups if isinstance(layer, nn.ConvTranspose2d) else shape[0]
        keep[group.name] = group.keep(np.zeros(group.channels), width)
    return shrink(module, groups, keep)
