"""Pruning at initialisation as strategies: exact densities, what is kept, what is cut, and what is remembered."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strategies import Plan, channel_groups, shrink, strategy
from strategies.ops import saliency
from strategies.ops.weights import filters_first
from workloads import Dense, InputError, initial

from .networks import Decoder, Grouped
from .subjects import residual, segmenter, untrained

UNSTRUCTURED = ["random_mask", "magnitude", "snip", "grasp", "synflow", "ntk_sap"]
STRUCTURED = [f"{name.removesuffix('_mask')}_structured" for name in UNSTRUCTURED]
FEW = {"synflow": {"iterations": 5}, "ntk_sap": {"iterations": 2}}


class Segmenter(Decoder):
    """With a transposed convolution, and outputs as large as the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.enlarge = nn.Upsample(scale_factor=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.enlarge(super().forward(x))


def few_rounds(name: str) -> dict[str, Any]:
    return FEW.get(name.removesuffix("_structured"), {})


def forgetful(dense: Dense) -> Dense:
    """The same network with nothing remembered of its scores."""
    return replace(dense, memo={name: value for name, value in dense.memo.items() if name == "channel_groups"})


def weights_in(module: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in saliency.scored_layers(module).values())


@pytest.fixture(scope="module")
def network() -> Dense:
    return residual()


@pytest.mark.parametrize("density", [0.013, 0.05, 1 / 3, 0.5, 0.998, 1.0])
@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_the_density_is_exact_to_one_weight(network: Dense, name: str, density: float) -> None:
    method = strategy(name)
    plan = method.plan(network, {"density": density, **few_rounds(name)})
    made = method.compress(network, plan)
    total = weights_in(network.module)
    masked = sum(int((~mask).sum()) for mask in made.masks.values())
    assert total - masked == round(density * total)
    assert plan.settings["density"] == round(density * total) / total
    for layer, mask in made.masks.items():
        assert plan.layers[layer].sparsity == pytest.approx(float((~mask).double().mean()), abs=1e-12)


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_what_is_kept_are_the_initial_weights(network: Dense, name: str) -> None:
    method = strategy(name)
    made = method.compress(network, method.plan(network, {"density": 0.3, **few_rounds(name)}))
    before = initial(network.workload, network.seed)
    for layer, weight in ((n, filters_first(part)) for n, part in saliency.scored_layers(made.module).items()):
        mask = made.masks.get(layer, torch.ones_like(weight, dtype=torch.bool))
        assert torch.equal(weight, filters_first(before.get_submodule(layer)) * mask)
    assert method.start == "initial"


@pytest.mark.parametrize("name", [*UNSTRUCTURED, *STRUCTURED])
def test_another_process_makes_the_same_network_of_the_plan_alone(network: Dense, name: str) -> None:
    method = strategy(name)
    plan = method.plan(network, {"density": 0.3, **few_rounds(name)})
    here = method.compress(network, plan)
    there = strategy(name).compress(forgetful(network), Plan.from_json(plan.to_json()))
    assert here.masks.keys() == there.masks.keys()
    assert all(torch.equal(mask, there.masks[layer]) for layer, mask in here.masks.items())
    theirs = there.module.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in here.module.state_dict().items())


def test_another_seed_makes_another_mask() -> None:
    one, other = residual(), replace(residual(), seed=1, memo={})
    for name in UNSTRUCTURED:
        method, knobs = strategy(name), {"density": 0.3, **few_rounds(name)}
        a, b = (method.compress(dense, method.plan(dense, knobs)).masks for dense in (one, other))
        assert any(not torch.equal(a[layer], b[layer]) for layer in a.keys() & b.keys())


