"""Integer grids: symmetric per channel for weights, asymmetric per tensor for activations; networks on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workloads import Format, Formats

from .weights import filters_first


def quantise_weight(weight: Tensor, bits: int) -> Tensor:
    """`weight` (filters, …) on the symmetric integer grid −(2^(b−1)−1)…2^(b−1)−1 of each filter; zero stays zero."""
    top = 2 ** (bits - 1) - 1
    flat = weight.detach().flatten(1)
    scale = flat.abs().amax(1, keepdim=True) / max(top, 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (torch.clamp(torch.round(flat / scale), -top, top) * scale).view_as(weight)


def quantise_activation(values: Tensor, low: float, high: float, bits: int) -> Tensor:
    """`values` on the asymmetric grid of 2^b steps over [low, high], which is widened to hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    steps = 2**bits - 1
    scale = (high - low) / steps or 1.0
    zero = int(min(max(round(-low / scale), 0), steps))
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, steps)


def on_grid(folded: nn.Module, formats: Formats) -> nn.Module:
    """A copy of a network (batch norm folded) whose integer weights lie on their grid; others are left alone."""
    module = copy.deepcopy(folded)
    for name, chosen in formats.items():
        if chosen.weight.kind == "int":
            weight = filters_first(module.get_submodule(name))
            weight.copy_(quantise_weight(weight, chosen.weight.bits))
    return module


class Simulated(nn.Module):
    """A network whose layers see integer activations: what hardware for a plan's formats would compute.

    `module` has its weights on their grid already; the range of each layer's input is the least and greatest value seen
    on the calibration batches.
    """

    def __init__(self, module: nn.Module, formats: Formats, calibration: Sequence[Tensor]) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).eval()
        self._widths: dict[str, Format] = {n: f.activation for n, f in formats.items() if f.activation.kind == "int"}
        self._ranges: dict[str, tuple[float, float]] = {}
        watchers = [self._hook(name, self._watch) for name in self._widths]
        with torch.no_grad():
            for batch in calibration:
                self.module(batch)
        for watcher in watchers:
            watcher.remove()
        for name in self._widths:
            self._hook(name, self._quantise)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs for normalised images (N, C, H, W)."""
        outputs: Tensor = self.module(images)
        return outputs

    def _hook(self, name: str, act: Callable[[str, Tensor], Tensor | None]) -> RemovableHandle:
        return self.module.get_submodule(name).register_forward_pre_hook(lambda _, inputs: act(name, inputs[0]))

    def _watch(self, name: str, values: Tensor) -> None:
        low, high = self._ranges.get(name, (0.0, 0.0))
        self._ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))

    def _quantise(self, name: str, values: Tensor) -> Tensor:
        return quantise_activation(values, *self._ranges[name], self._widths[name].bits)
