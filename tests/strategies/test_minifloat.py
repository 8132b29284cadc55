"""Minifloats against their definition: enumerated code points, a brute-force search, torch's FP8, population optima."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from strategies import check_strategy, strategy
from strategies.ops import integers
from strategies.ops.minifloat import (
    FP8,
    RATIOS,
    best_split,
    clipping_errors,
    code_points,
    exponents,
    quantise,
    quantise_fp8,
    quantise_weight,
)
from workloads import Dense, InputError

SEEDS = st.integers(0, 2**31 - 1)


def bias_of(bits: int, exponent: int, clip: float) -> float:
    mantissa = bits - 1 - exponent
    return 2**exponent - math.log2(clip) + math.log2(2 - 2.0**-mantissa) - 1


def defined_points(bits: int, exponent: int, clip: float) -> torch.Tensor:
    """Every value ≥ 0 by the meaning of its bits: field 0 is subnormal, others have a leading one."""
    mantissa, bias = bits - 1 - exponent, bias_of(bits, exponent, clip)
    values = []
    for field in range(2**exponent):
        for fraction in range(2**mantissa):
            significand = (field > 0) + fraction / 2**mantissa
            values.append(significand * 2.0 ** (max(field, 1) - bias))
    return torch.tensor(values, dtype=torch.float64)


def drawn(seed: int, channels: int, count: int) -> torch.Tensor:
    """Weights of heavier tails than normal, different in every channel."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.standard_t(3, (channels, count)) * 10.0 ** random.uniform(-3, 1, (channels, 1)))


def errors_of(weight: torch.Tensor, bits: int, exponent: int, clips: torch.Tensor) -> torch.Tensor:
    """Σ(x − Q(x))² by quantising, (channels, clips); `clips` is (channels, clips)."""
    values = weight[:, None, :]
    return (values - quantise(values, bits, exponent, clips[:, :, None])).square().sum(2)


@pytest.mark.parametrize("clip", [1.0, 0.37, 448.0])
@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
def test_code_points_are_those_of_the_definition(bits: int, clip: float) -> None:
    for exponent in exponents(bits):
        torch.testing.assert_close(code_points(bits, exponent) * clip, defined_points(bits, exponent, clip))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("clip", [1.0, 0.37, 448.0])
@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_rounds_to_the_nearest_code_point(bits: int, clip: float, dtype: torch.dtype) -> None:
    for exponent in exponents(bits):
        points = defined_points(bits, exponent, clip)
        least = float(points[1])
        random = torch.rand(2000, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
        values = torch.cat(
            [
                points,
                clip * random,
                least * 2 ** (bits - exponent) * random,  # subnormals and the first normal numbers
                clip * 2.0 ** -torch.arange(30, dtype=torch.float64),
                2.0 ** torch.arange(-30, 10, dtype=torch.float64),
                torch.tensor([least / 2 * 0.999, least / 2 * 1.001, 1.01 * clip, 50 * clip]),
            ]
        ).to(dtype)
        quantised = quantise(values, bits, exponent, clip).double()
        values = values.double()
        nearest, close = (values[:, None] - points).abs().amin(1), 1e-6 if dtype == torch.float32 else 1e-12
        assert bool(((values - quantised).abs() <= nearest + close * values).all())
        assert bool(((quantised[:, None] - points).abs().amin(1) <= close * quantised).all())


def test_equals_torchs_fp8_up_to_its_largest_number() -> None:
    # FP8 keeps codes for NaN (E4M3) and for infinity (E5M2); without them the same biases of 7 and 15 reach further.
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 2.0 ** torch.linspace(-20, 7, 20_000)
    values = torch.cat([values, torch.arange(0, 64) / 1024.0])  # ties too
    for form, exponent, clip in ((torch.float8_e4m3fn, 4, 480.0), (torch.float8_e5m2, 5, 114688.0)):
        inside = values[values.abs() <= torch.finfo(form).max]
        assert torch.equal(quantise(inside, 8, exponent, clip), inside.to(form).float())


def test_one_exponent_bit_is_exactly_the_symmetric_integer_grid() -> None:
    weight = drawn(0, 6, 300)
    for bits in range(2, 9):
        for clip in (weight.abs().amax(1), 0.4 * weight.abs().amax(1)):
            ours = quantise(weight, bits, 1, clip[:, None])
            assert torch.equal(ours, integers.quantise_weight(weight, bits, clip))


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from([2, 3, 4, 5, 6, 8]), st.integers(1, 40))
def test_the_search_finds_what_brute_force_finds(seed: int, bits: int, count: int) -> None:
    weight = drawn(seed, 3, count)
    largest = weight.abs().amax(1)
    clips = largest[:, None] * RATIOS
    brute = {exponent: errors_of(weight, bits, exponent, clips) for exponent in exponents(bits)}
    energy = weight.square().sum(1)
    rounding = 1e-12 * float(energy.max())
    for exponent, errors in brute.items():
        ours = clipping_errors(weight.abs() / largest[:, None], code_points(bits, exponent), RATIOS)
        torch.testing.assert_close(ours * largest.square()[:, None], errors, rtol=1e-9, atol=rounding)
    exponent, clip = best_split(weight, bits)
    least = torch.stack(list(brute.values())).amin((0, 2))
    reached = (weight - quantise(weight, bits, exponent[:, None], clip[:, None])).square().sum(1)
    assert bool((reached <= least * (1 + 1e-9) + 1e-12 * energy).all())


