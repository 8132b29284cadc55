"""The spectrum of feature maps: their two-dimensional cosine transform, streamed, and scores of channels from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from workloads import Split, Workload, normalise, symbolic_graph

from .groups import ChannelGroup

IMAGES = 5 * 128
"""Training images whose maps are transformed [our reconstruction, as are the three scores]."""
_PIXELS, _PIXELS_AT_ONCE, _BATCH = 2**22, 2**19, 128
"""Of large pictures fewer images: as many as have so many pixels, in all and in one pass."""
SIGNIFICANT = 0.05
"""Coefficients above this part of the largest one count."""


def cosine_matrix(size: int) -> Tensor:
    """D of the orthonormal DCT-II, shape (size, size): D x is the transform of x, and D Dᵀ = 1."""
    place, frequency = torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64)[:, None]
    matrix = torch.cos(torch.pi * (place + 0.5) * frequency / size) * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix.float()


def transformed(maps: Tensor) -> Tensor:
    """F = D_H X D_Wᵀ of every map: (…, H, W) → (…, H, W), two batched matrix products with constant matrices."""
    height, width = maps.shape[-2:]
    # The constant matrix stands on the right in both, so that each is one large product rather than one a map.
    rows = maps @ cosine_matrix(width).to(maps).T
    return (rows.transpose(-1, -2) @ cosine_matrix(height).to(maps).T).transpose(-1, -2)


@dataclass
class Spectrum:
    """What is kept of the transformed maps of one activation: sums over images, in float64."""

    power: Tensor
    """Σ F², shape (channels, H, W)."""
    significant: Tensor
    """How many |F| exceed 5 % of the largest one of all these channels in the same image, shape (channels,)."""
    likeness: Tensor
    """Σ |F_i||F_j| over images and frequencies, shape (channels, channels)."""

    @classmethod
    def of(cls, maps: Tensor) -> Spectrum:
        """The spectrum of maps (N, channels, H, W)."""
        amplitude = transformed(maps.float().contiguous()).abs()
        largest = amplitude.amax((1, 2, 3), keepdim=True)
        lined = amplitude.transpose(0, 1).flatten(1)
        return cls(
            amplitude.square().sum(0).double(),
            (amplitude > SIGNIFICANT * largest).sum((0, 2, 3)).double(),
            (lined @ lined.T).double(),
        )

    def __iadd__(self, other: Spectrum) -> Spectrum:
        self.power += other.power
        self.significant += other.significant
        self.likeness += other.likeness
        return self

    def cpu(self) -> Spectrum:
        """The same on the CPU."""
        return Spectrum(self.power.cpu(), self.significant.cpu(), self.likeness.cpu())

    def energy(self, kappa: float) -> np.ndarray:
        """Energy of the low band, Σ_{u+v ≤ κ(H+W−2)} F², shape (channels,); all of it at κ = 1."""
        _, height, width = self.power.shape
        diagonal = torch.arange(height)[:, None] + torch.arange(width)
        # The little more keeps a diagonal that κ names exactly, such as 0.29 · 100, on the inner side.
        last = math.floor(kappa * (height + width - 2) + 1e-9)
        return (self.power * (diagonal <= last)).sum((1, 2)).numpy()

    def count(self) -> np.ndarray:
        """Number of significant coefficients, shape (channels,)."""
        return self.significant.numpy()

    def uniqueness(self) -> np.ndarray:
        """1 − the largest cosine between a channel's amplitudes |F|, all images' side by side, and another channel's.

        Shape (channels,). A channel that is zero everywhere has 0, one that has no other to be compared with 1.
        """
        norm = self.likeness.diagonal().sqrt()
        cosine = self.likeness / torch.outer(norm, norm).clamp(min=torch.finfo(torch.float64).tiny)
        cosine.fill_diagonal_(0)
        unique = 1 - cosine.max(1).values
        return torch.where(norm > 0, unique, 0).clamp(min=0).numpy()


def group_spectra(
    module: nn.Module, groups: Sequence[ChannelGroup], workload: Workload, split: Split
) -> dict[str, list[Spectrum]]:
    """Spectra of every group's channels, by the group's name: one of each activation that the network makes of them.

    An activation is what the group's consumers read, followed backwards through pooling, padding, resizing, flattening
    and concatenation: the output of the last ReLU, in a network that has one there, at the size in which it was made.
    Up to 640 un-augmented images, drawn once, are passed through in eval mode; nothing but the sums is kept.
    """
    graph = symbolic_graph(copy.deepcopy(module).eval().to(workload.device))
    activations = _activations(graph, groups, workload.example.to(workload.device))
    spectra: dict[_Activation, Spectrum] = {}

    def take(activation: _Activation, value: Tensor) -> None:
        spectrum = Spectrum.of(activation.maps(value))
        if activation in spectra:
            spectra[activation] += spectrum
        else:
            spectra[activation] = spectrum

    pixels = workload.input_shape[1] * workload.input_shape[2]
    images, batch = min(IMAGES, max(1, _PIXELS // pixels)), min(_BATCH, max(1, _PIXELS_AT_ONCE // pixels))
    order = np.random.default_rng(0).permutation(len(split))[:images]
    listener = _Listener(graph, activations, take)
    with torch.no_grad():
        for start in range(0, len(order), batch):
            pictures, _ = split.batch(np.sort(order[start : start + batch]))
            listener.run(normalise(pictures.to(workload.device), workload))
    return {
        group.name: [spectra[activation].cpu() for activation in activations if activation.group == group.name]
        for group in groups
    }


@dataclass(frozen=True)
class _Activation:
    """Where the channels of a group are found: the values of a node of the graph, and their places in it."""

    node: torch.fx.Node
    group: str
    places: tuple[tuple[int, ...], ...]
    """Of every channel: one channel of a map, or as many elements of a vector as its flattened map had."""

    def maps(self, value: Tensor) -> Tensor:
        """The group's channels as maps (N, channels, H, W); the elements of a vector become a column."""
        chosen = value[:, torch.tensor(self.places, device=value.device)]
        return chosen.squeeze(2) if value.ndim == 4 else chosen[..., None]


