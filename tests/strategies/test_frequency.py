"""The cosine transform of feature maps, the three scores against brute force, and the strategy that ranks by them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import fft
from torch import nn

from strategies import channel_groups, check_strategy, find_groups, shrink, strategy
from strategies.ops.frequency import Spectrum, group_spectra, transformed
from strategies.uniform import KEEP
from workloads import Dense, InputError, Split, Workload, workload

from .networks import DenseConcat, Grouped
from .subjects import decoder, untrained

sizes = st.integers(1, 9)


def _maps(images: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.relu(torch.randn(images, channels, height, width, generator=torch.Generator().manual_seed(seed)))


@given(sizes, sizes, st.integers(0, 99))
def test_the_transform_is_scipys(height: int, width: int, seed: int) -> None:
    maps = _maps(2, 3, height, width, seed)
    wanted = fft.dctn(maps.double().numpy(), axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(transformed(maps).numpy(), wanted, atol=1e-5)


@given(sizes, sizes, st.integers(0, 99))
def test_the_whole_band_holds_the_spatial_energy(height: int, width: int, seed: int) -> None:
    maps = _maps(3, 4, height, width, seed)
    np.testing.assert_allclose(Spectrum.of(maps).energy(1.0), maps.double().square().sum((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("kappa", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_energy_is_the_sum_over_the_low_band(kappa: float) -> None:
    maps = _maps(3, 2, 4, 6)
    coefficients = fft.dctn(maps.double().numpy(), axes=(2, 3), norm="ortho")
    wanted = [
        sum(
            coefficients[image, channel, u, v] ** 2
            for image in range(3)
            for u in range(4)
            for v in range(6)
            if u + v <= kappa * 8
        )
        for channel in range(2)
    ]
    np.testing.assert_allclose(Spectrum.of(maps).energy(kappa), wanted, rtol=1e-5)


def test_a_diagonal_that_kappa_names_belongs_to_the_band() -> None:
    """0.29 · (51 + 51 − 2) is a bit less than 29 in floating point."""
    coefficients = np.zeros((1, 1, 51, 51), dtype=np.float32)
    coefficients[0, 0, 29, 0] = 1
    spectrum = Spectrum.of(torch.from_numpy(fft.idctn(coefficients, axes=(2, 3), norm="ortho")))
    assert spectrum.energy(0.29) == pytest.approx(1, rel=1e-5)
    assert spectrum.energy(0.28) == pytest.approx(0, abs=1e-6)


def test_count_and_uniqueness_by_brute_force() -> None:
    maps = _maps(3, 4, 5, 4)
    maps[:, 3] = 2 * maps[:, 1]  # the same but for its size: not unique
    amplitudes = np.abs(fft.dctn(maps.double().numpy(), axes=(2, 3), norm="ortho"))
    count = [sum((image[channel] > 0.05 * image.max()).sum() for image in amplitudes) for channel in range(4)]
    lined = amplitudes.transpose(1, 0, 2, 3).reshape(4, -1)
    cosine = lined @ lined.T / np.outer(*[np.linalg.norm(lined, axis=1)] * 2)
    unique = [1 - max(cosine[i, j] for j in range(4) if j != i) for i in range(4)]
    spectrum = Spectrum.of(maps)
    assert spectrum.count().tolist() == count
    np.testing.assert_allclose(spectrum.uniqueness(), unique, atol=1e-6)
    assert unique[1] == pytest.approx(0, abs=1e-6) and unique[0] > 0.01


def test_scores_do_not_depend_on_how_images_are_batched_or_channels_ordered() -> None:
    maps, order = _maps(6, 5, 4, 4), [3, 0, 4, 1, 2]
    whole, parts, moved = Spectrum.of(maps), Spectrum.of(maps[:2]), Spectrum.of(maps[:, order])
    parts += Spectrum.of(maps[2:])
    for score in (lambda s: s.energy(0.5), Spectrum.count, Spectrum.uniqueness):
        np.testing.assert_allclose(score(parts), score(whole), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(score(moved), score(whole)[order], rtol=1e-5, atol=1e-6)


def test_dead_and_lonely_channels_have_scores() -> None:
    maps = _maps(2, 3, 4, 4)
    maps[:, 1] = 0
    spectrum = Spectrum.of(maps)
    assert spectrum.energy(0.5)[1] == spectrum.count()[1] == spectrum.uniqueness()[1] == 0
    assert Spectrum.of(maps[:, :1]).uniqueness().tolist() == [1]


def test_maps_of_one_pixel_are_their_own_spectrum() -> None:
    maps = _maps(4, 3, 1, 1)
    assert torch.equal(transformed(maps), maps)
    np.testing.assert_allclose(Spectrum.of(maps).energy(0.1), maps.square().sum((0, 2, 3)), rtol=1e-6)


def test_activations_are_those_behind_the_relus_before_pooling(digits: Dense) -> None:
    """digits/cnn: conv → batch norm → ReLU → pooling; the spectra are of what the ReLUs make."""
    spectra = group_spectra(digits.module, channel_groups(digits), digits.workload, digits.splits.train)
    assert {name: [tuple(s.power.shape) for s in found] for name, found in spectra.items()} == {
        "conv1": [(32, 8, 8)],
        "conv2": [(64, 4, 4)],
        "conv3": [(128, 4, 4)],
    }


@pytest.mark.parametrize(
    ("subject", "counts"),
    [
        # The stem is read by three normalised concatenations and by no ReLU of its own.
        (lambda: untrained(DenseConcat, 8), {"stem": 3, "conv1": 2, "conv2": 1}),
        (decoder, {"down": 1, "deep": 1, "up": 1, "join": 1}),
    ],
    ids=["concat", "decoder"],
)
def test_every_activation_counts_once(subject: Callable[[], Dense], counts: dict[str, int]) -> None:
    made = subject()
    found = group_spectra(made.module, channel_groups(made), *_data(made))
    assert {name: len(spectra) for name, spectra in found.items()} == counts


@pytest.mark.parametrize("layer", ["down", "conv"])
def test_channels_behind_concatenation_and_flattening_are_found(layer: str) -> None:
    """Oracle: the energy of the maps themselves, caught by a hook; the decoder's skip lies at an offset."""
    subject = decoder() if layer == "down" else untrained(Grouped, 8)
    [spectrum] = group_spectra(subject.module, channel_groups(subject), *_data(subject))[layer]
    caught: list[torch.Tensor] = []
    subject.module.get_submodule(layer).register_forward_hook(lambda *call: caught.append(call[2]))
    pictures, _ = subject.splits.train.batch(np.arange(24))
    with torch.no_grad():
        subject.module((pictures.float() - 128) / 70)
    made = torch.relu(caught[0]) if layer == "down" else caught[0]  # `Grouped` has no ReLU there
    np.testing.assert_allclose(spectrum.energy(1.0), made.double().square().sum((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("score", ["energy", "count", "uniqueness"])
def test_a_dead_channel_goes_first(digits: Dense, score: str) -> None:
    method = strategy("frequency")
    groups = channel_groups(digits)
    module = shrink(digits.module, groups, {})
    module.bn1.weight.data[5] = module.bn1.bias.data[5] = 0
    subject = replace(digits, module=module, memo={})
    plan = method.plan(subject, {"keep": {"conv1": 31 / 32, "conv2": 1.0, "conv3": 1.0}, "score": score})
    kept = method.compress(subject, plan).module.conv1.weight
    assert torch.equal(kept, module.conv1.weight[[c for c in range(32) if c != 5]])


def test_energy_of_the_whole_band_ranks_as_spatial_energy_does(digits: Dense) -> None:
    method = strategy("frequency")
    keep = {"conv1": 0.5, "conv2": 1.0, "conv3": 1.0}
    kept = method.compress(digits, method.plan(digits, {"keep": keep, "kappa": 1.0})).module.conv1.weight
    caught: list[torch.Tensor] = []
    handle = digits.module.relu1.register_forward_hook(lambda *call: caught.append(call[2]))
    chosen = np.random.default_rng(0).permutation(len(digits.splits.train))[:640]
    pictures, _ = digits.splits.train.batch(chosen)
    with torch.no_grad():
        digits.module((pictures.float() - digits.workload.mean[0]) / digits.workload.std[0])
    handle.remove()
    best = caught[0].square().sum((0, 2, 3)).argsort(descending=True)[:16].sort().values
    assert torch.equal(kept, digits.module.conv1.weight[best])


def test_settings_that_make_no_difference_are_no_part_of_the_plan(digits: Dense) -> None:
    method = strategy("frequency")
    assert method.plan(digits, {"kappa": 0.1}) != method.plan(digits, {"kappa": 0.5})
    counts = [method.plan(digits, {"score": "count", "kappa": kappa}) for kappa in (0.1, 0.5)]
    assert counts[0] == counts[1]
    assert method.plan(digits, {}) == method.plan(digits, {"score": "energy", "kappa": 0.5})


@pytest.mark.parametrize("knobs", [{"score": "phase"}, {"kappa": 0.0}, {"kappa": 1.5}])
def test_bad_knobs_are_refused_in_one_line(digits: Dense, knobs: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"allowed|must lie") as refusal:
        strategy("frequency").plan(digits, knobs)
    assert "\n" not in str(refusal.value)


def _mlp() -> nn.Module:
    layers = {"flatten": nn.Flatten(), "fc1": nn.Linear(192, 16), "relu": nn.ReLU(), "fc2": nn.Linear(16, 3)}
    return nn.Sequential(OrderedDict(layers))


def test_a_network_of_linear_layers_is_refused_before_any_work() -> None:
    subject = untrained(_mlp, 8)

    class Untouchable:
        def __len__(self) -> int:
            return 24

        def batch(self, indices: np.ndarray) -> None:
            raise AssertionError("images were read")

    subject = replace(subject, splits=replace(subject.splits, train=Untouchable()))  # type: ignore[arg-type]
    method = strategy("frequency")
    for call in (lambda: method.space(subject), lambda: method.plan(subject, {})):
        with pytest.raises(InputError, match="no convolution of tests/network makes maps larger than 1×1") as refusal:
            call()
        assert "\n" not in str(refusal.value)


class Bottleneck(nn.Module):
    """Two residual blocks that share their channels, and a hidden linear layer that sees maps of 1×1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.hidden, self.linear = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.a(x))
        x = torch.relu(x + self.b(x))
        return self.linear(torch.relu(self.hidden(self.flatten(self.pool(x)))))


def test_residual_network_with_a_hidden_linear_layer_keeps_the_contract() -> None:
    subject = untrained(Bottleneck, 8)
    check_strategy(strategy("frequency"), subject)
    spectra = group_spectra(subject.module, find_groups(subject.module, subject.workload.example), *_data(subject))
    assert {name: [tuple(s.power.shape) for s in found] for name, found in spectra.items()} == {
        "stem": [(8, 8, 8)] * 3,
        "hidden": [(12, 1, 1)],
    }


def test_segmentation_network_keeps_the_contract() -> None:
    unet = workload("camvid/unet", data_dir=".").build
    check_strategy(strategy("frequency"), untrained(unet, 16, "segmentation", classes=11))


def test_keep_ratios_are_those_of_the_plan(digits: Dense) -> None:
    method = strategy("frequency")
    plan = method.plan(digits, {"keep": {"conv1": KEEP[0]}})
    assert plan.channels["conv1"] == 3 / 32 and plan.channels["conv2"] == plan.channels["conv3"] == 0.5


def _data(subject: Dense) -> tuple[Workload, Split]:
    return subject.workload, subject.splits.train
