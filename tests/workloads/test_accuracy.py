"""Evaluation against scikit-learn, and batch-norm statistics against those of the whole data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score, top_k_accuracy_score
from torch import Tensor, nn

from workloads import VOID, ArraySplit, Workload, evaluate, normalise, reestimate_batch_norm
from workloads.evaluation import mean_iou


def _spill(logits: Tensor):
    """A predictor that gives these logits, row by row, whatever it sees."""
    given = 0

    def predict(images: Tensor) -> Tensor:
        nonlocal given
        given += len(images)
        return logits[given - len(images) : given]

    return predict


@pytest.mark.parametrize("classes", [4, 5, 6, 12])
@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_top1_and_top5_agree_with_scikit_learn(classification: Workload, classes: int, batch_size: int) -> None:
    described = replace(classification, classes=classes)
    random = np.random.default_rng(0)
    targets = random.integers(0, classes, 200)
    logits = random.normal(size=(200, classes))
    split = ArraySplit(torch.zeros(200, 3, 8, 8, dtype=torch.uint8), torch.from_numpy(targets))
    accuracy = evaluate(_spill(torch.from_numpy(logits)), split, described, batch_size)
    assert accuracy.primary == accuracy.top1 == pytest.approx((logits.argmax(1) == targets).mean())
    assert accuracy.miou is None
    if classes <= 5:
        assert accuracy.top5 is None
    else:
        expected = top_k_accuracy_score(targets, logits, k=5, labels=range(classes))
        assert accuracy.top5 == pytest.approx(expected)
    as_array = _spill(torch.from_numpy(logits))
    assert evaluate(lambda images: as_array(images).numpy(), split, described, batch_size) == accuracy


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, VOID]), st.integers(0, 3)), min_size=8, max_size=64),
)
def test_miou_agrees_with_scikit_learn(pixels: list[tuple[int, int]]) -> None:
    pixels = pixels[: len(pixels) // 8 * 8]
    targets, predicted = np.array(pixels).T.reshape(2, -1, 2, 4)
    described = Workload(
        name="t",
        summary="",
        task="segmentation",
        classes=4,
        input_shape=(1, 2, 4),
        mean=(0.0,),
        std=(1.0,),
        build=nn.Identity,
        load=lambda _: None,
        recipe=None,
    )
    split = ArraySplit(torch.zeros(len(targets), 1, 2, 4, dtype=torch.uint8), torch.from_numpy(targets.copy()))
    logits = nn.functional.one_hot(torch.from_numpy(predicted.copy()), 4).movedim(-1, 1).float()
    accuracy = evaluate(_spill(logits), split, described, batch_size=3)
    counted = targets != VOID
    expected = jaccard_score(targets[counted], predicted[counted], average="macro") if counted.any() else 0.0
    assert accuracy.primary == accuracy.miou == pytest.approx(expected)
    assert accuracy.top1 is None and accuracy.top5 is None


def test_classes_that_do_not_occur_do_not_count() -> None:
    assert mean_iou(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])) == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_a_module_is_evaluated_in_eval_mode_and_keeps_its_modes(classification: Workload) -> None:
    network = classification.build().train()
    network[1].eval()
    modes = [part.training for part in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    split = classification.load(None).validation
    first = evaluate(network, split, classification)
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert evaluate(network.eval(), split, classification) == first


def test_reestimated_statistics_are_those_of_the_data(classification: Workload) -> None:
    described = replace(classification, recipe=replace(classification.recipe, batch_size=24))
    split = described.load(None).train
    network = described.build().train()
    network[1].momentum = 0.3
    network[4][1].eval()
    modes = [part.training for part in network.modules()]
    weights = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    network[1].running_mean.fill_(1e6)
    reestimate_batch_norm(network, described, split)
    with torch.no_grad():
        maps = network[0](normalise(split.batch(np.arange(len(split)))[0], described)).transpose(0, 1).flatten(1)
    # 96 pictures in 4 batches: the mean of means is exact, the mean of variances lacks the spread between batches.
    torch.testing.assert_close(network[1].running_mean, maps.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network[1].running_var, maps.var(1), rtol=0.05, atol=1e-4)
    assert network[1].momentum == 0.3
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(parameter, weights[name]) for name, parameter in network.named_parameters())


def test_one_batch_of_everything_gives_its_mean_and_variance(classification: Workload) -> None:
    described = replace(classification, recipe=replace(classification.recipe, batch_size=1000))
    split = described.load(None).train
    network = described.build()
    reestimate_batch_norm(network, described, split)
    with torch.no_grad():
        maps = network[0](normalise(split.batch(np.arange(len(split)))[0], described)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(network[1].running_mean, maps.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network[1].running_var, maps.var(1), rtol=1e-4, atol=1e-5)


def test_reestimation_is_repeatable_and_leaves_norms_without_statistics_alone(classification: Workload) -> None:
    split = classification.load(None).train
    network = classification.build()
    reestimate_batch_norm(network, classification, split, batches=2, seed=4)
    first = network[1].running_var.clone()
    reestimate_batch_norm(network, classification, split, batches=2, seed=4)
    assert torch.equal(network[1].running_var, first)
    plain = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    reestimate_batch_norm(plain, classification, split)
    assert plain[0].running_mean is None
