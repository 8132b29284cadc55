"""Prune groups: which channels of which layers must be cut together, and the cut itself.

This file is the one adapter to torch-pruning (Fang et al., DepGraph, CVPR 2023), whose dependency graph finds the
coupling. Around it stand the checks that it lacks: frozen parameters (silently not traced), graphs that it shrinks
wrongly (channel shuffles), grouped convolutions (whose groups must lose equally many channels), and a proof by
execution that the shrunk network computes what zeroed channels would.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm
from typing import Any, Literal

import numpy as np
import torch
import torch_pruning as pruning
from torch import Tensor, nn

from workloads import Dense, InputError, PadShortcut, symbolic_graph, trace

Side = Literal["out", "in", "both"]


@dataclass(frozen=True)
class Slice:
    """Where the channels of a group lie in one layer: `index[c]` are the layer's own channels of channel c."""

    layer: str
    side: Side
    """Outputs or inputs of the layer; both for layers that map every channel to itself (batch norm, depthwise)."""
    index: np.ndarray
    """Shape (channels, k); k is 1, or H·W where a linear layer reads flattened maps."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are kept or cut as one: those of coupled layers, each cut in the same places."""

    name: str
    """The layer whose output channels number the group's channels: the first one in the network."""
    channels: int
    slices: tuple[Slice, ...]
    """Every layer that loses weights when a channel is cut."""
    producers: tuple[Slice, ...]
    """Those of `slices` with weights whose output channels these are: convolutions and linear layers."""
    ties: int = 1
    """Equal blocks that must keep the same positions: the groups of a grouped convolution on these channels."""

    @property
    def consumers(self) -> tuple[Slice, ...]:
        """Layers that read the channels: convolutions, linear layers and parameter-free shortcuts."""
        return tuple(part for part in self.slices if part.side == "in")

    @property
    def units(self) -> int:
        """Number of independent choices: channels ÷ ties."""
        return self.channels // self.ties

    def width(self, ratio: float, align: int = 1) -> int:
        """Channels kept at a keep ratio: the nearest multiple of `align` in whole units, between one and all."""
        step = lcm(self.ties, align)
        return min(max(round(ratio * self.channels / step), 1) * step, self.channels)

    def keep(self, scores: np.ndarray, width: int) -> np.ndarray:
        """The `width` best channels by score (channels,), ascending; ties in score go to the lower index."""
        unit_scores = scores.reshape(self.ties, self.units).sum(0)
        units = np.sort(np.argsort(-unit_scores, kind="stable")[: width // self.ties])
        return (units[None, :] + np.arange(self.ties)[:, None] * self.units).ravel()


def channel_groups(dense: Dense) -> list[ChannelGroup]:
    """The prune groups of a workload's dense network, in network order; found and verified once."""
    if "channel_groups" not in dense.memo:
        dense.memo["channel_groups"] = find_groups(dense.module, dense.workload.example)
    groups: list[ChannelGroup] = dense.memo["channel_groups"]
    return groups


def find_groups(module: nn.Module, example: Tensor) -> list[ChannelGroup]:
    """The prune groups of any network that traces; `example` is one input, shape (1, C, H, W).

    Input channels of the first layer and outputs of the last are fixed and in no group. Raises `InputError` for graphs
    whose channels cannot be cut safely.
    """
    _refuse_shuffles(module)
    outputs = output_layers(module, example)
    module = _thawed_copy(module)
    graph = _dependency_graph(module, example)
    names = {layer: name for name, layer in module.named_modules()}
    order = {name: position for position, name in enumerate(names.values())}
    groups = []
    for found in graph.get_all_groups():
        group = _read_group(graph, found, names, order)
        if group is not None and not outputs & {producer.layer for producer in group.producers}:
            groups.append(group)
    groups.sort(key=lambda group: order[group.name])
    _verify(module, example, groups)
    return groups


def shrink(module: nn.Module, groups: Sequence[ChannelGroup], keep: Mapping[str, np.ndarray]) -> nn.Module:
    """A physically smaller copy of `module`: `keep` gives the channels that each group (by name) keeps, ascending."""
    module = copy.deepcopy(module)
    cut: dict[tuple[str, Side], set[int]] = {}
    for group in groups:
        removed = np.setdiff1d(np.arange(group.channels), keep.get(group.name, np.arange(group.channels)))
        if len(removed) == group.channels:
            raise InputError(f"prune group {group.name!r} would keep no channel; at least one must stay")
        if len(removed):
            for part in group.slices:
                cut.setdefault((part.layer, part.side), set()).update(part.index[removed].ravel().tolist())
    for (name, side), channels in cut.items():
        _cut_layer(module.get_submodule(name), side, sorted(channels))
    return module


@contextmanager
def zeroed(module: nn.Module, groups: Sequence[ChannelGroup], keep: Mapping[str, np.ndarray]) -> Iterator[nn.Module]:
    """Inside, `module` computes what `shrink` would: cut channels are zeroed where anything reads them."""
    dead: dict[str, list[int]] = {}
    for group in groups:
        if group.name in keep:
            cut = np.setdiff1d(np.arange(group.channels), keep[group.name])
            for consumer in group.consumers:
                dead.setdefault(consumer.layer, []).extend(consumer.index[cut].ravel().tolist())

    def hook(channels: Tensor) -> Any:
        return lambda layer, inputs: (inputs[0].index_fill(1, channels, 0.0), *inputs[1:])

    handles = [
        module.get_submodule(layer).register_forward_pre_hook(hook(torch.tensor(channels, dtype=torch.long)))
        for layer, channels in dead.items()
    ]
    try:
        yield module
    finally:
        for handle in handles:
            handle.remove()


def _thawed_copy(module: nn.Module) -> nn.Module:
    """A copy whose parameters all take gradients: torch-pruning follows autograd and skips frozen ones in silence."""
    module = copy.deepcopy(module).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module


class PadShortcutPruner(pruning.BasePruningFunc):
    """Tells torch-pruning that the two sides of the parameter-free shortcut of the CIFAR ResNets are independent."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        layer.keep(range(layer.in_channels), np.setdiff1d(np.arange(layer.out_channels), idxs).tolist())
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        layer.keep(np.setdiff1d(np.arange(layer.in_channels), idxs).tolist(), range(layer.out_channels))
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.out_channels)

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.in_channels)


def _cut_layer(layer: nn.Module, side: Side, channels: list[int]) -> None:
    """Removes output or input channels from one layer in place."""
    if isinstance(layer, PadShortcut):
        prune = PadShortcutPruner().prune_in_channels if side == "in" else PadShortcutPruner().prune_out_channels
    elif isinstance(layer, nn.Linear):
        prune = pruning.prune_linear_in_channels if side == "in" else pruning.prune_linear_out_channels
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        prune = pruning.prune_batchnorm_out_channels
    elif side == "both":
        prune = pruning.prune_depthwise_conv_out_channels
    else:
        prune = pruning.prune_conv_in_channels if side == "in" else pruning.prune_conv_out_channels
    prune(layer, channels)


def _dependency_graph(module: nn.Module, example: Tensor) -> pruning.DependencyGraph:
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = pruning.DependencyGraph()
        try:
            return graph.build_dependency(
                module,
                example_inputs=example,
                # A fresh dictionary: torch-pruning keeps what it is given.
                customized_pruners={PadShortcut: PadShortcutPruner()},
                verbose=False,
            )
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the channels of network {type(module).__name__} cannot be grouped: {' '.join(str(error).split())}"
            ) from error


def _read_group(
    graph: pruning.DependencyGraph, found: Any, names: Mapping[nn.Module, str], order: Mapping[str, int]
) -> ChannelGroup | None:
    """The group in our terms, or None where it may not be cut: its channels stay as they are."""
    channels = len(found[0].idxs)
    slices: list[Slice] = []
    producers: list[Slice] = []
    ties = 1
    for item in found:
        layer = item.dep.target.module
        if layer not in names:
            if isinstance(layer, nn.Parameter):
                return None
            continue  # an operation without weights
        if not isinstance(
            layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d | PadShortcut
        ):
            if any(True for _ in layer.parameters()):
                return None
            continue
        own, root = np.asarray(item.idxs, dtype=np.int64), np.asarray(item.root_idxs, dtype=np.int64)
        if len(own) % channels or not np.array_equal(np.unique(root), np.arange(channels)):
            return None
        index = own[np.argsort(root, kind="stable")].reshape(channels, -1)
        depthwise = isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels
        out = graph.is_out_channel_pruning_fn(item.dep.handler)
        side: Side = (
            "both" if depthwise or isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) else "out" if out else "in"
        )
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.groups > 1 and not depthwise:
            if not np.array_equal(index[:, 0], np.arange(layer.out_channels if out else layer.in_channels)):
                return None  # a grouped convolution that sees only part of these channels cannot lose them evenly
            ties = lcm(ties, layer.groups)
        slices.append(Slice(names[layer], side, index))
        if side != "in" and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            producers.append(slices[-1])
    if channels % ties or channels == ties:
        return None
    numbered = [part.layer for part in producers if np.array_equal(part.index[:, 0], np.arange(channels))]
    name = min(numbered, key=lambda layer: order[layer])
    return ChannelGroup(name, channels, tuple(slices), tuple(producers), ties)


def output_layers(module: nn.Module, example: Tensor) -> set[str]:
    """Layers whose channels are outputs of the network, found backwards through rows without weights."""
    network = trace(module, example)
    read = {name for layer in network.layers for name in layer.inputs}
    pending = [layer.name for layer in network.layers if layer.name not in read]
    found: set[str] = set()
    while pending:
        layer = network[pending.pop()]
        if layer.kind in ("conv", "linear"):
            found.add(layer.name)
            if layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1:
                pending.extend(layer.inputs)
        else:
            pending.extend(layer.inputs)
    return found


_ADVICE = "use a strategy that keeps the widths (sentei, int)"
_SHUFFLES = ("PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")


def _refuse_shuffles(module: nn.Module) -> None:
    """Refuses graphs that permute channels: the dependency graph takes a shuffle for an element-wise operation."""
    traced = symbolic_graph(module)
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.op == "call_module":
            operation = type(modules[node.target]).__name__
        elif node.op in ("call_function", "call_method"):
            operation = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        else:
            continue
        if operation in _SHUFFLES or operation in ("permute", "transpose", "swapaxes", "movedim"):
            raise InputError(
                f"network {type(module).__name__} reorders its channels ({operation} at {node.name!r}), "
                f"which then cannot be pruned safely; {_ADVICE}"
            )


def _verify(module: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> None:
    """Cuts half of every group and compares with the same channels zeroed; raises `InputError` where they differ."""
    random = np.random.default_rng(0)
    keep = {group.name: group.keep(random.random(group.channels), group.width(0.5)) for group in groups}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        images = torch.randn(2, *example.shape[1:])
        try:
            small = shrink(module, groups, keep)(images)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"network {type(module).__name__} does not run once shrunk: {' '.join(str(error).split())}; {_ADVICE}"
            ) from error
        with zeroed(module, groups, keep):
            masked = module(images)
    if small.shape != masked.shape or not torch.allclose(
        small, masked, rtol=1e-3, atol=1e-4 * float(masked.abs().max() + 1)
    ):
        raise InputError(
            f"network {type(module).__name__} computes something else once shrunk than with the same channels zeroed: "
            f"its graph couples channels in a way that is not understood; {_ADVICE}"
        )
