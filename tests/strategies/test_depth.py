"""Branches are dropped by every strategy alike, and by `depth` alone: the knob, its plans, and training behind it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from strategies import Choice, Compressed, Plan, channel_groups, prune_to_drop, strategy
from strategies.ops import blocks
from strategies.uniform import KEEP, Uniform
from workloads import Accuracy, Dense, InputError, initial, normalise, trace, workload

from .subjects import residual, untrained

STRUCTURES = [
    "uniform",
    "l1",
    "global_l1",
    "pca_l1",
    "pai_pat",
    "frequency",
    "sentei",
    "low_rank",
    "conventional",
    "snip",
]


@pytest.fixture(scope="module")
def dense() -> Dense:
    return residual()


@pytest.fixture(scope="module")
def deep() -> Dense:
    """A ResNet-20: nine branches."""
    return untrained(lambda: workload("cifar10/resnet20").build(), 8, classes=10)


def made(dense: Dense, name: str, **knobs: Any) -> Compressed:
    method = strategy(name)
    return method.compress(dense, method.plan(dense, knobs))


def layers(compressed: Compressed, dense: Dense) -> dict[str, int]:
    """Layer → output channels."""
    return {row.name: row.out_channels for row in trace(compressed.module, dense.workload.example).compute_layers}


@pytest.mark.parametrize("name", [*STRUCTURES, "l1+int", "uniform@shuffle", "pca_l1@scratch-e"])
def test_every_structural_strategy_has_the_knob_where_there_are_branches(
    dense: Dense, digits: Dense, name: str
) -> None:
    space, plain = strategy(name).space(dense), strategy(name).space(digits)
    assert space.choices[-1] == Choice("drop", (2, 1, 0), default=2)
    assert space.ladder_knob == plain.ladder_knob != "drop"
    assert "drop" not in plain.ranges()
    default = strategy(name).plan(dense, space.decode({}))
    assert default.dropped == () and default == strategy(name).plan(dense, space.decode({}) | {"drop": 0})


@pytest.mark.parametrize("name", ["dense", "int", "minifloat", "dense+int"])
def test_controls_and_number_formats_leave_it_out_of_their_spaces(dense: Dense, name: str) -> None:
    assert "drop" not in strategy(name).space(dense).ranges()


@pytest.mark.parametrize("name", ["depth", "depth+int", "depth@scratch-e"])
def test_depth_drops_a_third_and_walks_the_ladder_of_depths(deep: Dense, name: str) -> None:
    space = strategy(name).space(deep)
    assert space.ladder_knob == "drop"
    assert space.choices[-1] == Choice("drop", tuple(range(9, -1, -1)), default=6)
    plan = strategy(name).plan(deep, {})
    assert len(plan.dropped) == 3
    assert set(plan.dropped) == set(blocks.removal_order(deep)[:3])
    assert plan.dropped == tuple(sorted(plan.dropped))  # network order, in a ResNet that of the names
    assert plan == strategy(name).plan(deep, {"dropped": plan.dropped[::-1]})


def test_depth_refuses_networks_without_a_branch_in_one_line(digits: Dense) -> None:
    for name in ("depth", "depth+int", "depth@shuffle"):
        for ask in (lambda m: m.space(digits), lambda m: m.plan(digits, {}), lambda m: m.plan(digits, {"drop": 0})):
            with pytest.raises(InputError, match="no residual branch that could be dropped") as refusal:
                ask(strategy(name))
            assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "knobs", [{"drop": 3}, {"drop": -1}, {"drop": 0.5}, {"drop": "all"}, {"drop": None}, {"dropped": ["conv3"]}]
)
def test_what_cannot_be_dropped_is_refused_in_one_line(dense: Dense, knobs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="branch") as refusal:
        strategy("l1").plan(dense, knobs)
    assert "\n" not in str(refusal.value)


def test_a_plan_with_an_unknown_branch_is_refused(dense: Dense) -> None:
    plan = strategy("l1").plan(dense, {"drop": 1}).model_copy(update={"dropped": ("nowhere",)})
    with pytest.raises(InputError, match="no residual branch 'nowhere'"):
        strategy("l1").compress(dense, plan)


OF_FULL_GROUP = {"stem": "stem", "conv1": "conv1", "conv2": "stem", "projection": "conv3", "conv3": "conv3"}


@given(
    st.sets(st.sampled_from(["conv1", "depthwise"])),
    st.fixed_dictionaries({group: st.sampled_from(KEEP) for group in ("stem", "conv1", "conv3")}),
)
@settings(deadline=None, max_examples=10)
def test_a_ratio_of_the_full_network_holds_for_the_layers_of_its_group_that_are_left(
    dropped: set[str], keep: dict[str, float]
) -> None:
    assert {group.name for group in channel_groups(DENSE)} == keep.keys()
    compressed = made(DENSE, "l1", dropped=dropped, keep=keep)
    widths, whole = layers(compressed, DENSE), {"stem": 8, "conv1": 8, "conv2": 8, "projection": 16, "conv3": 16}
    assert (set(whole) - set(widths)) == {
        *({"conv1", "conv2"} if "conv1" in dropped else ()),
        *({"conv3"} if "depthwise" in dropped else ()),
    }
    for layer in whole.keys() & widths.keys():
        assert widths[layer] == max(round(keep[OF_FULL_GROUP[layer]] * whole[layer]), 1)


DENSE = residual()


def test_knobs_of_dropped_layers_are_no_mistake_but_unknown_layers_are(dense: Dense) -> None:
    space = strategy("low_rank").space(dense)
    plan = strategy("low_rank").plan(dense, space.decode({"rank.conv1": -1, "rank.conv2": 1, "drop": 0}))
    assert plan.dropped and "conv1" not in plan.layers
    with pytest.raises(InputError, match="'conv9'"):
        strategy("low_rank").plan(dense, {"rank": {"conv9": 0.5}, "drop": 1})


def test_number_formats_of_dropped_layers_vanish(dense: Dense) -> None:
    widths = dict.fromkeys(("conv1", "conv2", "conv3", "depthwise"), 4)
    whole, half = (
        strategy("l1+int").plan(dense, {"weight_bits": widths, "dropped": names}) for names in ((), ["conv1"])
    )
    assert whole.layers.keys() - half.layers.keys() == {"conv1", "conv2"}
    assert half.layers["conv3"].weight_format == "int4"
    compressed = strategy("l1+int").compress(dense, half)
    assert set(compressed.formats) == set(layers(compressed, dense))
    assert torch.isfinite(compressed.deployed([torch.randn(2, 3, 16, 16)])(torch.randn(2, 3, 16, 16))).all()


def test_the_teacher_is_the_full_network_and_the_option_overrides(dense: Dense) -> None:
    method = strategy("depth")
    compressed = made(dense, "depth")
    assert compressed.plan.settings == {"distillation": 1.0, "temperature": 4.0}
    loss = method.loss(compressed, dense)
    images, targets = dense.splits.train.batch(np.arange(8))
    images = normalise(images, dense.workload)
    assert loss is not None
    with torch.no_grad():
        taught, own = dense.module(images), compressed.module(images)
        assert torch.isclose(loss(taught, targets, images), functional.cross_entropy(taught, targets), atol=1e-5)
        assert loss(own, targets, images) > functional.cross_entropy(own, targets) + 1e-5
    assert method.plan(dense, {"distillation": 0}).settings == {}
    assert method.plan(dense, {"distillation": 0.5, "temperature": 2}).settings == {
        "distillation": 0.5,
        "temperature": 2.0,
    }
    assert method.plan(dense, {"temperature": 2}).settings["temperature"] == 2.0


@pytest.mark.parametrize(
    ("name", "knobs"), [("depth", {}), ("pca_l1", {"rounds": 2, "drop": 1}), ("l1+int", {"drop": 1, "distillation": 1})]
)
def test_tuning_in_parts_equals_tuning_at_once(dense: Dense, name: str, knobs: dict[str, Any]) -> None:
    method = strategy(name)
    whole = made(dense, name, **knobs)
    parts = copy.deepcopy(whole)
    method.tune(whole, dense, 2.0, total_epochs=2.0)
    state = method.tune(parts, dense, 1.0, total_epochs=2.0)
    method.tune(parts, dense, 1.0, total_epochs=2.0, state=state)
    assert all(torch.equal(a, b) for a, b in zip(whole.module.parameters(), parts.module.parameters(), strict=True))


@pytest.mark.parametrize("name", ["snip", "snip_structured", "synflow", "pai_pat"])
def test_pruning_at_initialisation_sees_the_untrained_network_without_its_branches(name: str) -> None:
    dense = residual()
    with torch.no_grad():  # trained weights have no say in what goes
        nn.init.zeros_(dense.module.get_submodule("norm2").weight)
        nn.init.zeros_(dense.module.get_submodule("norm2").bias)
    extra = {"alpha0": 0.9} if name == "pai_pat" else {"iterations": 1}
    compressed = made(dense, name, drop=1, **extra)
    assert "removal_order" not in dense.memo
    assert compressed.plan.dropped == blocks.data_free_order(dense)[:1]
    assert compressed.plan.dropped[0] not in dict(compressed.module.named_modules())
    if name in ("snip", "synflow"):
        fresh = initial(dense.workload, dense.seed).state_dict()
        for layer, mask in compressed.masks.items():
            weight = compressed.module.get_submodule(layer).weight
            assert torch.equal(weight[mask], fresh[f"{layer}.weight"][mask])
            assert mask.any() and not mask.all()


def test_controls_drop_what_their_method_does_and_shuffle_as_many_at_random(deep: Dense) -> None:
    of_method = strategy("depth").plan(deep, {"drop": 4})
    for control in ("reinit", "scratch-e", "scratch-b"):
        assert strategy(f"depth@{control}").plan(deep, {"drop": 4}).dropped == of_method.dropped
    shuffled = strategy("depth@shuffle").plan(deep, {"drop": 4})
    assert len(shuffled.dropped) == 4 and shuffled.dropped != of_method.dropped
    assert (
        layers(strategy("depth@shuffle").compress(deep, shuffled), deep).keys()
        != layers(strategy("depth").compress(deep, of_method), deep).keys()
    )


def test_scratch_trains_longer_by_the_operations_that_the_branches_took(dense: Dense) -> None:
    control = strategy("depth@scratch-b")
    plan = control.plan(dense, {"dropped": ["depthwise"]})
    modules = dense.module, control.compress(dense, plan).module
    whole, left = (sum(row.macs for row in trace(m, dense.workload.example).compute_layers) for m in modules)
    assert 1 < whole / left < 2
    assert control.epochs(dense, plan, 1.0, 10.0) == pytest.approx(10 * whole / left)


@pytest.mark.parametrize("name", ["dense", "int"])
def test_batch_norm_is_estimated_again_where_a_branch_is_gone_and_only_there(dense: Dense, name: str) -> None:
    method = strategy(name)
    for drop in (0, 1):
        compressed = made(dense, name, drop=drop)
        before = compressed.module.get_submodule("norm").running_mean.clone()
        method.recalibrate(compressed, dense)
        assert torch.equal(before, compressed.module.get_submodule("norm").running_mean) == (drop == 0)


def test_a_network_that_lost_a_branch_is_tuned_before_it_is_pruned(dense: Dense) -> None:
    demanding = replace(dense, validation=Accuracy(top1=1.0))
    result = prune_to_drop(strategy("conventional"), demanding, {"drop": 1}, max_fine_tunes=1)
    assert [step.sparsity for step in result.history] == [0.0]


class Staged(Uniform):
    """Says which dense network its methods are given."""

    def __init__(self) -> None:
        self.seen: list[Dense] = []

    def stages(self, plan: Plan, steps: int) -> Sequence[int]:
        return [1]

    def advance(self, compressed: Compressed, dense: Dense, stage: int, momenta: dict[str, Tensor]) -> None:
        self.seen.append(dense)

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        self.seen.append(dense)
        return super()._compress(dense, plan)


@pytest.mark.parametrize("drop", [0, 1])
def test_methods_work_on_the_network_without_the_branches_from_the_first_cut_to_the_last(
    dense: Dense, drop: int
) -> None:
    method = Staged()
    plan = method.plan(dense, {"drop": drop})
    method.tune(method.compress(dense, plan), dense, 1.0)
    reduced = blocks.without(dense, plan.dropped)
    assert [seen is reduced for seen in method.seen] == [True, True]
    assert (reduced is dense) == (drop == 0)
