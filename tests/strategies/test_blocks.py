"""Residual branches: a network without them computes what it does with their outputs zeroed, and is whole otherwise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cost_models.export import export_onnx
from strategies.ops import blocks
from strategies.ops.groups import channel_groups, find_groups
from workloads import (
    Dense,
    InputError,
    Split,
    Workload,
    fold_batch_norm,
    initial,
    normalise,
    reestimate_batch_norm,
    symbolic_graph,
    trace,
    train,
    workload,
)

from .networks import Branching, DenseConcat
from .subjects import PICTURES, Residual, residual, untrained

NAMES = {
    "cifar10/resnet8": ["stack1", "stack2", "stack3"],
    "cifar10/resnet20": [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)],
    "cifar10/resnet56": [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(9)],
    "cifar10/mobilenetv2": [f"features.{place}.conv" for place in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)],
    "cifar10/vgg16_bn": [],
    "digits/cnn": [],
    "camvid/unet": [],
}
LAST_NORMS = {"cifar10/resnet8": "bn2", "cifar10/resnet20": "bn2", "cifar10/mobilenetv2": "3"}


def lively(module: nn.Module, images: Tensor) -> nn.Module:
    """With batch norms that no two channels share, and that keep the signal alive up to the outputs."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)
            part.momentum = 1.0
    module.train()(images)
    return module.eval()


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return lively(workload(name).build(), torch.randn(8, 3, 16, 16))


def silenced(module: nn.Module, norms: list[str]) -> nn.Module:
    """A copy where these batch norms give zeros."""
    module = copy.deepcopy(module)
    for name in norms:
        nn.init.zeros_(module.get_submodule(name).weight)
        nn.init.zeros_(module.get_submodule(name).bias)
    return module


@pytest.fixture(scope="module")
def subject() -> Dense:
    dense = residual()
    lively(dense.module, torch.randn(8, 3, 16, 16))
    return dense


@pytest.mark.parametrize("name", NAMES)
def test_the_branches_of_the_networks_that_we_ship(name: str) -> None:
    chosen = workload(name)
    assert [branch.name for branch in blocks.find_branches(chosen.build(), chosen.example)] == NAMES[name]


@pytest.mark.parametrize("name", LAST_NORMS)
def test_dropping_equals_a_last_batch_norm_of_zeros_and_leaves_no_module_of_the_branch(name: str) -> None:
    module, example = network(name), torch.zeros(1, 3, 16, 16)
    found, images = blocks.find_branches(module, example), torch.randn(2, 3, 16, 16)
    for dropped in (found[:1], found[1::2], found):
        small = blocks.without_branches(module, dropped)
        with torch.no_grad():
            wanted = silenced(module, [f"{branch.name}.{LAST_NORMS[name]}" for branch in dropped])(images)
            assert torch.allclose(small(images), wanted, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(module(images), wanted, rtol=1e-4, atol=1e-4)
        layers = {layer.name for layer in trace(small, example).compute_layers}
        gone = {layer.name for layer in trace(module, example).compute_layers} - layers
        inside = [f"{branch.name}." for branch in dropped]
        assert {prefix for prefix in inside if any(layer.startswith(prefix) for layer in gone)} == set(inside)
        assert all(any(layer.startswith(prefix) for prefix in inside) for layer in gone)
        kept = module.state_dict()
        assert all(torch.equal(tensor, kept[key]) for key, tensor in small.state_dict().items())
        assert not any(
            part.endswith(("conv2", "bn2")) for part, _ in small.named_modules() for p in inside if p in part
        )


@given(st.sets(st.sampled_from(["conv1", "depthwise"])))
@settings(deadline=None, max_examples=4)
def test_without_is_proved_and_the_untrained_network_loses_the_same(dropped: set[str]) -> None:
    dense = residual()
    reduced = blocks.without(dense, dropped)
    assert blocks.without(dense, sorted(dropped, reverse=True)) is reduced
    assert (reduced is dense) == (not dropped)
    assert (reduced.digest, reduced.splits, reduced.seed) == (dense.digest, dense.splits, dense.seed)
    fresh, whole = initial(reduced.workload, 5).state_dict(), initial(dense.workload, 5).state_dict()
    assert fresh.keys() == reduced.module.state_dict().keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in fresh.items())
    assert ("conv2.weight" in fresh) == ("conv1" not in dropped)
    reduced.memo["mine"] = 1
    assert ("mine" in dense.memo) == (not dropped)


