"""PCA+L1: spectra against scikit-learn, widths against their bounds, and the three modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from strategies import channel_groups, strategy
from strategies.ops.spectrum import Covariance, contribution_width, output_spectra
from workloads import Dense, InputError, evaluate, normalise


def test_streamed_spectrum_equals_scikit_learns_pca_of_the_same_feature_maps(digits: Dense) -> None:
    images, _ = digits.splits.train.batch(np.arange(len(digits.splits.train)))
    with torch.no_grad():
        maps = digits.module.get_submodule("conv1")(normalise(images, digits.workload))
    samples = maps.movedim(1, -1).reshape(-1, maps.shape[1]).double().numpy()
    whole = Covariance(samples.shape[1])
    for part in np.array_split(samples, 7):
        whole.add(torch.from_numpy(part))
    expected = PCA().fit(samples)
    n = len(samples)
    np.testing.assert_allclose(whole.eigenvalues(), expected.explained_variance_ * (n - 1) / n, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv3"])
@pytest.mark.parametrize("alpha", [0.8, 0.9, 0.99, 0.999])
def test_widths_are_those_of_scikit_learns_pca_at_the_same_contribution(
    digits: Dense, layer: str, alpha: float
) -> None:
    """Streamed as a strategy streams, over as many images as it takes for every layer."""
    seen: list[torch.Tensor] = []
    hook = digits.module.get_submodule(layer).register_forward_hook(
        lambda _, __, output: seen.append(output.movedim(1, -1).reshape(-1, output.shape[1]))
    )
    try:
        spectrum = output_spectra(digits.module, [layer], digits.workload, digits.splits.train)[layer]
    finally:
        hook.remove()
    expected = PCA(n_components=alpha, svd_solver="full").fit(torch.cat(seen).double().numpy())
    assert contribution_width(spectrum, alpha) == expected.n_components_


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0.01, 1))
def test_width_is_the_least_that_reaches_the_contribution(values: list[float], alpha: float) -> None:
    spectrum = np.sort(np.array(values))[::-1]
    width = contribution_width(spectrum, alpha)
    assert 1 <= width <= len(spectrum)
    if spectrum.sum() > 0:
        ratio = np.cumsum(spectrum) / spectrum.sum()
        assert ratio[width - 1] >= alpha or width == len(spectrum)
        assert width == 1 or ratio[width - 2] < alpha


def test_first_width_is_at_most_the_size_of_its_receptive_field(digits: Dense) -> None:
    """A linear map of 9 pixels spans at most 9 dimensions, however many channels it has."""
    plan = strategy("pca_l1").plan(digits, {"alpha": 0.99999})
    first = channel_groups(digits)[0]
    assert round(plan.channels[first.name] * first.channels) <= 9


def test_full_contribution_of_full_rank_features_is_the_identity(digits: Dense) -> None:
    groups = channel_groups(digits)
    spectra = output_spectra(digits.module, ["conv2", "conv3"], digits.workload, digits.splits.train)
    for group in groups[1:]:
        assert contribution_width(spectra[group.name], 1.0) == group.channels
    whole = strategy("uniform").plan(digits, {"keep": 1.0})
    module = strategy("uniform").compress(digits, whole).module
    images, _ = digits.splits.validation.batch(np.arange(50))
    with torch.no_grad():
        batch = normalise(images, digits.workload)
        torch.testing.assert_close(module(batch), digits.module(batch))


def test_paper_mode_is_one_shot_at_99_percent(digits: Dense) -> None:
    plan = strategy("pca_l1").plan(digits, {})
    assert plan.notes["alpha"] == 0.99
    assert plan.settings == {}
    assert plan == strategy("pca_l1").plan(digits, {"alpha": 0.99, "rounds": 1, "align": 1})


@pytest.mark.parametrize("rho", [0.3, 0.5, 0.8])
def test_sweep_mode_reaches_the_wanted_reduction(digits: Dense, rho: float) -> None:
    method = strategy("pca_l1")
    compressed = method.compress(digits, method.plan(digits, {"rho": rho}))
    small = sum(p.numel() for p in compressed.module.parameters())
    large = sum(p.numel() for p in digits.module.parameters())
    assert abs(1 - small / large - rho) <= 0.005


def test_sweep_mode_says_what_it_cannot_reach(digits: Dense) -> None:
    with pytest.raises(InputError, match="no alpha"):
        strategy("pca_l1").plan(digits, {"rho": 0.9999})


def test_iterative_mode_prunes_between_rounds_and_keeps_learning(digits: Dense) -> None:
    method = strategy("pca_l1")
    once = method.compress(digits, method.plan(digits, {"alpha": 0.95}))
    rounds = method.compress(digits, method.plan(digits, {"alpha": 0.95, "rounds": 2}))
    before = sum(p.numel() for p in rounds.module.parameters())
    assert before == sum(p.numel() for p in once.module.parameters())
    state = method.tune(rounds, digits, 4.0, total_epochs=4.0)
    assert sum(p.numel() for p in rounds.module.parameters()) < before
    assert state.cost.epochs == 4.0
    accuracy = evaluate(rounds.module, digits.splits.validation, digits.workload)
    assert accuracy.primary > 0.8


def test_equal_widths_have_equal_digests_whatever_alpha_led_to_them(digits: Dense) -> None:
    method = strategy("pca_l1")
    one, other = method.plan(digits, {"alpha": 0.9}), method.plan(digits, {"alpha": 0.9 + 1e-9})
    assert one.notes != other.notes
    assert one.digest == other.digest
