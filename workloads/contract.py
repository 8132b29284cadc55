"""A workload: a network, the data it is judged on, and the recipe that trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

Task = Literal["classification", "segmentation"]
VOID = 255
"""Label of pixels that neither training nor mIoU counts."""


class Split(Protocol):
    """One part of a data set, held so that any subset can be drawn by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, C, H, W) and targets int64: (N,) for classification, (N, H, W) for segmentation."""
        ...


@dataclass(frozen=True)
class Splits:
    """Fixed, stratified parts: search and stopping look at `validation` only; `test` is read once per finalist."""

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class Recipe:
    """How the dense network is trained and a compressed one is tuned: SGD with Nesterov momentum, cosine to zero."""

    epochs: int
    """Of the dense network."""
    tune_epochs: float
    """Of one full evaluation of a compressed network."""
    batch_size: int
    learning_rate: float
    tune_learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    shift: int = 0
    """Random crops after zero padding by this many pixels on every side."""
    flip: bool = False
    """Random horizontal flips."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast of the training passes; evaluation is always fp32."""


@dataclass(frozen=True)
class Workload:
    """A named network on named data. Light: building one reads no data and makes no network."""

    name: str
    """Data set and network, such as `cifar10/resnet20`."""
    summary: str
    task: Task
    classes: int
    input_shape: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, in the unit of the raw pixels (0…255): the network sees (x − mean) / std."""
    build: Callable[[], nn.Module]
    """A freshly initialised network; draws from torch's global generator."""
    load: Callable[[Path | None], Splits]
    """Reads the data below the folder given (None: `SHRINKBOARD_DATA`).

    Raises `InputError` where a file is missing or damaged.
    """
    recipe: Recipe
    data_dir: Path | None = None
    checkpoint: Path | None = None
    """Weights (safetensors) to use as the dense network instead of training one."""
    translate: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
    """A checkpoint's tensors under the network's own names, where a published one uses others."""
    device: str = "cpu"
    """Where training and evaluation run; between the calls a module lies on the CPU."""

    @property
    def example(self) -> Tensor:
        """One input of zeros, shape (1, C, H, W): what a network is traced with."""
        return torch.zeros(1, *self.input_shape)


@dataclass(frozen=True)
class Accuracy:
    """Fractions in 0…1; what does not apply to the task is None."""

    top1: float | None = None
    top5: float | None = None
    miou: float | None = None

    @property
    def primary(self) -> float:
        """mIoU of a segmentation, top-1 otherwise."""
        value = self.top1 if self.miou is None else self.miou
        if value is None:
            raise ValueError("this accuracy holds no figure")
        return value


@dataclass(frozen=True)
class TrainingCost:
    """What a training run cost, dense or compressed."""

    epochs: float
    seconds: float
    images: int
    """Images that went through a forward and backward pass."""


@dataclass
class TrainingState:
    """Where a training run stands, so that it can go on in a later call: tensors by name, and plain numbers."""

    epochs_done: float
    cost: TrainingCost
    optimizer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dense:
    """The trained dense network of one workload and seed: what every strategy starts from. Never changed in place."""

    workload: Workload
    seed: int
    module: nn.Module
    """In eval mode."""
    splits: Splits
    validation: Accuracy
    cost: TrainingCost
    digest: str
    """SHA-256 of the weights: two runs that start from equal weights agree in it."""
    memo: dict[str, Any] = field(default_factory=dict)
    """Analyses of this network that strategies keep (channel groups, PCA spectra), by name."""
