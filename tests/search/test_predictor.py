"""Costs without making a network: the table from widths is the traced one, and a fit recovers a known latency."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cost_models import target
from search.predictor import FEATURES, UNKNOWN, Predictor, fit, fitted, frozen_by
from search.width_table import WidthTable
from strategies import Plan, channel_groups, find_groups, shrink, strategy
from tests.search.fakes import FakeLatency
from tests.strategies.networks import Decoder, DenseConcat, Grouped
from tests.strategies.subjects import Residual
from workloads import Dense, Network, trace
from workloads.models.mobilenetv2 import mobilenetv2_cifar
from workloads.models.resnet_cifar import resnet_cifar
from workloads.models.unet import UNet
from workloads.models.vgg import VGG16

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (lambda: resnet_cifar(10, 20), (3, 32, 32)),
    "mobilenetv2": (lambda: mobilenetv2_cifar(10), (3, 32, 32)),
    "vgg16": (lambda: VGG16(10, width=0.25), (3, 32, 32)),
    "unet": (lambda: UNet(5, width=8), (3, 32, 32)),
    "concatenations": (DenseConcat, (3, 8, 8)),
    "grouped, flattened": (Grouped, (3, 8, 8)),
    "transposed": (Decoder, (3, 16, 16)),
    "projection, depthwise": (Residual, (3, 16, 16)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_from_widths_is_that_of_the_shrunk_network(name: str) -> None:
    build, shape = NETWORKS[name]
    module, example = build().eval(), torch.zeros(1, *shape)
    groups, network, random = find_groups(module, example), trace(module, example), np.random.default_rng(0)
    table, model = WidthTable(network, groups), target("counts")
    predictor = Predictor(network, groups, model.executed, UNKNOWN)
    predictor.fit = replace(predictor.fit, weights=_weights("MACs", "grouped MACs"))
    for _ in range(3):
        widths = np.array([group.width(random.uniform(0.05, 1)) for group in groups])
        keep = {g.name: g.keep(random.random(g.channels), w) for g, w in zip(groups, widths, strict=True)}
        small = trace(shrink(module, groups, keep), example)
        inputs, outputs = table.channels(widths[None])
        assert inputs[0].tolist() == [row.in_channels for row in small.layers]
        assert outputs[0].tolist() == [row.out_channels for row in small.layers]
        assert predictor.cost(widths[None], [{}])[0] == sum(row.macs for row in small.layers)
        assert predictor.features(widths[None], [{}])[0, FEATURES.index("weight bytes")] == 4 * sum(
            row.weights for row in small.layers
        )


@pytest.mark.parametrize("name", ["resnet20", "unet"])
def test_groups_that_meet_in_no_row_add_their_costs(name: str) -> None:
    build, shape = NETWORKS[name]
    module, example = build().eval(), torch.zeros(1, *shape)
    groups = find_groups(module, example)
    predictor = Predictor(trace(module, example), groups, target("counts").executed, UNKNOWN)
    predictor.fit = replace(predictor.fit, weights=np.random.default_rng(0).random(len(FEATURES)))
    dense, together, found = predictor.table.dense, set(predictor.table.together()), 0
    for first in range(len(groups)):
        for second in range(first + 1, len(groups)):
            widths = np.repeat(dense[None], 4, axis=0)
            widths[[1, 3], first] = 3
            widths[[2, 3], second] = 5
            none, one, other, both = predictor.cost(widths, [{}])
            multiplied = abs(both - one - other + none) > 1e-9 * none
            assert not multiplied or (first, second) in together
            found += multiplied
    assert found >= len(groups) - 1  # the layers between them


def _weights(*names: str) -> np.ndarray:
    return np.array([float(name in names) for name in FEATURES])


@given(st.integers(0, 2**32 - 1))
def test_a_fit_recovers_costs_that_are_sums_of_features(seed: int) -> None:
    random = np.random.default_rng(seed)
    features, true = random.uniform(1, 10, (30, 4)), random.uniform(0.1, 1, 4) * [1, 1, 1, 0]
    found = fit(features * [1, 1e-6, 1e6, 1], features @ true)
    assert np.allclose(found.weights * [1, 1e-6, 1e6, 1], true, atol=0.02 * true.max())
    assert found.error < 0.01
    assert found.rank_correlation > 0.99


def test_an_error_is_that_of_networks_that_the_fit_has_not_seen() -> None:
    features, costs = np.eye(6) + 1e-3, np.arange(1.0, 7.0)  # each network has a feature of its own
    found = fit(features, costs)
    assert np.allclose(features @ found.weights, costs, rtol=0.05)
    assert found.error > 0.5


@pytest.mark.parametrize("name", ["l1", "l1+int"])
def test_a_fitted_predictor_foretells_plans_that_it_has_not_seen(digits: Dense, name: str) -> None:
    method, model, random = strategy(name), FakeLatency(), np.random.default_rng(0)
    groups = channel_groups(digits)

    def plan() -> Plan:
        return method.plan(digits, {"keep": {group.name: random.uniform(0.1, 1) for group in groups}})

    predictor = fitted(digits, groups, method, [plan() for _ in range(12)], model, frozen_by(model, digits))
    assert model.costed == 12
    fresh = [plan() for _ in range(10)]
    compressed = [method.compress(digits, each) for each in fresh]
    true = [model.seconds(trace(each.module, digits.workload.example, each.formats)) for each in compressed]
    assert np.allclose(predictor.plans(fresh), true, rtol=0.03)
    assert predictor.fit.error < 0.05
    assert predictor.fit.rank_correlation > 0.9


@pytest.mark.parametrize("block", [8, 16])
def test_the_fit_finds_how_many_channels_a_block_has(digits: Dense, block: int) -> None:
    class Blocked(FakeLatency):
        def seconds(self, network: Network) -> float:
            total = 1e-6
            for row in network.compute_layers:
                blocks = math.ceil(row.in_channels / block) * math.ceil(row.out_channels / block)
                total += 3e-11 * blocks * block**2 * row.macs / (row.in_channels * row.out_channels)
            return total

    method, model, random = strategy("l1"), Blocked(), np.random.default_rng(0)
    groups = channel_groups(digits)
    plans = [method.plan(digits, {"keep": {g.name: random.uniform(0.1, 1) for g in groups}}) for _ in range(16)]
    assert fitted(digits, groups, method, plans, model, frozen_by(model, digits)).fit.block == block


def test_narrow_widths_cost_what_the_target_says_that_they_run_as(digits: Dense) -> None:
    method, groups = strategy("int"), channel_groups(digits)
    layers = ["conv2", "conv3"]
    plans = [method.plan(digits, {"weight_bits": dict.fromkeys(layers, bits)}) for bits in (2, 8)]
    network = trace(digits.module, digits.workload.example)
    counts, fake = (Predictor(network, groups, model.executed, UNKNOWN) for model in (target("counts"), FakeLatency()))
    for predictor in (counts, fake):
        predictor.fit = replace(predictor.fit, weights=_weights("bit operations"))
    narrow, wide = counts.plans(plans)
    true = sum(row.macs * 64 for row in network.compute_layers)
    assert wide == true
    assert narrow == true - sum(48 * network[name].macs for name in layers)
    assert fake.plans(plans).tolist() == [true, true]
