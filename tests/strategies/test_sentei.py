"""SENTEI: equal filters, after compressing, after training, and in the exported file; and its distillation loss."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from cost_models import export_onnx, quantise_onnx
from strategies import on_grid, strategy
from strategies.ops.distillation import distillation_loss
from strategies.ops.masks import kept_per_filter, top_per_filter
from workloads import Dense, calibration_batches, fold_batch_norm, workload


@given(st.integers(1, 5000), st.floats(0, 0.99))
def test_slots_are_a_multiple_of_four_at_least_what_is_asked(weights: int, sparsity: float) -> None:
    kept = kept_per_filter(weights, sparsity)
    assert kept == weights or kept % 4 == 0
    assert (1 - sparsity) * weights - 1e-6 <= kept <= weights
    assert kept < (1 - sparsity) * weights + 4


def test_slots_of_round_figures() -> None:
    assert [kept_per_filter(40, s) for s in (0.0, 0.9, 0.5, 0.89)] == [40, 4, 20, 8]


@given(st.integers(1, 6), st.integers(1, 30), st.data())
def test_mask_keeps_the_largest_of_every_filter(filters: int, weights: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, weights))
    values = data.draw(st.lists(st.integers(-3, 3), min_size=filters * weights, max_size=filters * weights))
    weight = torch.tensor(values, dtype=torch.float32).view(filters, weights)
    mask = top_per_filter(weight, kept)
    assert mask.sum(1).tolist() == [kept] * filters
    for row, chosen in zip(weight.abs(), mask, strict=True):
        assert chosen.all() or row[chosen].min() >= row[~chosen].max()


@pytest.mark.parametrize("name", ["sentei", "sentei+int"])
def test_equal_filters_survive_training_and_export(digits: Dense, name: str) -> None:
    method = strategy(name)
    plan = method.plan(digits, {"sparsity": {"conv2": 0.75, "conv3": 0.9}})
    compressed = method.compress(digits, plan)
    method.tune(compressed, digits, 1.0)
    expected = {"conv2": kept_per_filter(32 * 9, 0.75), "conv3": kept_per_filter(64 * 9, 0.9)}
    assert set(compressed.masks) == set(expected)
    for layer, slots in expected.items():
        trained = compressed.module.get_submodule(layer).weight.detach()
        assert (compressed.masks[layer].flatten(1).sum(1) == slots).all()
        assert ((trained != 0).flatten(1).sum(1) <= slots).all()
        assert (compressed.nonzeros()[layer] == slots).all()

    deployed = on_grid(fold_batch_norm(compressed.module), compressed.formats)
    calibration = calibration_batches(digits.workload, digits.splits.train, images=64)
    model = quantise_onnx(export_onnx(deployed, torch.zeros(1, 1, 8, 8)), calibration, compressed.formats)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for layer, slots in expected.items():
        exported = stored[f"{layer}.weight_quantized" if name.endswith("int") else f"{layer}.weight"]
        outside = exported[~compressed.masks[layer].numpy()]
        assert (outside == 0).all()  # only slots hold weights; a slot may hold a zero
        assert ((exported != 0).reshape(len(exported), -1).sum(1) <= slots).all()
    onnx.checker.check_model(model)


def test_first_layer_and_classifier_stay_dense(digits: Dense) -> None:
    method = strategy("sentei")
    everywhere = {name: 0.95 for name in ("conv1", "conv2", "conv3", "linear")}
    assert set(method.plan(digits, {"sparsity": everywhere}).layers) == {"conv2", "conv3"}


def test_retraining_learns_from_the_dense_network(digits: Dense) -> None:
    """The loss of the method falls when the student's outputs become the teacher's."""
    images, targets = torch.randn(32, 1, 8, 8), torch.randint(0, 10, (32,))
    loss = distillation_loss(digits.module, digits.workload, weight=1.0, temperature=4.0)
    with torch.no_grad():
        outputs = digits.module(images)
    hard = nn.functional.cross_entropy(outputs, targets)
    assert float(loss(outputs, targets, images)) == pytest.approx(float(hard), abs=1e-5)
    assert float(loss(torch.zeros_like(outputs), targets, images)) > np.log(10)


def test_distillation_equals_its_formula_and_leaves_void_pixels_out() -> None:
    unet = workload("camvid/unet", data_dir=".")
    teacher = nn.Conv2d(3, 11, 1)
    images, outputs = torch.randn(2, 3, 6, 5), torch.randn(2, 11, 6, 5)
    targets = torch.randint(0, 11, (2, 6, 5))
    targets[0, :3] = 255
    value = distillation_loss(teacher, unet, weight=0.7, temperature=2.0)(outputs, targets, images)
    with torch.no_grad():
        p = torch.softmax(teacher(images) / 2, 1)
    q = torch.softmax(outputs / 2, 1)
    divergence = (p * (p / q).log()).sum(1)[targets != 255].mean()
    hard = -torch.log_softmax(outputs, 1).gather(1, targets.clamp(max=10)[:, None])[:, 0][targets != 255].mean()
    assert float(value) == pytest.approx(float(hard + 0.7 * 4 * divergence), rel=1e-5)
