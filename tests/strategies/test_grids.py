"""Networks in number formats: corrected biases, and layers that see quantised inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strategies import Compressed, Plan, Simulated, on_grid, quantised, strategy, weight_quantiser
from strategies.ops.grids import quantise_weight
from strategies.ops.minifloat import code_points
from workloads import (
    FP32,
    Dense,
    Format,
    InputError,
    IntegerGrid,
    LayerFormats,
    calibration_batches,
    evaluate,
    fold_batch_norm,
)

MF4, MF8, INT3 = Format("minifloat", 4), Format("minifloat", 8), Format("int", 3)


def through(layer: nn.Module, activation: Format, calibration: torch.Tensor) -> Simulated:
    return Simulated(nn.Sequential(layer), {"0": LayerFormats(FP32, activation)}, [calibration])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, stride=2, padding=1),
        nn.Conv2d(3, 5, 3, bias=False),
        nn.ConvTranspose2d(3, 5, 2, stride=2),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 5)),
    ],
    ids=["conv", "without bias", "transposed", "linear"],
)
@pytest.mark.parametrize("weight", [INT3, MF4], ids=str)
def test_a_corrected_layer_has_the_mean_outputs_of_the_unquantised_one(layer: nn.Module, weight: Format) -> None:
    module = nn.Sequential(layer)
    batches = [torch.randn(size, 3, 6, 6, generator=torch.Generator().manual_seed(size)) + 1 for size in (8, 5)]
    formats = {"0.1" if isinstance(layer, nn.Sequential) else "0": LayerFormats(weight, FP32)}
    before = {name: values.clone() for name, values in module.state_dict().items()}

    def means(network: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            outputs = network(torch.cat(batches))
        return outputs.transpose(0, 1).flatten(1).mean(1)

    corrected = on_grid(module, formats, batches)
    torch.testing.assert_close(means(corrected), means(module), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(means(on_grid(module, formats)), means(module), rtol=1e-3, atol=1e-3)
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    name = "0.1.weight" if isinstance(layer, nn.Sequential) else "0.weight"
    assert torch.equal(corrected.state_dict()[name], on_grid(module, formats).state_dict()[name])


def test_any_quantiser_can_stand_in_for_a_format(digits: Dense) -> None:
    folded = fold_batch_norm(digits.module)
    ours = quantised(folded, {"conv2": lambda weight: quantise_weight(weight, INT3)})
    wanted = on_grid(folded, {"conv2": LayerFormats(INT3, FP32), "conv3": LayerFormats(FP32, FP32)})
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), wanted.parameters(), strict=True))
    assert torch.equal(ours.conv3.weight, folded.conv3.weight)
    assert not torch.equal(ours.conv2.weight, folded.conv2.weight)


def test_inputs_in_minifloat_lie_on_one_grid_and_keep_zero() -> None:
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    images = torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0)).relu()
    with torch.no_grad():
        seen = {bits: through(layer, Format("minifloat", bits), images)(images) for bits in (4, 6, 8)}
    for bits, outputs in seen.items():
        assert len(outputs.unique()) <= 2 ** (bits - 1)  # none is negative here
        assert bool((outputs[images == 0] == 0).all())
    noise = [float((outputs - images).square().mean() / images.square().mean()) for outputs in seen.values()]
    assert noise == sorted(noise, reverse=True)
    assert noise[-1] < 1e-4


def test_the_split_of_inputs_is_not_fitted_to_one_column() -> None:
    # The first column is a thousandth of the others: a sample of every 32nd value would see nothing else.
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    images = torch.rand(512, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    images[:, :, :, 0] *= 1e-3
    with torch.no_grad():
        outputs = through(layer, MF8, images)(images)
    assert float((outputs - images).abs().max()) < 0.01


def test_eight_bits_cost_little_and_three_bits_more(digits: Dense) -> None:
    method = strategy("minifloat")
    calibration = calibration_batches(digits.workload, digits.splits.train)

    def noise(bits: int) -> float:
        knobs = {knob: dict.fromkeys(("conv2", "conv3"), bits) for knob in ("weight_bits", "activation_bits")}
        compressed = method.compress(digits, method.plan(digits, knobs))
        gridded = on_grid(fold_batch_norm(compressed.module), compressed.formats, calibration)
        simulated = Simulated(gridded, compressed.formats, calibration)
        if bits == 8:
            found = evaluate(simulated, digits.splits.validation, digits.workload).primary
            assert found >= digits.validation.primary - 0.01
        with torch.no_grad():
            wanted = digits.module(calibration[0])
            return float((simulated(calibration[0]) - wanted).square().mean() / wanted.square().mean())

    assert noise(8) < 1e-3 < noise(3)


def test_formats_and_those_they_are_compared_with_have_a_quantiser() -> None:
    weight = torch.rand(2, 4, 500, generator=torch.Generator().manual_seed(0)).log().diff(dim=0)[0]  # Laplace

    def noise(name: str) -> float:
        return float((weight_quantiser(name)(weight) - weight).square().sum())

    assert noise("mf4") < noise("aciq4") < noise("int4")
    assert noise("mf8") < noise("int8") < noise("mf4")
    assert noise("mf8") < noise("e4m3") < noise("e5m2") < noise("mf4")
    assert torch.equal(weight_quantiser("mf4")(weight), quantise_weight(weight, MF4))


@pytest.mark.parametrize("name", ["fp16", "aciq", "int99", "e3m4", ""])
def test_unknown_quantisers_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as refusal:
        weight_quantiser(name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("form", [INT3, Format("int", 8), MF4, MF8], ids=str)
def test_weights_and_inputs_lie_on_the_grids_that_are_told(digits: Dense, form: Format) -> None:
    formats = dict.fromkeys(("conv1", "conv2"), LayerFormats(form, form))
    made = Compressed(digits.module, Plan(strategy="dense"), 0, formats=formats)
    calibration = calibration_batches(digits.workload, digits.splits.train, 64, batch_size=32)
    deployed, grids = made.deployed(calibration), made.grids(calibration)
    simulated = Simulated(deployed, formats, calibration)
    seen: list[torch.Tensor] = []
    # After the quantiser, for hooks are called in the order in which they were registered.
    simulated.module.get_submodule("conv2").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        simulated(calibration[0])
    weight = deployed.get_submodule("conv2").weight.detach().flatten(1).double()
    told = grids["conv2"]
    if isinstance(told.weight, IntegerGrid):
        codes = weight / torch.from_numpy(told.weight.scale)[:, None]
        inputs = seen[0].double() / float(told.activation.scale) + told.activation.zero
        assert codes.abs().max() < 2 ** (form.bits - 1) and inputs.min() >= 0 and inputs.max() < 2**form.bits
        for whole in (codes, inputs):
            torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-3)
        return
    for filters, exponent, clip in zip(weight, told.weight.exponent, told.weight.clip, strict=True):
        points = code_points(form.bits, int(exponent)) * clip
        assert ((filters.abs()[:, None] - points).abs().amin(1) < 1e-5 * clip).all()
    points = code_points(form.bits, int(told.activation.exponent)) * float(told.activation.clip)
    assert ((seen[0].unique().double().abs()[:, None] - points).abs().amin(1) < 1e-5 * points[-1]).all()
