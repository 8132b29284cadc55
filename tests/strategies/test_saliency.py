"""Scores of pruning at initialisation against brute force, and the masks that are made of scores."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from strategies.ops import saliency
from strategies.ops.masks import prune_in_steps, top_global, with_floor
from strategies.ops.weights import filters_first
from workloads import VOID, Dense, InputError

from .subjects import segmenter


def classifier() -> nn.Module:
    """Smooth, so that finite differences are exact enough; with batch norm, biases, dropout and a grouped layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def decoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 2, stride=2, bias=False),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.ConvTranspose2d(3, 4, 2, stride=2),
        nn.Tanh(),
        nn.Conv2d(4, 3, 1),
    )


class Case:
    """A tiny float64 network, two batches of unequal size, and masks that have some weights pruned already."""

    def __init__(self, build: Callable[[], nn.Module], pruned: float) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = build().double()
            self.inputs = [torch.randn(n, 2, 4, 4, dtype=torch.float64) for n in (5, 3)]
            shape = self.module(self.inputs[0]).shape[2:]
            self.targets = [torch.randint(0, 3, (len(x), *shape)) for x in self.inputs]
            if shape:
                self.targets[0][:, 0] = VOID
            self.masks = {name: torch.rand(m.shape) >= pruned for name, m in saliency.everything(self.module).items()}
        self.batches = list(zip(self.inputs, self.targets, strict=True))

    def layers(self, module: nn.Module) -> dict[str, Tensor]:
        return {name: filters_first(module.get_submodule(name)) for name in self.masks}

    def masked(self) -> nn.Module:
        module = copy.deepcopy(self.module)
        for name, weight in self.layers(module).items():
            weight.mul_(self.masks[name])
        return module

    def loss(self, module: nn.Module, temperature: float = 1.0) -> Tensor:
        """Mean cross-entropy over all targets that count, batch norm in train mode and no dropout."""
        module = copy.deepcopy(module) if not torch.is_grad_enabled() else module
        for part in module.modules():
            part.training = isinstance(part, nn.BatchNorm2d)
        flat_logits, flat_targets = [], []
        for x, y in self.batches:
            logits = module(x) / temperature
            flat_logits.append(logits.movedim(1, -1).reshape(-1, 3))
            flat_targets.append(y.reshape(-1))
        labels = torch.cat(flat_targets)
        return functional.cross_entropy(torch.cat(flat_logits)[labels != VOID], labels[labels != VOID])


@pytest.fixture(params=[classifier, decoder])
def build(request: pytest.FixtureRequest) -> Callable[[], nn.Module]:
    return request.param


@pytest.fixture(params=[0.0, 0.3], ids=["whole", "pruned"])
def case(request: pytest.FixtureRequest, build: Callable[[], nn.Module]) -> Case:
    return Case(build, request.param)


def central_differences(
    weights: dict[str, Tensor], steps: dict[str, Tensor], value: Callable[[], float]
) -> dict[str, Tensor]:
    """∂value/∂m where entry i of the weights moves by m·step[i]."""
    h, found = 1e-5, {}
    for name, weight in weights.items():
        slopes = torch.zeros(weight.shape, dtype=torch.float64)
        for place in np.ndindex(*weight.shape):
            before = weight[place].item()
            weight[place] = before + h * steps[name][place]
            high = value()
            weight[place] = before - h * steps[name][place]
            slopes[place] = (high - value()) / (2 * h)
            weight[place] = before
        found[name] = slopes
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-5) -> None:
    assert list(found) == list(expected)
    size = max(float(e.abs().max()) for e in expected.values())
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=rtol, atol=rtol * size)


@torch.no_grad()
def test_snip_is_the_slope_of_the_loss_in_every_mask_entry(case: Case) -> None:
    with torch.enable_grad():
        found = saliency.snip(case.module, case.masks, case.batches)
    net = case.masked()
    weights = case.layers(net)
    slopes = central_differences(weights, {n: w.clone() for n, w in weights.items()}, lambda: case.loss(net).item())
    assert_same(found, {name: slope.abs() for name, slope in slopes.items()})