def test_the_search_takes_large_layers_in_pieces() -> None:
    weight = drawn(3, 40, 30)
    exponent, clip = best_split(weight, 8)
    for channel in range(40):
        alone = best_split(weight[channel : channel + 1], 8)
        assert (int(alone[0]), float(alone[1])) == (int(exponent[channel]), float(clip[channel]))


@pytest.mark.parametrize(
    ("distribution", "end", "wanted_exponent", "wanted", "wanted_int"),
    [
        (stats.uniform(-1, 2), 1.0, 1, 48.1, 48.1),
        (stats.norm(), np.inf, 2, 42.7, 40.5),
        (stats.laplace(), np.inf, 2, 39.4, 35.2),
    ],
    ids=["uniform", "gaussian", "laplace"],
)
def test_a_large_sample_reaches_the_optimum_of_its_population(
    distribution: stats.rv_continuous, end: float, wanted_exponent: int, wanted: float, wanted_int: float
) -> None:
    best = {exponent: population_sqnr(distribution.pdf, end, 8, exponent) for exponent in exponents(8)}
    assert max(best, key=lambda exponent: best[exponent]) == wanted_exponent
    assert best[wanted_exponent] == pytest.approx(wanted, abs=0.06)
    assert best[1] == pytest.approx(wanted_int, abs=0.06)

    sample = torch.from_numpy(distribution.rvs(10**6, random_state=np.random.default_rng(0)))[None]
    exponent, clip = best_split(sample, 8)
    assert int(exponent) == wanted_exponent
    noise = (sample - quantise(sample, 8, int(exponent), float(clip))).square().sum()
    assert 10 * math.log10(float(sample.square().sum() / noise)) == pytest.approx(best[wanted_exponent], abs=0.1)


def population_sqnr(density: Callable[[np.ndarray], np.ndarray], end: float, bits: int, exponent: int) -> float:
    """Signal over noise in dB at the best clip, by numerical integration over the cells between midpoints."""
    points = code_points(bits, exponent).numpy()
    nodes, weights = np.polynomial.legendre.leggauss(10)

    def noise(clip: float) -> float:
        codes = clip * points
        edges = np.clip(np.concatenate([[0.0], (codes[1:] + codes[:-1]) / 2, [clip]]), 0, end)
        low, half = edges[:-1, None], (edges[1:, None] - edges[:-1, None]) / 2
        x = low + half * (1 + nodes)
        inner = float((density(x) * (x - codes[:, None]) ** 2 * half * weights).sum())
        outer = integrate.quad(lambda x: density(x) * (x - clip) ** 2, clip, end)[0] if clip < end else 0.0
        return 2 * (inner + outer)

    # A coarse walk first, for the noise has more than one valley.
    coarse = min(np.geomspace(0.5, 40, 60), key=noise)
    found = optimize.minimize_scalar(noise, bounds=(coarse / 1.1, coarse * 1.1), method="bounded")
    power = 2 * integrate.quad(lambda x: density(x) * x**2, 0, end)[0]
    return float(10 * np.log10(power / found.fun))


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(3, 8), st.floats(1e-3, 1e3))
def test_properties_of_quantised_weights(seed: int, bits: int, factor: float) -> None:
    weight = drawn(seed, 4, 30)
    weight[:, ::7] = 0
    weight[3] = 0
    quantised = quantise_weight(weight, bits)
    assert bool((quantised[weight == 0] == 0).all())
    assert torch.equal(quantise_weight(-weight, bits), -quantised)
    assert torch.equal(quantise_weight(weight / 8, bits), quantised / 8)
    torch.testing.assert_close(
        (quantise_weight(weight * factor, bits) - weight * factor).square().sum(1),
        (quantised - weight).square().sum(1) * factor**2,
    )
    # Min-max integers are in the search: E = 1 with the clip at the largest weight.
    integer = (integers.quantise_weight(weight, bits) - weight).square().sum(1)
    assert bool(((quantised - weight).square().sum(1) <= integer * (1 + 1e-9)).all())


