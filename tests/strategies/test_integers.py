"""Integer grids against torch's own fake quantisation, and mixed widths end to end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import Simulated, on_grid, strategy
from strategies.ops.integers import laplace_clip, laplace_ratio, quantise_activation, quantise_weight
from workloads import Dense, InputError, calibration_batches, evaluate, fold_batch_norm


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**31 - 1))
def test_weights_go_to_the_nearest_point_of_torchs_symmetric_grid(bits: int, seed: int) -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    top = 2 ** (bits - 1) - 1
    scale = weight.flatten(1).abs().amax(1) / top
    torchs = torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros(4, dtype=torch.int32), 0, -top, top)
    grid = torch.arange(-top, top + 1) * scale[:, None]
    ours = quantise_weight(weight, bits)
    nearest = (weight.flatten(1)[:, :, None] - grid[:, None, :]).abs().amin(2)
    # Compared by their errors, for a weight half-way between two points may go to either.
    torch.testing.assert_close((ours - weight).abs().flatten(1), nearest, rtol=0, atol=1e-6)
    torch.testing.assert_close((ours - weight).abs(), (torchs - weight).abs(), rtol=0, atol=1e-6)
    assert float((ours.flatten(1)[:, :, None] - grid[:, None, :]).abs().amin(2).max()) < 1e-6


@settings(deadline=None)
@given(st.floats(-10, 0), st.floats(0.01, 10), st.integers(4, 8))
def test_activations_keep_zero_and_stay_within_half_a_step(low: float, high: float, bits: int) -> None:
    values = torch.linspace(low, high, 101)
    step = (high - min(low, 0)) / (2**bits - 1)
    quantised = quantise_activation(values, low, high, bits)
    assert float((quantised - values).abs().max()) <= step * 1.01
    assert len(quantised.unique()) <= 2**bits
    assert float(quantise_activation(torch.zeros(1), low, high, bits)) == 0


def test_error_falls_with_every_bit() -> None:
    weight = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    errors = [float((quantise_weight(weight, bits) - weight).square().mean()) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(("bits", "published"), [(2, 2.83), (3, 3.89), (4, 5.03)])
def test_aciqs_clips_are_the_published_ones(bits: int, published: float) -> None:
    assert laplace_ratio(bits) == pytest.approx(published, abs=0.01)  # cut to two digits, not rounded
    assert np.exp(-laplace_ratio(bits)) == pytest.approx(laplace_ratio(bits) / (3 * 4**bits))


def test_aciqs_clip_is_near_the_best_for_laplace_weights_and_never_beyond_the_largest() -> None:
    random = np.random.default_rng(0)
    weight = torch.from_numpy(random.laplace(size=(3, 100_000)) * [[0.1], [1.0], [7.0]])

    def error(clip: torch.Tensor) -> torch.Tensor:
        return (quantise_weight(weight, 4, clip) - weight).square().sum(1)

    ours = laplace_clip(weight, 4)
    best = torch.stack([error(weight.abs().mean(1) * ratio) for ratio in np.linspace(1, 12, 111)]).amin(0)
    assert bool((error(ours) <= 1.05 * best).all())
    assert bool((error(ours) < 0.5 * error(weight.abs().amax(1))).all())
    few = torch.tensor([[0.5, -1.0], [0.0, 0.0]])
    assert torch.equal(laplace_clip(few, 8), torch.tensor([1.0, 0.0]))
    assert bool((quantise_weight(few, 8, laplace_clip(few, 8)) - few).abs().max() < 0.01)


def test_biases_are_corrected_only_where_that_is_asked_for(digits: Dense) -> None:
    assert strategy("int").plan(digits, {}).settings == {}
    assert strategy("int").plan(digits, {"bias_correction": True}).settings == {"bias_correction": True}


def test_zeros_stay_zeros() -> None:
    weight = torch.tensor([[0.0, 1.0, -0.3], [0.0, 0.0, 0.0]])
    assert (quantise_weight(weight, 3)[weight == 0] == 0).all()


def test_first_and_last_layers_keep_eight_bits(digits: Dense) -> None:
    plan = strategy("int").plan(digits, {"weight_bits": dict.fromkeys(("conv1", "conv2", "conv3", "linear"), 2)})
    assert [plan.layers[name].weight_format for name in ("conv1", "conv2", "conv3", "linear")] == [
        "int8",
        "int2",
        "int2",
        "int8",
    ]


def test_eight_bits_cost_little_and_two_bits_much(digits: Dense) -> None:
    method = strategy("int")
    calibration = calibration_batches(digits.workload, digits.splits.train)

    def accuracy(bits: int) -> float:
        knobs = {"weight_bits": dict.fromkeys(("conv2", "conv3"), bits)}
        compressed = method.compress(digits, method.plan(digits, knobs))
        gridded = on_grid(fold_batch_norm(compressed.module), compressed.formats)
        simulated = Simulated(gridded, compressed.formats, calibration)
        return evaluate(simulated, digits.splits.validation, digits.workload).primary

    assert accuracy(8) >= digits.validation.primary - 0.01
    assert accuracy(2) < accuracy(8)


def test_widths_outside_two_to_eight_are_refused(digits: Dense) -> None:
    with pytest.raises(InputError, match="2 to 8"):
        strategy("int").plan(digits, {"weight_bits": {"conv2": 9}})


def test_only_rewarded_widths_are_searched(digits: Dense) -> None:
    assert strategy("int").space(digits, frozenset({8})).ranges() == {}
    assert strategy("int").space(digits).ranges()["weight_bits"] == (0, 6)