@pytest.mark.parametrize("batches", [1, 2])
def test_grasp_is_theta_times_the_difference_of_gradients_along_the_gradient(case: Case, batches: int) -> None:
    case.batches = case.batches[:batches]

    def gradient(module: nn.Module) -> dict[str, Tensor]:
        module.zero_grad()
        case.loss(module, saliency.GRASP_TEMPERATURE).backward()
        grads = {}
        for name, mask in case.masks.items():
            layer = module.get_submodule(name)
            g = layer.weight.grad.clone()
            grads[name] = (g.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else g) * mask
        return grads

    net = case.masked()
    along = gradient(net)
    h = 1e-4 / max(float(g.abs().max()) for g in along.values())
    ends = []
    for sign in (1, -1):
        moved = case.masked()
        for name, weight in case.layers(moved).items():
            weight += sign * h * along[name]
        ends.append(gradient(moved))
    expected = {n: w * (ends[0][n] - ends[1][n]) / (2 * h) for n, w in case.layers(net).items()}
    assert_same(saliency.grasp(case.module, case.masks, case.batches), expected)


@torch.no_grad()
def test_ntk_sap_is_the_slope_of_the_distance_in_every_mask_entry(case: Case) -> None:
    epsilon, draws = 0.01, []
    for seed in (1, 2):
        draw = torch.Generator().manual_seed(seed)
        module = copy.deepcopy(case.module)
        for weight in case.layers(module).values():
            weight += torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        draws.append((module, case.inputs[0] * seed, saliency.normal_like(module, draw)))
    with torch.enable_grad():
        found = saliency.ntk_sap(draws, case.masks, epsilon)

    total = {name: torch.zeros(mask.shape, dtype=torch.float64) for name, mask in case.masks.items()}
    for module, inputs, noise in draws:
        plain, moved = copy.deepcopy(module), copy.deepcopy(module)
        mask = {name: m.double() for name, m in case.masks.items()}

        def place_weights(plain=plain, moved=moved, mask=mask, module=module, noise=noise) -> None:
            for name, theta in case.layers(module).items():
                plain.get_submodule(name).weight.data = filters_last(module, name, theta * mask[name])
                shifted = (theta + epsilon * noise[name].double()) * mask[name]
                moved.get_submodule(name).weight.data = filters_last(module, name, shifted)

        place_weights()
        for net in (plain, moved):
            for part in net.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.momentum = 1.0
        plain.eval()
        for part in plain.modules():
            part.training = isinstance(part, nn.BatchNorm2d)
        plain(inputs)
        for ours, theirs in zip(plain.buffers(), moved.buffers(), strict=True):
            theirs.copy_(ours)
        plain.eval(), moved.eval()

        def distance(plain=plain, moved=moved, inputs=inputs, place=place_weights) -> float:
            place()
            return float((plain(inputs) - moved(inputs)).square().sum())

        ones = {name: torch.ones_like(m) for name, m in mask.items()}
        for name, slope in central_differences(mask, ones, distance).items():
            total[name] += slope
    assert_same(found, {n: slope.abs() * case.masks[n] for n, slope in total.items()}, rtol=1e-4)


def filters_last(module: nn.Module, name: str, weight: Tensor) -> Tensor:
    layer = module.get_submodule(name)
    return (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).clone()


def test_synflow_conserves_what_flows_through_every_unit_and_layer() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(5, 7, 3, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(7 * 4, 6, bias=False),
            nn.ReLU(),
            nn.Linear(6, 3, bias=False),
        )
        masks = {name: torch.rand(m.shape) < 0.7 for name, m in saliency.everything(module).items()}
    scores = saliency.synflow(module, masks, (2, 8, 8))
    assert all(score.dtype == torch.float64 and float(score.min()) >= 0 for score in scores.values())

    whole = copy.deepcopy(module).double()
    for name, layer in saliency.scored_layers(whole).items():
        layer.weight.data = layer.weight.data.abs() * masks[name]
    flow = whole(torch.ones(1, 2, 8, 8, dtype=torch.float64)).sum().item()
    for score in scores.values():
        assert float(score.sum()) == pytest.approx(flow, rel=1e-12)

    into = [score.flatten(1).sum(1) for score in scores.values()]
    _, conv2, linear1, linear2 = scores.values()
    out_of = [conv2.sum((0, 2, 3)), linear1.view(6, 7, 4).sum((0, 2)), linear2.sum(0)]
    for arriving, leaving in zip(into[:-1], out_of, strict=True):
        torch.testing.assert_close(arriving, leaving, rtol=1e-12, atol=0)


def test_scoring_leaves_the_network_as_it_was(case: Case) -> None:
    case.module.train()
    before = {name: tensor.clone() for name, tensor in case.module.state_dict().items()}
    saliency.snip(case.module, case.masks, case.batches)
    saliency.grasp(case.module, case.masks, case.batches)
    saliency.synflow(case.module, case.masks, (2, 4, 4))
    noise = saliency.normal_like(case.module, torch.Generator().manual_seed(0))
    saliency.ntk_sap([(case.module, case.inputs[0], noise)], case.masks)
    assert all(torch.equal(before[name], tensor) for name, tensor in case.module.state_dict().items())
    assert all(part.training for part in case.module.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in case.module.parameters())