class _Listener(torch.fx.Interpreter):
    """Runs a graph and hands on the values of activations as they come, so that none is kept."""

    def __init__(
        self,
        graph: torch.fx.GraphModule,
        activations: Sequence[_Activation],
        take: Callable[[_Activation, Tensor], None],
    ) -> None:
        super().__init__(graph)
        self._activations, self._take = activations, take

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        for activation in self._activations:
            if activation.node is n:
                self._take(activation, value)
        return value


_PASSED_MODULES = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.Upsample, nn.Flatten,
    nn.Identity, nn.Dropout, nn.Dropout2d,
)  # fmt: skip
_PASSED = frozenset(
    {
        functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d,
        functional.pad, functional.interpolate, functional.dropout, torch.flatten, torch.mean, torch.reshape, "flatten",
        "view", "reshape", "mean", "contiguous",
    }
)  # fmt: skip


def _activations(graph: torch.fx.GraphModule, groups: Sequence[ChannelGroup], example: Tensor) -> list[_Activation]:
    """The activations of all groups, each once, however many consumers read it."""
    with torch.no_grad():
        ShapeProp(graph).propagate(example)
    modules = dict(graph.named_modules())
    calls = [node for node in graph.graph.nodes if node.op == "call_module"]
    found = {
        _made_of(node.args[0], part.index, group.name, modules): None
        for group in groups
        for part in group.consumers
        for node in calls
        if node.target == part.layer
    }
    return list(found)


def _made_of(node: torch.fx.Node, index: np.ndarray, group: str, modules: Mapping[str, nn.Module]) -> _Activation:
    """The activation behind what a consumer reads; `index` (channels, k) are the channels' places in `node`."""
    while True:
        source: Any = None
        if node.target in _PASSED or isinstance(modules.get(str(node.target)), _PASSED_MODULES):
            source = node.args[0]
            size = _width(node) // _width(source)  # of a map that is flattened here
            index = index if size == 1 else index[:, :1] // size
        elif node.target in (torch.cat, torch.concat):
            operands: Any = node.args[0]
            ends = np.cumsum([_width(operand) for operand in operands])
            place = int(np.searchsorted(ends, index.min(), side="right"))
            if index.max() < ends[place]:
                source = operands[place]
                index = index - (ends[place] - _width(source))
        if source is None:
            return _Activation(node, group, tuple(map(tuple, index.tolist())))
        node = source


def _width(node: torch.fx.Node) -> int:
    return int(node.meta["tensor_meta"].shape[1])