@pytest.mark.parametrize("name", ["snip", "snip_structured"])
def test_scores_are_taken_once_for_plan_and_network_and_one_set_is_remembered(
    network: Dense, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    original = saliency.snip
    monkeypatch.setattr(saliency, "snip", lambda *given: taken.append(1) or original(*given))
    dense, method = forgetful(network), strategy(name)
    plan = method.plan(dense, {"density": 0.2, "iterations": 3})
    assert len(taken) == 3
    method.compress(dense, plan)
    assert len(taken) == 3
    for density in (0.5, 0.4):  # a single round serves all densities
        method.compress(dense, method.plan(dense, {"density": density}))
    assert len(taken) == 4
    size = len(dense.memo)
    strategy("magnitude").plan(dense, {})
    assert len(dense.memo) == size
    method.compress(dense, plan)
    assert len(taken) == 7


@pytest.mark.parametrize("density", [0.1, 0.35, 0.6, 0.9])
@pytest.mark.parametrize(
    "dense",
    [
        residual(),
        segmenter(),
        untrained(Grouped, 8),
        untrained(Segmenter, 16, "segmentation", classes=4),
    ],
    ids=["residual", "segmentation", "grouped", "transposed"],
)
def test_widths_are_those_of_the_best_threshold_on_summed_scores(dense: Dense, density: float) -> None:
    """Brute force: every threshold is tried, the network really cut, and its weights counted."""
    method, groups = strategy("magnitude_structured"), channel_groups(dense)
    made = method.compress(dense, method.plan(dense, {"density": density}))
    start = initial(dense.workload, dense.seed)
    sums = {}
    for group in groups:
        units = np.zeros(group.units)
        for producer in group.producers:
            weight = filters_first(start.get_submodule(producer.layer)).double().abs()
            for channel, (own,) in enumerate(producer.index):
                units[channel % group.units] += float(weight[own].sum())
        sums[group.name] = units
    best: tuple[int, dict[str, np.ndarray]] | None = None
    target = round(density * weights_in(start))
    for threshold in sorted({value for units in sums.values() for value in units}, reverse=True):
        keep = {}
        for group in groups:
            kept = np.flatnonzero(sums[group.name] >= min(threshold, sums[group.name].max()))
            keep[group.name] = (kept[None, :] + np.arange(group.ties)[:, None] * group.units).ravel()
        small = shrink(start, groups, keep)
        if best is None or abs(weights_in(small) - target) < best[0]:
            best = abs(weights_in(small) - target), small.state_dict()
    assert best is not None
    found = made.module.state_dict()
    assert abs(weights_in(made.module) - target) == best[0]
    assert all(torch.equal(found[key], tensor) for key, tensor in best[1].items())


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_networks_are_smaller_and_reach_the_density_that_the_notes_say(digits: Dense, name: str) -> None:
    method = strategy(name)
    plan = method.plan(digits, {"density": 0.3, **few_rounds(name)})
    made = method.compress(digits, plan)
    reached = weights_in(made.module) / weights_in(digits.module)
    assert reached == pytest.approx(plan.notes["density"], abs=1e-12)
    assert abs(reached - 0.3) < 0.02  # a channel of the largest layer holds 1 % of the weights
    assert not made.masks
    images = torch.randn(2, *digits.workload.input_shape)
    assert made.module(images).shape == digits.module(images).shape


@pytest.mark.parametrize("name", STRUCTURED)
def test_every_group_keeps_a_channel_however_low_the_density(network: Dense, name: str) -> None:
    method = strategy(name)
    plan = method.plan(network, {"density": 1e-6, **few_rounds(name)})
    assert {g.name: round(plan.channels[g.name] * g.channels) for g in channel_groups(network)} == {
        g.name: g.ties for g in channel_groups(network)
    }
    assert plan.notes["density"] > 1e-6


@pytest.mark.parametrize("name", ["snip", "synflow", "ntk_sap"])
def test_rounds_cut_channels_for_good(network: Dense, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round scores what the ones before have left, and the network is made of what the last one has."""
    seen: list[dict[str, torch.Tensor]] = []
    original = getattr(saliency, name)

    def watched(first: Any, masks: dict[str, torch.Tensor], *others: Any) -> saliency.Scores:
        seen.append(masks)
        return original(first, masks, *others)

    monkeypatch.setattr(saliency, name, watched)
    method, dense = strategy(f"{name}_structured"), forgetful(network)
    made = method.compress(dense, method.plan(dense, {"density": 0.3, "iterations": 4}))
    total = weights_in(network.module)
    # The widest coupled channel of this small network holds a ninth of its weights.
    left = [sum(int(mask.sum()) for mask in masks.values()) / total for masks in seen]
    assert left == pytest.approx([0.3 ** (k / 4) for k in range(4)], abs=0.06)
    assert weights_in(made.module) / total == pytest.approx(0.3, abs=0.06)
    for before, after in pairwise(seen):
        assert all(bool((before[layer] | ~after[layer]).all()) for layer in before)
    start = initial(network.workload, network.seed)
    for layer, mask in seen[-1].items():
        alive = filters_first(start.get_submodule(layer))[mask]
        kept = filters_first(made.module.get_submodule(layer)).ravel()
        assert bool(torch.isin(kept, alive).all())


def test_equal_widths_have_equal_plans_whatever_density_was_asked_for(network: Dense) -> None:
    method = strategy("snip_structured")
    one, other = (method.plan(network, {"density": density}) for density in (0.3, 0.3001))
    assert one.channels == other.channels
    assert one.digest == other.digest
    masks = [strategy("snip").plan(network, {"density": density}) for density in (0.3, 0.300001)]
    assert masks[0].digest == masks[1].digest


def test_synflow_keeps_every_layer_alive_where_magnitude_collapses() -> None:
    """What SynFlow was made for (Tanaka et al. 2020, theorem 3): no layer dies as long as it can be avoided."""

    def unequal() -> nn.Module:
        layers = [nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU()]
        layers[2].weight.data *= 1e-3
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    dense = untrained(unequal, 16, classes=4)
    magnitude = strategy("magnitude").plan(dense, {"density": 0.05})
    assert magnitude.notes["collapsed"] == "2"
    assert magnitude.layers["2"].sparsity == 1.0
    assert not strategy("magnitude").compress(dense, magnitude).masks["2"].any()
    synflow = strategy("synflow").plan(dense, {"density": 0.05, "iterations": 100})
    assert "collapsed" not in synflow.notes


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_with_floor_every_filter_keeps_a_weight(network: Dense, name: str) -> None:
    method, total = strategy(name), weights_in(network.module)
    made = method.compress(network, method.plan(network, {"density": 0.05, "floor": True, **few_rounds(name)}))
    assert all(bool(mask.flatten(1).any(1).all()) for mask in made.masks.values())
    assert total - sum(int((~mask).sum()) for mask in made.masks.values()) == round(0.05 * total)


def test_masks_of_transposed_convolutions_have_filters_first_and_lie_on_their_weights() -> None:
    dense = untrained(Segmenter, 16, "segmentation", classes=4)
    before = filters_first(initial(dense.workload, dense.seed).get_submodule("up"))
    for name in UNSTRUCTURED:
        method = strategy(name)
        made = method.compress(dense, method.plan(dense, {"density": 0.5, **few_rounds(name)}))
        assert made.masks["up"].shape == (6, 12, 2, 2)
        assert torch.equal(filters_first(made.module.get_submodule("up")), before * made.masks["up"])


@pytest.mark.parametrize(
    ("name", "knobs", "said"),
    [
        ("snip", {"density": 0.0}, "density is 0"),
        ("snip_structured", {"density": 1.5}, "density is 1.5"),
        ("snip", {"density": float("nan")}, "density is nan"),
        ("synflow", {"iterations": 0}, "iterations is 0"),
        ("magnitude", {"iterations": 2}, "iterations is 2"),
        ("snip", {"density": 0.001, "floor": True}, "fewer than the"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(
    network: Dense, name: str, knobs: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        strategy(name).plan(network, knobs)
    assert "\n" not in str(refusal.value)


def test_a_network_without_channels_to_cut_is_referred_to_masks() -> None:
    flat = untrained(lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), 4, classes=4)
    with pytest.raises(InputError, match="use snip"):
        strategy("snip_structured").plan(flat, {})
    assert strategy("snip").plan(flat, {"density": 0.5}).layers["1"].sparsity == 0.5