@pytest.mark.parametrize("dropped", [["conv1"], ["depthwise"], ["conv1", "depthwise"]])
def test_what_is_left_is_a_network_as_any_other(subject: Dense, dropped: list[str]) -> None:
    reduced, images = blocks.without(subject, dropped), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        wanted = reduced.module(images)
        assert torch.equal(copy.deepcopy(reduced.module)(images), wanted)
        assert torch.equal(pickle.loads(pickle.dumps(reduced.module))(images), wanted)
        assert torch.allclose(fold_batch_norm(reduced.module)(images), wanted, atol=1e-5)
    exported = export_onnx(reduced.module, reduced.workload.example)
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"image": images.numpy()})[0], wanted.numpy(), atol=1e-4)
    assert channel_groups(reduced)
    trained = copy.deepcopy(reduced.module)
    train(trained, reduced.workload, reduced.splits.train, seed=0, epochs=1)
    assert all(not torch.equal(p, dict(reduced.module.named_parameters())[n]) for n, p in trained.named_parameters())


def test_prune_groups_are_found_where_a_stage_has_lost_every_branch() -> None:
    module = network("cifar10/resnet20")
    stage = [branch for branch in blocks.find_branches(module, torch.zeros(1, 3, 8, 8)) if "layer2" in branch.name]
    groups = find_groups(blocks.without_branches(module, stage), torch.zeros(1, 3, 32, 32))
    assert "layer3.0.conv1" in [group.name for group in groups]


def test_a_renamed_group_is_known_by_a_producer_that_it_shares() -> None:
    dense = residual()
    assert blocks.groups_before(dense, blocks.without(dense, ["conv1"])) == {
        "stem": "stem",
        "projection": "conv3",  # the graph calls the projection first
    }
    dense = untrained(lambda: workload("cifar10/resnet8").build(), 32, classes=10)
    before = blocks.groups_before(dense, blocks.without(dense, ["stack2"]))
    assert before["stack2.shortcut"] == "stack2.conv2"
    assert "stack2.conv1" not in before and before["stack3.conv1"] == "stack3.conv1"