def test_min_max_is_one_of_the_clips() -> None:
    assert len(RATIOS) == 111
    assert float((RATIOS - 1).abs().min()) < 1e-15


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(3, 8))
def test_a_whole_bias_is_whole_and_the_best_of_them(seed: int, bits: int) -> None:
    weight = drawn(seed, 3, 50)
    largest = weight.abs().amax(1, keepdim=True)
    exponent, clip = best_split(weight, bits, integer_bias=True)
    for e, c in zip(exponent.tolist(), clip.tolist(), strict=True):
        assert bias_of(bits, e, c) == pytest.approx(round(bias_of(bits, e, c)), abs=1e-9)
    reached = (weight - quantise(weight, bits, exponent[:, None], clip[:, None])).square().sum(1)
    for e in exponents(bits):
        clips = (2 - 2.0 ** -(bits - 1 - e)) * 2.0 ** torch.arange(-30, 20, dtype=torch.float64).expand(3, -1)
        errors = errors_of(weight, bits, e, clips)
        allowed = (clips > 0.1 * largest) & (clips < 1.2 * largest)
        least = torch.where(allowed, errors, torch.inf).amin(1)
        assert bool((reached <= least * (1 + 1e-9)).all())


@pytest.mark.parametrize("layout", ["e4m3", "e5m2"])
def test_fp8_uses_its_whole_range_in_every_filter(layout: str) -> None:
    weight = drawn(1, 5, 200).float()
    weight[4] = 0
    quantised = quantise_fp8(weight, FP8[layout])
    largest = weight.abs().amax(1)
    torch.testing.assert_close(quantised.abs().amax(1), largest)
    # Half a step: 2^−4 of a number with three bits of mantissa, 2^−3 with two.
    relative = (quantised - weight).abs() / weight.abs().clamp(min=1e-30)
    within = weight.abs() > largest[:, None] * 2.0**-12
    assert float(relative[within].max()) <= (2**-4 if layout == "e4m3" else 2**-3) * 1.001
    assert float(relative[within].max()) > (2**-5 if layout == "e4m3" else 2**-4)


@pytest.mark.parametrize("name", ["minifloat", "pca_l1+minifloat", "sentei+minifloat", "low_rank+minifloat"])
def test_stands_alone_and_behind_every_kind_of_pruner(digits: Dense, name: str) -> None:
    check_strategy(strategy(name), digits)


def test_first_and_last_layers_keep_eight_bits(digits: Dense) -> None:
    plan = strategy("minifloat").plan(digits, {"weight_bits": {"conv1": 3, "conv2": 3, "linear": 3}})
    formats = {name: (layer.weight_format, layer.activation_format) for name, layer in plan.layers.items()}
    assert formats == {
        "conv1": ("mf8", "mf8"),
        "conv2": ("mf3", "mf8"),
        "conv3": ("mf8", "mf8"),
        "linear": ("mf8", "mf8"),
    }


def test_widths_outside_three_to_eight_are_refused(digits: Dense) -> None:
    with pytest.raises(InputError, match="3 to 8") as refusal:
        strategy("minifloat").plan(digits, {"weight_bits": {"conv2": 2}})
    assert "\n" not in str(refusal.value)


def test_only_widths_that_exist_and_are_rewarded_are_searched(digits: Dense) -> None:
    method = strategy("minifloat")
    assert method.space(digits).ranges()["weight_bits"] == (0, 5)  # 3…8
    assert method.space(digits).ranges()["activation_bits"] == (0, 4)  # 4…8
    assert method.space(digits, frozenset({2, 8})).ranges() == {}


def test_biases_are_corrected_unless_training_saw_the_formats(digits: Dense) -> None:
    method = strategy("minifloat")
    assert method.plan(digits, {}).settings == {"bias_correction": True}
    assert method.plan(digits, {"straight_through": True}).settings == {"straight_through": True}
    assert method.plan(digits, {"bias_correction": False}).settings == {}
    assert strategy("pca_l1+minifloat").plan(digits, {}).settings["bias_correction"] is True
