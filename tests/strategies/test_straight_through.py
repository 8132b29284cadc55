"""Training that sees number formats: what the pass computes, what it gives back, and what it is good for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from strategies import Simulated, on_grid, strategy
from strategies.ops.grids import quantise_weight
from strategies.ops.integers import quantise_activation
from strategies.ops.straight_through import quantised_pass, straight_through
from workloads import FP32, Dense, Format, Formats, LayerFormats, calibration_batches, fold_batch_norm, train

from .networks import Decoder

INT4, INT8, MF4 = Format("int", 4), Format("int", 8), Format("minifloat", 4)


def formats(module: nn.Module, weight: Format, activation: Format = FP32) -> Formats:
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return {n: LayerFormats(weight, activation) for n, part in module.named_modules() if isinstance(part, layers)}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()


@pytest.mark.parametrize("weight", [INT4, MF4], ids=str)
def test_a_pass_sees_the_grid_and_gives_the_weights_back(weight: Format) -> None:
    torch.manual_seed(0)
    module = Decoder()
    before = copy.deepcopy(module.state_dict())
    with quantised_pass(formats(module, weight))(module):
        inside = copy.deepcopy(module.state_dict())
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            filters = inside[f"{name}.weight"].transpose(0, 1 if isinstance(part, nn.ConvTranspose2d) else 0)
            assert all(len(values.unique()) <= 2**4 for values in filters)
            assert torch.equal(inside[f"{name}.bias"], before[f"{name}.bias"])
    four_bits = on_grid(module, formats(module, INT4)).state_dict()
    assert (weight == INT4) == all(torch.equal(inside[name], four_bits[name]) for name in inside)


def test_weights_and_layers_are_given_back_when_a_pass_fails() -> None:
    module = small()
    before, images = copy.deepcopy(module.state_dict()), torch.randn(2, 2, 4, 4)
    outputs = module(images)
    with pytest.raises(RuntimeError, match="in the middle"), quantised_pass(formats(module, INT4, INT4))(module):
        raise RuntimeError("in the middle")
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    assert torch.equal(module(images), outputs)


@pytest.mark.parametrize("weight", [INT4, MF4], ids=str)
def test_the_gradient_is_that_at_the_quantised_weights(weight: Format) -> None:
    module, images, targets = small(), torch.randn(8, 2, 4, 4), torch.arange(8) % 3
    with quantised_pass(formats(module, weight))(module):
        there = copy.deepcopy(module)  # an ordinary network that happens to lie on the grid
        functional.cross_entropy(module(images), targets).backward()
    functional.cross_entropy(there(images), targets).backward()
    for (name, ours), wanted in zip(module.named_parameters(), there.parameters(), strict=True):
        assert ours.grad is not None and wanted.grad is not None
        assert torch.equal(ours.grad, wanted.grad), name
    here = copy.deepcopy(module)
    here.zero_grad()
    functional.cross_entropy(here(images), targets).backward()
    assert not torch.equal(here[0].weight.grad, module[0].weight.grad)


def test_inputs_are_rounded_within_the_range_of_the_batch_and_pass_gradients_on() -> None:
    values = torch.randn(64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rounded = straight_through(values, INT4)
    low, high = float(values.detach().min()), float(values.detach().max())
    torch.testing.assert_close(rounded, quantise_activation(values.detach(), low, high, 4))
    rounded.sum().backward()
    assert torch.equal(values.grad, torch.ones(64))


def test_clipped_inputs_of_a_minifloat_pass_no_gradient() -> None:
    values = torch.cat([torch.linspace(-1, 1, 999), torch.tensor([1.4])]).requires_grad_()
    rounded = straight_through(values, MF4)
    rounded.sum().backward()
    clip = float(rounded.detach().abs().max())
    assert 0.5 < clip < 1.4  # one outlier is not worth a coarser grid for all others
    assert len(rounded.unique()) <= 15
    assert torch.equal(values.grad, (values.detach().abs() <= clip * (1 + 1e-6)).float())


@pytest.mark.parametrize("form", [INT8, MF4], ids=str)
def test_inputs_that_are_not_finite_are_left_to_the_loss(form: Format) -> None:
    values = torch.tensor([1.0, float("nan"), float("inf")])
    assert straight_through(values, form) is values


@pytest.mark.parametrize("form", [INT8, MF4], ids=str)
def test_inputs_keep_their_type(form: Format) -> None:
    values = torch.randn(4, 100).bfloat16()
    assert straight_through(values, form).dtype == torch.bfloat16


@pytest.mark.parametrize("weight", [INT4, MF4], ids=str)
def test_grids_commute_with_folding_batch_norm(weight: Format) -> None:
    module = small().double()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                for values in (part.weight, part.bias, part.running_mean):
                    values.copy_(torch.randn(4))
                part.running_var.copy_(torch.rand(4) + 0.1)
    chosen = formats(module, weight)
    before, after = fold_batch_norm(on_grid(module, chosen)), on_grid(fold_batch_norm(module), chosen)
    for (name, ours), wanted in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(ours, wanted, msg=name)
    assert not torch.allclose(after[0].weight, fold_batch_norm(module)[0].weight)


@pytest.mark.parametrize("form", [Format("int", 2), Format("minifloat", 3)], ids=str)
def test_tuning_with_the_format_in_sight_improves_the_quantised_network(digits: Dense, form: Format) -> None:
    chosen = formats(digits.module, form, form)
    calibration = calibration_batches(digits.workload, digits.splits.train)
    images, targets = digits.splits.validation.batch(torch.arange(len(digits.splits.validation)).numpy())
    images = (images.float() - torch.tensor(digits.workload.mean)) / torch.tensor(digits.workload.std)

    def loss(module: nn.Module) -> float:
        simulated = Simulated(on_grid(fold_batch_norm(module), chosen), chosen, calibration)
        with torch.no_grad():
            return float(functional.cross_entropy(simulated(images), targets))

    losses = {"untuned": loss(digits.module)}
    for name, during_pass in (("blind", None), ("straight-through", quantised_pass(chosen))):
        module = copy.deepcopy(digits.module)
        rate = digits.workload.recipe.tune_learning_rate
        train(
            module,
            digits.workload,
            digits.splits.train,
            seed=0,
            epochs=2,
            learning_rate=rate,
            during_pass=during_pass,
        )
        losses[name] = loss(module)
    assert losses["straight-through"] < 0.9 * min(losses["untuned"], losses["blind"]), losses


@pytest.mark.parametrize("name", ["sentei+int", "sentei+minifloat"])
def test_masks_hold_and_two_parts_equal_the_whole(digits: Dense, name: str) -> None:
    method = strategy(name)
    plan = method.plan(digits, {"straight_through": True, "weight_bits": {"conv2": 4, "conv3": 3}})
    whole, parts = (method.compress(digits, plan) for _ in range(2))
    blind = method.compress(digits, plan.model_copy(update={"settings": {**plan.settings, "straight_through": False}}))
    method.tune(whole, digits, 1.0)
    state = method.tune(parts, digits, 0.5, total_epochs=1.0)
    method.tune(parts, digits, 0.5, total_epochs=1.0, state=state)
    method.tune(blind, digits, 1.0)
    ours, theirs = whole.module.state_dict(), parts.module.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not torch.equal(ours["conv3.weight"], blind.module.state_dict()["conv3.weight"])
    assert whole.masks
    for layer, mask in whole.masks.items():
        weight = whole.module.get_submodule(layer).weight.detach()
        assert bool((weight[~mask] == 0).all())
        for bits in (3, 8):
            assert bool((quantise_weight(weight, Format("minifloat", bits))[~mask] == 0).all())


@pytest.mark.parametrize("bits", [3, 4])
def test_a_network_is_deployed_on_the_grids_that_its_training_saw(digits: Dense, bits: int) -> None:
    method = strategy("minifloat")
    widths = dict.fromkeys(["conv2", "conv3"], bits)
    compressed = method.compress(digits, method.plan(digits, {"weight_bits": widths, "straight_through": True}))
    folded = fold_batch_norm(compressed.module)
    calibration = calibration_batches(digits.workload, digits.splits.train, 16)
    deployed = compressed.deployed(calibration)
    with quantised_pass(compressed.formats)(folded):
        seen = {name: folded.get_submodule(name).weight.clone() for name in widths}
    for name, weight in seen.items():
        torch.testing.assert_close(deployed.get_submodule(name).weight, weight)
