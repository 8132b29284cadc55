"""pai_pat: widths from noise and again from maps; momenta are cut with the channels that they belong to."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from strategies import Plan, channel_groups, strategy
from strategies.ops.channels import cut_again, l1_scores
from strategies.ops.spectrum import contribution_width, noise_spectra
from workloads import Dense, train


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_first_widths_are_those_of_scikit_learns_pca_of_noise_through_the_untrained_network(digits: Dense) -> None:
    from strategies.pai_pat import kaiming

    module = kaiming(digits)
    seen: list[torch.Tensor] = []
    module.get_submodule("conv2").register_forward_hook(
        lambda _, __, output: seen.append(output.movedim(1, -1).reshape(-1, output.shape[1]))
    )
    before = copy.deepcopy(module.state_dict())
    spectrum = noise_spectra(module, ["conv2"], digits.workload, 0)["conv2"]
    # The copy that runs keeps the hook: it saw the same samples.
    expected = PCA(n_components=0.99, svd_solver="full").fit(torch.cat(seen).double().numpy())
    assert contribution_width(spectrum, 0.99) == expected.n_components_
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_initial_weights_of_the_largest_l1_norm_are_kept(digits: Dense) -> None:
    from strategies.pai_pat import kaiming

    method = strategy("pai_pat")
    plan = method.plan(digits, {"alpha0": 0.9})
    whole = kaiming(digits).get_submodule("conv1").weight
    kept = method.compress(digits, plan).module.get_submodule("conv1").weight
    norms = whole.abs().sum((1, 2, 3))
    chosen = norms.topk(len(kept)).indices.sort().values
    assert torch.equal(kept, whole[chosen])
    fresh = method.compress(digits, method.plan(digits, {"alpha0": 0.9, "fresh": True})).module
    assert fresh.get_submodule("conv1").weight.shape == kept.shape
    assert not torch.equal(fresh.get_submodule("conv1").weight, kept)


def test_the_second_cut_comes_after_15_percent_of_the_training(digits: Dense) -> None:
    method = strategy("pai_pat")
    plan = method.plan(digits, {"alpha0": 0.99, "alpha1": 0.9})
    assert list(method.stages(plan, 20_000)) == [3_000]
    compressed = method.compress(digits, plan)
    first = parameters(compressed.module)
    state = method.tune(compressed, digits, 0.4, total_epochs=4.0)
    assert parameters(compressed.module) == first
    method.tune(compressed, digits, 3.6, total_epochs=4.0, state=state)
    assert parameters(compressed.module) < first


@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_alpha_is_found_for_a_reduction_in_all(digits: Dense, rho: float) -> None:
    method = strategy("pai_pat")
    compressed = method.compress(digits, method.plan(digits, {"rho": rho}))
    assert 1 - parameters(compressed.module) / parameters(digits.module) <= rho / 2 + 0.005
    method.tune(compressed, digits, 1.0)
    assert abs(1 - parameters(compressed.module) / parameters(digits.module) - rho) <= 0.01


def test_a_cut_during_training_leaves_kept_weights_and_their_momenta_as_they_are(digits: Dense) -> None:
    workload, split = digits.workload, digits.splits.train
    whole = copy.deepcopy(digits.module)
    state = train(whole, workload, split, seed=0, epochs=0.5, total_epochs=2.0, learning_rate=0.05)
    groups = channel_groups(digits)
    compressed = strategy("dense").compress(digits, Plan(strategy="dense"))
    compressed.module = copy.deepcopy(whole)
    momenta = {name: buffer.clone() for name, buffer in state.optimizer.items()}
    cut_again(compressed, groups, {g.name: 0.5 for g in groups}, l1_scores, momenta)
    for group in groups:
        kept = group.keep(l1_scores(whole, group), group.width(0.5))
        [producer] = group.producers
        rows = torch.from_numpy(kept)
        name = f"{producer.layer}.weight"
        columns = slice(None)
        for other in groups:
            if any(part.layer == producer.layer for part in other.consumers):
                columns = torch.from_numpy(other.keep(l1_scores(whole, other), other.width(0.5)))
        expected = state.optimizer[name][rows][:, columns]
        assert torch.equal(momenta[name], expected)
        assert torch.equal(compressed.module.get_parameter(name), whole.get_parameter(name)[rows][:, columns])
    assert all(momenta[name].shape == p.shape for name, p in compressed.module.named_parameters())


def test_momenta_that_were_cut_give_the_step_of_the_uncut_optimiser() -> None:
    """One SGD step with given gradients, on all and on the kept rows."""
    random = np.random.default_rng(0)
    weight, gradient, momentum = (torch.from_numpy(random.standard_normal((6, 4))) for _ in range(3))
    kept = torch.tensor([0, 2, 5])
    results = []
    for rows in (torch.arange(6), kept):
        parameter = torch.nn.Parameter(weight[rows].clone())
        optimiser = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, nesterov=True)
        optimiser.state[parameter]["momentum_buffer"] = momentum[rows].clone()
        parameter.grad = gradient[rows].clone()
        optimiser.step()
        results.append(parameter.detach())
    assert torch.equal(results[0][kept], results[1])
