"""Prune groups and the cut: slicing must compute what zeroing does, on every network we ship and on awkward graphs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from strategies import find_groups, shrink, zeroed
from workloads import InputError, trace, workload
from workloads.models.mobilenetv2 import mobilenetv2

from .networks import Branching, ChannelShuffled, ConcatThenFlatten, Decoder, DenseConcat, Grouped, PixelShuffled

SHIPPED = {
    "digits/cnn": None,
    "fashion_mnist/cnn": None,
    "cifar10/resnet8": None,
    "cifar10/resnet20": None,
    "cifar10/resnet56": None,
    "cifar10/vgg16_bn": None,
    "cifar100/vgg16_bn": None,
    "cifar10/mobilenetv2": None,
    "camvid/unet": (3, 48, 64),
}
AWKWARD = {
    "folder/mobilenetv2": (lambda: mobilenetv2(10), (3, 64, 64)),
    "dense_concat": (DenseConcat, (3, 8, 8)),
    "grouped": (Grouped, (3, 8, 8)),
    "decoder": (Decoder, (3, 16, 16)),
}


def network(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(0)
    if name in AWKWARD:
        factory, shape = AWKWARD[name]
        module: nn.Module = factory()
    else:
        chosen = workload(name)
        module, shape = chosen.build(), SHIPPED[name] or chosen.input_shape
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):  # statistics that no two channels share
            nn.init.uniform_(part.running_mean, -1, 1)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)
    return module.eval(), shape


def agree(module: nn.Module, shape: tuple[int, int, int], groups: list, keep: dict) -> None:
    images = torch.randn(2, *shape)
    with torch.no_grad():
        small = shrink(module, groups, keep)(images)
        with zeroed(module, groups, keep):
            masked = module(images)
    scale = float(masked.abs().max())
    assert float((small - masked).abs().max()) <= 1e-5 * max(scale, 1)


@pytest.mark.parametrize("name", [*SHIPPED, *AWKWARD])
def test_slicing_equals_zeroing_for_every_group_and_for_all_at_once(name: str) -> None:
    module, shape = network(name)
    groups = find_groups(module, torch.zeros(1, *shape))
    assert groups
    random = np.random.default_rng(0)
    keeps = {g.name: g.keep(random.random(g.channels), g.width(0.6)) for g in groups}
    for group_name, kept in keeps.items():
        agree(module, shape, groups, {group_name: kept})
    agree(module, shape, groups, keeps)


@pytest.mark.parametrize("name", [*SHIPPED, *AWKWARD])
def test_every_layer_but_input_and_output_can_lose_channels(name: str) -> None:
    module, shape = network(name)
    example = torch.zeros(1, *shape)
    groups = find_groups(module, example)
    before = trace(module, example)
    small = trace(shrink(module, groups, {g.name: g.keep(np.ones(g.channels), g.width(0.5)) for g in groups}), example)
    outputs = before.layers[-1].name
    for layer in before.compute_layers:
        after = small[layer.name]
        if layer.name in (outputs, before.compute_layers[-1].name):
            assert after.out_channels == layer.out_channels
        else:
            assert after.out_channels == layer.out_channels // 2
    assert small.compute_layers[0].in_channels == shape[0]
    assert small.parameters < before.parameters / 2


def test_the_two_sides_of_a_parameter_free_shortcut_are_independent() -> None:
    module, shape = network("cifar10/resnet20")
    groups = {g.name: g for g in find_groups(module, torch.zeros(1, *shape))}
    stages = [groups["conv1"], groups["layer2.0.conv2"], groups["layer3.0.conv2"]]
    assert [g.channels for g in stages] == [16, 32, 64]
    assert "layer2.0.shortcut" in {part.layer for part in stages[0].consumers}


def test_frozen_parameters_are_pruned_too_and_the_network_is_left_alone() -> None:
    module, shape = network("cifar10/resnet8")
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    groups = find_groups(module, torch.zeros(1, *shape))
    thawed, _ = network("cifar10/resnet8")
    assert [g.name for g in groups] == [g.name for g in find_groups(thawed, torch.zeros(1, *shape))]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_groups_of_a_grouped_convolution_lose_the_same_positions() -> None:
    module, shape = network("grouped")
    stem = find_groups(module, torch.zeros(1, *shape))[0]
    assert (stem.name, stem.ties, stem.units) == ("stem", 4, 4)
    kept = stem.keep(np.arange(16.0), stem.width(0.5))
    assert kept.tolist() == [2, 3, 6, 7, 10, 11, 14, 15]


def test_width_rounds_to_units_and_to_the_alignment() -> None:
    module, shape = network("cifar10/resnet20")
    group = find_groups(module, torch.zeros(1, *shape))[-1]
    assert group.channels == 64
    assert [group.width(ratio) for ratio in (0.001, 0.3, 1.0)] == [1, 19, 64]
    assert [group.width(ratio, 16) for ratio in (0.001, 0.3, 0.9, 1.0)] == [16, 16, 64, 64]


@pytest.mark.parametrize("factory", [PixelShuffled, ChannelShuffled, ConcatThenFlatten])
def test_graphs_that_cannot_be_cut_safely_are_refused_in_one_line(factory: type[nn.Module]) -> None:
    shape = {"PixelShuffled": (3, 4, 4), "ChannelShuffled": (3, 8, 8), "ConcatThenFlatten": (3, 4, 4)}[factory.__name__]
    with pytest.raises(InputError) as refusal:
        find_groups(factory().eval(), torch.zeros(1, *shape))
    assert factory.__name__ in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_network_that_does_not_trace_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="cannot be traced") as refusal:
        find_groups(Branching(), torch.zeros(1, 3, 4, 4))
    assert "\n" not in str(refusal.value)


def test_cutting_every_channel_is_refused() -> None:
    module, shape = network("digits/cnn")
    groups = find_groups(module, torch.zeros(1, *shape))
    with pytest.raises(InputError, match="at least one must stay"):
        shrink(module, groups, {groups[0].name: np.zeros(0, dtype=np.int64)})
