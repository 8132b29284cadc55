"""Small workloads on data that tests make themselves, and the real data where a machine has them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from workloads import VOID, ArraySplit, Recipe, Splits, Workload


def _classification(data_dir: Path | None) -> Splits:
    """Eight classes told apart by colour and place, with noise: learnable in a few steps."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(160) % 8
    images = torch.randint(0, 120, (160, 3, 8, 8), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[label % 3, :, label % 4 * 2 : label % 4 * 2 + 2] += 100
    whole = ArraySplit(images.to(torch.uint8), labels)
    return Splits(*(ArraySplit(*whole.batch(range_)) for range_ in _ranges(96, 128, 160)))


def _segmentation(data_dir: Path | None) -> Splits:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (24, 3, 8, 16), generator=generator).to(torch.uint8)
    labels = (images[:, 0] > 128).to(torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = VOID
    whole = ArraySplit(images, labels)
    return Splits(*(ArraySplit(*whole.batch(range_)) for range_ in _ranges(12, 18, 24)))


def _ranges(*ends: int) -> list[torch.Tensor]:
    return [torch.arange(start, end).numpy() for start, end in zip((0, *ends), ends, strict=False)]


def _network(head: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), head
    )


def _classifier() -> nn.Module:
    head = nn.Sequential(nn.ReLU(), nn.Dropout(0.1), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 8))
    return _network(head)


def _segmenter() -> nn.Module:
    return _network(nn.Conv2d(16, 2, 1))


_RECIPE = Recipe(
    epochs=3, tune_epochs=1, batch_size=20, learning_rate=0.05, tune_learning_rate=0.01, shift=2, flip=True
)
_common = partial(Workload, summary="made by the tests", mean=(100.0,) * 3, std=(70.0,) * 3, recipe=_RECIPE)


@pytest.fixture
def classification() -> Workload:
    return _common(
        name="tests/classifier",
        task="classification",
        classes=8,
        input_shape=(3, 8, 8),
        build=_classifier,
        load=_classification,
    )


@pytest.fixture
def segmentation() -> Workload:
    return _common(
        name="tests/segmenter",
        task="segmentation",
        classes=2,
        input_shape=(3, 8, 16),
        build=_segmenter,
        load=_segmentation,
    )


@pytest.fixture
def real_data() -> Path:
    """The folder of the real data sets."""
    folder = os.environ.get("SHRINKBOARD_DATA")
    if not folder:
        pytest.skip("SHRINKBOARD_DATA is not set: no real data here")
    return Path(folder)


@pytest.fixture
def no_data_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHRINKBOARD_DATA", raising=False)
