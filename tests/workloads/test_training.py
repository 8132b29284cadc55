"""Training in pieces equals training at once; augmentation, hooks and failures are what they say."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from workloads import (
    VOID,
    ArraySplit,
    Recipe,
    TrainingDiverged,
    TrainingState,
    Workload,
    calibration_batches,
    evaluate,
    normalise,
    train,
    workload,
)
from workloads.batches import augment


def fresh(described: Workload, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return described.build()


def equal(first: nn.Module, second: nn.Module) -> bool:
    others = second.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("pieces", [(1, 2), (0.3, 0.3, 2.4), (0.1, 0.2, 2.7), (3,)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pieces_equal_the_whole_bit_for_bit(classification: Workload, pieces, precision) -> None:
    described = replace(classification, recipe=replace(classification.recipe, precision=precision))
    split = described.load(None).train
    whole = fresh(described)
    expected = train(whole, described, split, seed=5, epochs=3, total_epochs=3)
    network, state = fresh(described), None
    for epochs in pieces:
        torch.manual_seed(99)  # the caller's generator must not matter
        network = copy.deepcopy(network)
        state = train(network, described, split, seed=5, epochs=epochs, total_epochs=3, state=state)
    assert equal(whole, network)
    assert state is not None and state.cost.images == expected.cost.images == 3 * 4 * 20
    assert state.epochs_done == pytest.approx(3) and state.cost.epochs == pytest.approx(3)
    assert state.optimizer.keys() == dict(network.named_parameters()).keys()
    assert all(torch.equal(state.optimizer[name], expected.optimizer[name]) for name in expected.optimizer)


def test_a_state_can_be_stored_without_its_memory_layout(classification: Workload) -> None:
    split = classification.load(None).train
    first = fresh(classification)
    state = train(first, classification, split, seed=1, epochs=1, total_epochs=2)
    stored = TrainingState(state.epochs_done, state.cost, {k: v.contiguous() for k, v in state.optimizer.items()})
    second = fresh(classification)
    second.load_state_dict({name: tensor.contiguous() for name, tensor in first.state_dict().items()})
    for network, given in ((first, state), (second, stored)):
        train(network, classification, split, seed=1, epochs=1, total_epochs=2, state=given)
    assert equal(first, second)


def test_seeds_differ_and_the_callers_generator_is_left_alone(classification: Workload) -> None:
    split = classification.load(None).train
    first, second = fresh(classification), fresh(classification)
    before = torch.get_rng_state()
    train(first, classification, split, seed=1, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    train(second, classification, split, seed=2, epochs=1)
    assert not equal(first, second)


@pytest.mark.parametrize("name", ["classification", "segmentation"])
def test_it_learns(name: str, request: pytest.FixtureRequest) -> None:
    described: Workload = request.getfixturevalue(name)
    described = replace(described, recipe=replace(described.recipe, shift=0, flip=False))
    splits = described.load(None)
    network = fresh(described)
    before = evaluate(network, splits.validation, described).primary
    train(network, described, splits.train, seed=0, epochs=60)
    assert evaluate(network, splits.validation, described).primary > max(0.8, before)
    assert not network.training


def test_digits_recipe_reaches_97_percent() -> None:
    described = workload("digits/cnn")
    splits = described.load(None)
    network = fresh(described)
    train(network, described, splits.train, seed=0, epochs=described.recipe.epochs)
    assert evaluate(network, splits.validation, described).primary >= 0.97


def test_hooks_are_called_and_frozen_parameters_stay(classification: Workload) -> None:
    split = classification.load(None).train
    network = fresh(classification)
    network[3].weight.requires_grad_(False)
    frozen, steps, seen = network[3].weight.clone(), [], []

    def loss(outputs: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        seen.append((outputs.shape, outputs.dtype, targets.dtype, images.shape))
        return functional.cross_entropy(outputs, targets)

    def mask(module: nn.Module) -> None:
        with torch.no_grad():
            module[0].weight[:, 0] = 0

    train(
        network,
        classification,
        split,
        seed=0,
        epochs=1,
        loss=loss,
        after_step=mask,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert seen[0] == ((20, 8), torch.float32, torch.int64, (20, 3, 8, 8)) and len(seen) == 4
    assert not network[0].weight[:, 0].any() and network[0].weight[:, 1].any()
    assert torch.equal(network[3].weight, frozen)


def test_the_given_loss_may_equal_the_default(classification: Workload) -> None:
    described = replace(classification, recipe=replace(classification.recipe, label_smoothing=0.1))
    split = described.load(None).train
    first, second = fresh(described), fresh(described)
    train(first, described, split, seed=0, epochs=1)
    train(
        second,
        described,
        split,
        seed=0,
        epochs=1,
        loss=lambda outputs, targets, _: functional.cross_entropy(outputs, targets, label_smoothing=0.1),
    )
    assert equal(first, second)


def test_weight_decay_spares_biases_and_batch_norm(classification: Workload) -> None:
    recipe = replace(classification.recipe, momentum=0.0, weight_decay=0.5)
    described = replace(classification, recipe=recipe)
    network = fresh(described)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    train(network, described, described.load(None).train, seed=0, epochs=1, loss=lambda outputs, *_: 0 * outputs.sum())
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) == (parameter.ndim == 1), name


def test_a_void_pixel_teaches_nothing(segmentation: Workload) -> None:
    split = segmentation.load(None).train
    images, targets = split.batch(np.arange(len(split)))
    void = targets == VOID
    recipe = replace(segmentation.recipe, shift=0)
    described = replace(segmentation, recipe=recipe)

    def loss(outputs: Tensor, labels: Tensor, _: Tensor) -> Tensor:
        kept = labels != VOID
        return functional.cross_entropy(outputs.movedim(1, -1)[kept], labels[kept])

    first, second = fresh(described), fresh(described)
    assert void.any()
    train(first, described, ArraySplit(images, targets), seed=0, epochs=2)
    train(second, described, ArraySplit(images, targets), seed=0, epochs=2, loss=loss)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, second.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_is_told(classification: Workload) -> None:
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 0.00"):
        train(
            fresh(classification),
            classification,
            classification.load(None).train,
            seed=0,
            epochs=1,
            loss=lambda outputs, *_: outputs.sum() * float("nan"),
        )


def test_more_epochs_than_in_all_and_momentum_of_another_shape_are_refused(classification: Workload) -> None:
    split = classification.load(None).train
    with pytest.raises(ValueError, match="exceed total_epochs"):
        train(fresh(classification), classification, split, seed=0, epochs=2, total_epochs=1)
    state = train(fresh(classification), classification, split, seed=0, epochs=1, total_epochs=2)
    state.optimizer["0.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"momentum of '0.weight'"):
        train(fresh(classification), classification, split, seed=0, epochs=1, total_epochs=2, state=state)


def test_a_split_smaller_than_a_batch_is_one_batch(classification: Workload) -> None:
    images, targets = classification.load(None).train.batch(np.arange(7))
    state = train(fresh(classification), classification, ArraySplit(images, targets), seed=0, epochs=2)
    assert state.cost.images == 14


def _recipe(shift: int, flip: bool) -> Recipe:
    return Recipe(1, 1, 1, 1, 1, shift=shift, flip=flip)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_augmented_pictures_are_crops_and_flips_and_labels_move_along(shift: int, flip: bool) -> None:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(1, 200, (40, 3, 6, 9), dtype=np.uint8))
    pixels, labels = augment(images, images[:, 0].long(), _recipe(shift, flip), random)
    assert pixels.shape == images.shape
    seen = set()
    for image, pixel, label in zip(images, pixels, labels, strict=True):
        padded = functional.pad(image, [shift] * 4)
        crops = {
            (top, left, mirrored): window.flip(-1) if mirrored else window
            for top in range(2 * shift + 1)
            for left in range(2 * shift + 1)
            for mirrored in ({False, flip})
            for window in [padded[:, top : top + 6, left : left + 9]]
        }
        (which,) = [key for key, crop in crops.items() if torch.equal(crop, pixel)]
        seen.add(which)
        assert torch.equal(label, torch.where(pixel[0] == 0, VOID, pixel[0].long()))
    assert len(seen) > (10 if shift else 1 if flip else 0)


def test_normalise_is_the_formula(classification: Workload) -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    expected = (images.double() - 100) / 70
    torch.testing.assert_close(normalise(images, classification).double(), expected)


def test_calibration_batches_are_distinct_normalised_pictures(classification: Workload) -> None:
    split = classification.load(None).train
    batches = calibration_batches(classification, split, images=70, batch_size=32, seed=3)
    assert [len(batch) for batch in batches] == [32, 32, 6]
    known = {tuple(image.flatten().tolist()) for image in normalise(split.batch(np.arange(96))[0], classification)}
    given = {tuple(image.flatten().tolist()) for image in torch.cat(batches)}
    assert len(given) == 70 and given <= known
    again = calibration_batches(classification, split, images=70, batch_size=32, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    assert sum(map(len, calibration_batches(classification, split, images=1000))) == 96