def test_random_scores_share_nothing_with_weights_drawn_from_the_same_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = nn.Sequential(nn.Linear(60, 50))
        nn.init.normal_(module[0].weight)
    torch.manual_seed(3)
    drawn = torch.randn(50, 60)
    score = saliency.random(module, 3)["0"]
    for other in (module[0].weight.data, drawn):
        assert abs(np.corrcoef(score.ravel(), other.ravel())[0, 1]) < 0.1  # 5.5 standard deviations


def test_scoring_images_are_ten_of_every_class(digits: Dense) -> None:
    batches = saliency.balanced_batches(digits.workload, digits.splits.train, seed=1)
    labels = torch.cat([targets for _, targets in batches])
    assert torch.bincount(labels).tolist() == [10] * 10
    again = saliency.balanced_batches(digits.workload, digits.splits.train, seed=1)
    other = saliency.balanced_batches(digits.workload, digits.splits.train, seed=2)
    assert torch.equal(batches[0][0], again[0][0])
    assert not torch.equal(batches[0][0], other[0][0])


def test_a_segmentation_is_scored_on_few_pictures() -> None:
    dense = segmenter()
    batches = saliency.balanced_batches(dense.workload, dense.splits.train, seed=0)
    assert 1 <= sum(len(images) for images, _ in batches) <= 30
    assert all(targets.shape[1:] == images.shape[2:] for images, targets in batches)


scores_of_layers = st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=12), min_size=1, max_size=4)


@given(scores_of_layers, st.floats(0, 1))
def test_the_best_of_all_are_kept_exactly_and_ties_go_to_the_lower_index(
    values: list[list[int]], density: float
) -> None:
    scores = {str(k): torch.tensor(layer, dtype=torch.float32)[:, None] for k, layer in enumerate(values)}
    flat = np.concatenate(values)
    kept = round(density * len(flat))
    expected = np.zeros(len(flat), dtype=bool)
    expected[np.argsort(-flat, kind="stable")[:kept]] = True
    masks = top_global(scores, kept)
    assert [mask.shape for mask in masks.values()] == [score.shape for score in scores.values()]
    assert np.array_equal(torch.cat(list(masks.values())).numpy().ravel(), expected)


def test_scores_that_are_not_numbers_are_refused_by_the_layers_name() -> None:
    with pytest.raises(InputError, match="'b'"):
        top_global({"a": torch.zeros(3), "b": torch.tensor([0.0, torch.nan])}, 2)


@given(st.integers(0, 1000), st.floats(0.02, 1), st.integers(1, 8), st.booleans())
def test_rounds_follow_the_schedule_and_nothing_pruned_comes_back(
    seed: int, density: float, rounds: int, floor: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    everything = {"a": torch.ones(6, 9, dtype=torch.bool), "b": torch.ones(4, 6, dtype=torch.bool)}
    total = 6 * 9 + 4 * 6
    kept = max(round(density * total), 10 if floor else 1)
    seen: list[dict[str, Tensor]] = []

    def score(masks: dict[str, Tensor], k: int) -> dict[str, Tensor]:
        assert k == len(seen) + 1
        seen.append(masks)
        return {name: torch.randint(0, 4, mask.shape, generator=draw).float() for name, mask in masks.items()}

    seen.append(top_global(prune_in_steps(score, everything, kept, rounds, floor), kept))
    assert len(seen) == rounds + 1
    counts = [sum(int(mask.sum()) for mask in masks.values()) for masks in seen]
    assert counts == [max(kept, round(total * (kept / total) ** (k / rounds))) for k in range(rounds + 1)]
    for before, after in pairwise(seen):
        assert all(bool((before[name] | ~after[name]).all()) for name in before)
    if floor:
        assert all(bool(mask.any(1).all()) for mask in seen[-1].values())


def test_the_floor_raises_the_best_of_every_filter_and_nothing_else() -> None:
    score = torch.tensor([[1.0, 5.0, 5.0], [-2.0, -3.0, -torch.inf]])
    raised = with_floor({"a": score})["a"]
    assert torch.isinf(raised).tolist() == [[False, True, False], [True, False, True]]
    assert raised[1, 2] == -torch.inf
    assert torch.equal(raised[~torch.isinf(raised)], score[~torch.isinf(raised)])