class _Layers(nn.Module):
    """Three convolutions that keep the shape, put together by a rule."""

    def __init__(self, rule: Callable[[_Layers, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.act, self.rule = nn.ReLU(), rule

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)


def read_twice(net: _Layers, x: Tensor) -> Tensor:
    y = net.a(x)
    return (x + net.b(y)) * y


def two_sources(net: _Layers, x: Tensor) -> Tensor:
    y = net.a(x)
    return y + net.c(x * torch.sigmoid(y) + net.b(x))


NO_BRANCH: dict[str, Callable[[_Layers, Tensor], Tensor]] = {
    "sides of equal weight": lambda net, x: net.a(x) + net.b(x),
    "no weights": lambda net, x: x + torch.relu(x),
    "an inner value is read elsewhere": read_twice,
    "a branch that reads two values": two_sources,
    "broadcast": lambda net, x: x + net.a(x).mean((2, 3), keepdim=True),
    "a skip that the branch changes in place": lambda net, x: net.a(torch.relu_(x)) + x,
    "another graph in training": lambda net, x: x + functional.dropout(net.a(x), 0.5, net.training),
    "a layer of the branch called elsewhere": lambda net, x: net.a(x + net.a(x)),
    "a scaled skip": lambda net, x: torch.add(net.a(x), x, alpha=2),
    "a constant": lambda net, x: net.a(x) + 1,
}


@pytest.mark.parametrize("rule", NO_BRANCH)
def test_what_is_no_branch_is_not_taken_for_one(rule: str) -> None:
    torch.manual_seed(0)
    assert blocks.find_branches(_Layers(NO_BRANCH[rule]).eval(), torch.zeros(1, 3, 6, 6)) == []


BRANCHES: dict[str, tuple[Callable[[_Layers, Tensor], Tensor], list[str]]] = {
    "identity": (lambda net, x: x + net.b(net.a(x)), ["a"]),
    "in place": (lambda net, x: net.a(x).add_(x), ["a"]),
    "shortcut of fewer layers": (lambda net, x: net.c(net.b(x)) + net.a(x), ["b"]),
    "two in a row": (lambda net, x: (y := x + net.act(net.a(x))) + net.act(net.b(y)), ["a", "b"]),
    "the inner of two": (lambda net, x: x + net.c((y := net.a(x)) + net.b(y)), ["b"]),
}


@pytest.mark.parametrize("rule", BRANCHES)
def test_branches_of_many_forms(rule: str) -> None:
    torch.manual_seed(0)
    forward, names = BRANCHES[rule]
    assert [branch.name for branch in blocks.find_branches(_Layers(forward), torch.zeros(1, 3, 6, 6))] == names


def test_two_branches_of_one_module_are_named_by_their_first_layers() -> None:
    class Block(nn.Module):
        """As a transformer's: two residual branches in one."""

        def __init__(self) -> None:
            super().__init__()
            self.mix, self.norm1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            self.widen, self.narrow = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.norm1(self.mix(x))
            return x + self.narrow(self.widen(x))

    found = blocks.find_branches(nn.Sequential(Block(), nn.ReLU()), torch.zeros(1, 3, 6, 6))
    assert [branch.name for branch in found] == ["0.mix", "0.widen"]


@pytest.mark.parametrize("module", [Branching(), DenseConcat(), nn.Linear(3, 2)])
def test_a_network_that_does_not_trace_or_run_or_has_no_residual_has_no_branch(module: nn.Module) -> None:
    assert blocks.find_branches(module, torch.zeros(1, 3, 8, 8)) == []


def test_an_unknown_branch_is_refused_in_one_line(subject: Dense) -> None:
    with pytest.raises(InputError, match="no residual branch 'conv2'; its branches are conv1, depthwise") as refusal:
        blocks.without(subject, ["conv1", "conv2"])
    assert "\n" not in str(refusal.value)


def four_blocks(seed: int) -> Dense:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.norm(self.conv(x)))

    def build() -> nn.Module:
        middle = (Block() for _ in range(4))
        return nn.Sequential(nn.Conv2d(3, 6, 3), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))

    dense = untrained(build, 8)
    torch.manual_seed(seed)
    # One batch, so that batch norm does not depend on the order of the pictures.
    whole = replace(dense.workload.recipe, batch_size=PICTURES)
    dense = replace(dense, workload=replace(dense.workload, recipe=whole))
    return replace(dense, module=lively(dense.workload.build(), torch.randn(8, 3, 8, 8)))


def loss_without(dense: Dense, names: list[str]) -> float:
    module = silenced(dense.module, [f"{name}.norm" for name in names])
    reestimate_batch_norm(module, dense.workload, dense.splits.train)
    images, targets = dense.splits.train.batch(np.arange(len(dense.splits.train)))
    with torch.no_grad():
        return float(functional.cross_entropy(module(normalise(images, dense.workload)), targets))


