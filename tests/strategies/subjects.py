"""Untrained networks on pictures of noise, as strategies see them: for what does not depend on accuracy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

import workloads
from workloads import VOID, ArraySplit, Dense, Recipe, Splits, Task, Workload
from workloads.models.unet import UNet

from .networks import Decoder

PICTURES = 24


def untrained(build: Callable[[], nn.Module], size: int, task: Task = "classification", classes: int = 3) -> Dense:
    """A dense network of 3×size×size pictures; a tenth of the pixels of a segmentation are void."""
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (PICTURES, 3, size, size), generator=draw).to(torch.uint8)
    if task == "segmentation":
        labels = pictures[:, 0].long() * classes // 256
        labels[torch.rand(labels.shape, generator=draw) < 0.1] = VOID
    else:
        labels = torch.arange(PICTURES) % classes
    part = ArraySplit(pictures, labels)
    splits = Splits(part, part, part)
    workload = Workload(
        name="tests/network",
        summary="made by the tests",
        task=task,
        classes=classes,
        input_shape=(3, size, size),
        mean=(128.0,) * 3,
        std=(70.0,) * 3,
        build=build,
        load=lambda _: splits,
        recipe=Recipe(epochs=1, tune_epochs=1, batch_size=8, learning_rate=0.01, tune_learning_rate=0.01),
    )
    return workloads.untrained(workload, 0)


class Residual(nn.Module):
    """Two residual blocks, the second with a projection and a depthwise convolution in its branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
        self.conv3, self.norm3 = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.projection = nn.Conv2d(8, 16, 1, stride=2)
        self.pool, self.flatten, self.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        x = torch.relu(self.projection(x) + self.norm3(self.conv3(self.depthwise(x))))
        return self.linear(self.flatten(self.pool(x)))


def residual() -> Dense:
    """Classifies pictures of 16×16."""
    return untrained(Residual, 16, classes=4)


def segmenter() -> Dense:
    """Segments pictures of 16×16."""
    return untrained(lambda: UNet(3, width=4), 16, "segmentation")


class _Whole(Decoder):
    """`Decoder` with a label for every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(super().forward(x), scale_factor=2.0)


def decoder() -> Dense:
    """Segments pictures of 16×16 with a transposed convolution and a skip connection."""
    return untrained(_Whole, 16, "segmentation", classes=4)
