"""Distillation: its formula, void pixels, and the similarities of features, against plain recomputations."""

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from strategies import strategy
from strategies.ops.distillation import SimilarityLoss, distillation_loss, similarities
from workloads import VOID, Dense, normalise, workload

from .subjects import untrained


def _head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))


@given(st.floats(0.1, 3), st.floats(0.5, 8), st.integers(0, 99))
def test_the_loss_is_its_formula_and_leaves_void_pixels_out(weight: float, temperature: float, seed: int) -> None:
    subject = untrained(_head, 6, "segmentation", classes=4)
    draw = torch.Generator().manual_seed(seed)
    images, outputs = torch.randn(2, 3, 6, 6, generator=draw), 3 * torch.randn(2, 4, 6, 6, generator=draw)
    targets = torch.randint(0, 4, (2, 6, 6), generator=draw)
    targets[0, :3] = VOID
    value = distillation_loss(subject.module, subject.workload, weight, temperature)(outputs, targets, images)
    with torch.no_grad():
        p = torch.softmax(subject.module(images).double() / temperature, 1)
    q = torch.softmax(outputs.double() / temperature, 1)
    valid = targets != VOID
    divergence = (p * (p / q).log()).sum(1)[valid].mean()
    chosen = torch.log_softmax(outputs.double(), 1).gather(1, targets.clamp(max=3)[:, None])[:, 0][valid]
    assert float(value) == pytest.approx(float(-chosen.mean() + weight * temperature**2 * divergence), rel=1e-4)


def test_what_stands_at_void_pixels_makes_no_difference() -> None:
    subject = untrained(_head, 6, "segmentation", classes=4)
    loss = distillation_loss(subject.module, subject.workload, 1.0, 2.0)
    images, outputs, targets = torch.randn(2, 3, 6, 6), torch.randn(2, 4, 6, 6), torch.randint(0, 4, (2, 6, 6))
    targets[:, :2] = VOID
    outputs.requires_grad_()
    loss(outputs, targets, images).backward()
    assert outputs.grad is not None
    assert (outputs.grad[:, :, :2] == 0).all() and (outputs.grad[:, :, 2:] != 0).all()


def test_a_picture_of_void_alone_adds_nothing_to_the_soft_part() -> None:
    """The cross-entropy of no pixel at all is not a number; the soft part divides by no zero."""
    subject = untrained(_head, 6, "segmentation", classes=4)
    images, outputs = torch.randn(2, 3, 6, 6), torch.randn(2, 4, 6, 6)
    targets = torch.full((2, 6, 6), VOID)
    targets[0] = 1
    both = distillation_loss(subject.module, subject.workload, 1.0, 2.0)(outputs, targets, images)
    one = distillation_loss(subject.module, subject.workload, 1.0, 2.0)(outputs[:1], targets[:1], images[:1])
    assert float(both) == pytest.approx(float(one), rel=1e-5)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_student_that_is_its_teacher_has_the_cross_entropy_only(digits: Dense, task: str) -> None:
    subject = digits if task == "classification" else untrained(_head, 6, "segmentation", classes=4)
    images, targets = subject.splits.train.batch(np.arange(16))
    with torch.no_grad():
        outputs = subject.module(images.float())
    hard = nn.functional.cross_entropy(outputs, targets, ignore_index=VOID)
    loss = distillation_loss(subject.module, subject.workload, weight=5.0, temperature=3.0)
    assert float(loss(outputs, targets, images.float())) == pytest.approx(float(hard), rel=1e-4)
    assert float(loss(outputs.flip(1), targets, images.float())) > float(
        nn.functional.cross_entropy(outputs.flip(1), targets, ignore_index=VOID)
    )


def test_the_teacher_is_neither_moved_nor_trained(digits: Dense) -> None:
    before = {name: tensor.clone() for name, tensor in digits.module.state_dict().items()}
    method = strategy("uniform")
    compressed = method.compress(digits, method.plan(digits, {"distillation": 1.0}))
    method.tune(compressed, digits, 0.2)
    assert not digits.module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in digits.module.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (7, 5)])
def test_similarities_are_cosines_of_all_pairs(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape)
    nodes = features.flatten(2).transpose(1, 2) if len(shape) == 4 else features[None]
    found = similarities(features)
    assert found.shape == (nodes.shape[0], nodes.shape[1], nodes.shape[1])
    for image, rows in zip(found, nodes, strict=True):
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                assert float(image[i, j]) == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-5)


def test_large_maps_are_averaged_before_they_are_compared() -> None:
    features = torch.rand(1, 3, 64, 32)
    blocks = features.reshape(1, 3, 16, 4, 16, 2).mean((3, 5))
    torch.testing.assert_close(similarities(features), similarities(blocks))


def _similarity(student: nn.Module, subject: Dense, weight: float) -> SimilarityLoss:
    hard = lambda outputs, targets, images: nn.functional.cross_entropy(outputs, targets, ignore_index=VOID)  # noqa: E731
    return SimilarityLoss(hard, student, subject.module, subject.workload, weight)


@pytest.mark.parametrize("name", ["digits/cnn", "camvid/unet"])
def test_similarity_term_compares_what_the_output_layers_read(digits: Dense, name: str) -> None:
    unet = workload("camvid/unet", data_dir=".").build
    subject = digits if name == "digits/cnn" else untrained(unet, 16, "segmentation", classes=11)
    last = "linear" if name == "digits/cnn" else "head"
    student = copy.deepcopy(subject.module)
    pictures, targets = subject.splits.train.batch(np.arange(6))
    images = normalise(pictures, subject.workload)
    student.requires_grad_(False)
    loss = _similarity(student, subject, 0.7)
    hard = float(nn.functional.cross_entropy(student(images), targets, ignore_index=VOID))
    assert float(loss(student(images), targets, images)) == pytest.approx(hard, rel=1e-4)  # still the teacher itself

    next(student.parameters()).data.mul_(-1)
    hard = float(nn.functional.cross_entropy(student(images), targets, ignore_index=VOID))
    features: list[Tensor] = []
    for module in (student, subject.module):
        handle = module.get_submodule(last).register_forward_pre_hook(
            lambda _, inputs: features.append(inputs[0].detach())
        )
        module(images)
        handle.remove()
    term = (similarities(features[0]) - similarities(features[1])).square().mean()
    value = loss(student(images), targets, images)
    assert float(term) > 1e-4
    assert float(value) == pytest.approx(hard + 0.7 * float(term), rel=1e-4)


def test_similarity_term_leaves_no_hook_behind(digits: Dense) -> None:
    student = copy.deepcopy(digits.module)
    loss = _similarity(student, digits, 1.0)
    assert len(student.linear._forward_pre_hooks) == 1
    del loss
    gc.collect()
    assert len(student.linear._forward_pre_hooks) == len(digits.module.linear._forward_pre_hooks) == 0