def test_the_order_takes_each_time_the_branch_without_which_the_loss_is_least() -> None:
    dense, gone = four_blocks(seed=6), list[str]()
    left = [branch.name for branch in blocks.branches(dense)]
    alone = sorted(left, key=lambda name: loss_without(dense, [name]))
    assert left == ["1", "2", "3", "4"]
    while left:
        losses = {name: loss_without(dense, [*gone, name]) for name in left}
        gone.append(min(losses, key=lambda name: losses[name]))
        left.remove(gone[-1])
    assert list(blocks.removal_order(dense)) == gone
    assert gone != alone  # what has gone decides what goes next
    before = copy.deepcopy(dense.module.state_dict())
    dense.memo.clear()
    assert list(blocks.removal_order(dense)) == gone
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.module.state_dict().items())


def test_with_savings_what_goes_is_worth_its_loss() -> None:
    dense = four_blocks(seed=6)
    names = [branch.name for branch in blocks.branches(dense)]
    savings, gone = {"1": 1.0, "2": 5.0, "3": 0.0, "4": -1.0}, list[str]()
    found = blocks.removals(dense, savings)
    whole = loss_without(dense, [])
    while len(gone) < 2:
        before = loss_without(dense, gone)
        rises = {name: max(loss_without(dense, [*gone, name]) - before, blocks.UNTOLD) for name in names[:2]}
        gone.append(min(set(names[:2]) - set(gone), key=lambda name: rises[name] / savings[name]))
    assert [name for name, _ in found] == [*gone, "3", "4"]  # what saves nothing goes last
    for count, (_, rise) in enumerate(found, 1):
        assert rise == pytest.approx(loss_without(dense, [n for n, _ in found[:count]]) - whole, abs=1e-5)
    assert blocks.removals(dense, dict.fromkeys(names, 0.0))[0][0] == names[0]


def test_the_order_is_kept_for_these_weights_and_images_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHRINKBOARD_CACHE", str(tmp_path))
    asked: list[nn.Module] = []
    loss = blocks._loss

    def counted(module: nn.Module, workload: Workload, calibration: Split) -> float:
        asked.append(module)
        return loss(module, workload, calibration)

    monkeypatch.setattr(blocks, "_loss", counted)
    dense = four_blocks(seed=6)
    found, first = blocks.removal_order(dense), len(asked)
    assert first == 11  # the whole network, four without one branch, three without one more, two, one
    assert blocks.removal_order(four_blocks(seed=6)) == found and len(asked) == first
    blocks.removal_order(four_blocks(seed=7))
    assert len(asked) == 2 * first
    for path in tmp_path.rglob("*.json"):
        path.write_text('["1", "2')
    assert blocks.removal_order(four_blocks(seed=6)) == found and len(asked) == 3 * first


@given(st.integers(0, 9))
def test_without_data_the_longest_run_of_equal_blocks_loses_its_last(count: int) -> None:
    dense = untrained(lambda: workload("cifar10/resnet20").build(), 8)
    dense.memo["branches"] = RESNET20
    order = blocks.data_free_order(dense)
    assert sorted(order) == sorted(NAMES["cifar10/resnet20"])
    left = [name for name in NAMES["cifar10/resnet20"] if name not in order[:count]]
    runs = [[name for name in left if name.startswith(f"layer{stage}.")] for stage in (1, 2, 3)]
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert all(run == [f"layer{stage}.{k}" for k in range(len(run))] for stage, run in enumerate(runs, 1))


RESNET20 = blocks.find_branches(network("cifar10/resnet20"), torch.zeros(1, 3, 8, 8))


def test_the_graph_of_a_reduced_network_is_read_again_as_it_is() -> None:
    """What is traced anew (folding, export) calls the modules of the reduced network and no others."""
    small = blocks.without_branches(Residual().eval(), blocks.find_branches(Residual(), torch.zeros(1, 3, 16, 16))[:1])
    called = {str(node.target) for node in symbolic_graph(small).graph.nodes if node.op == "call_module"}
    assert called == {name for name, part in small.named_modules() if name and not list(part.children())}
