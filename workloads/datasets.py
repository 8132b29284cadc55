"""The data sets that networks, ours and the user's own, can be trained and judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .contract import Recipe, Splits, Task
from .data.camvid import load_camvid
from .data.cifar import load_cifar10, load_cifar100
from .data.digits import load_digits
from .data.idx import load_fashion_mnist
from .data.image_folder import class_names, load_image_folder


@dataclass(frozen=True)
class DataSet:
    """One data set: how it is read, what a network sees of it, and the recipe for a network nobody knows better."""

    summary: str
    load: Callable[[Path | None], Splits]
    task: Task
    classes: int | None
    """None: as many as the data folder has."""
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, in raw pixels."""
    recipe: Recipe

    def count_classes(self, data_dir: Path | None) -> int:
        return len(class_names(data_dir)) if self.classes is None else self.classes


# x/255 with ImageNet's statistics: what the published CIFAR ResNets and 224-pixel networks were trained with.
_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

_CIFAR_RECIPE = Recipe(
    epochs=100,
    tune_epochs=10,
    batch_size=128,
    learning_rate=0.1,
    tune_learning_rate=0.01,
    shift=4,
    flip=True,
    precision="bf16",
)

DATASETS = {
    "digits": DataSet(
        summary="handwritten digits, 8×8, part of scikit-learn",
        load=load_digits,
        task="classification",
        classes=10,
        input_shape=(1, 8, 8),
        mean=(4.88,),
        std=(6.02,),
        recipe=Recipe(epochs=20, tune_epochs=5, batch_size=64, learning_rate=0.1, tune_learning_rate=0.05),
    ),
    "fashion_mnist": DataSet(
        summary="articles of clothing, 28×28, grey",
        load=load_fashion_mnist,
        task="classification",
        classes=10,
        input_shape=(1, 28, 28),
        mean=(72.9,),
        std=(90.0,),
        recipe=Recipe(
            epochs=12,
            tune_epochs=1,
            batch_size=128,
            learning_rate=0.1,
            tune_learning_rate=0.02,
            shift=2,
            flip=True,
            precision="bf16",
        ),
    ),
    "cifar10": DataSet(
        summary="photographs of 10 kinds of objects, 32×32",
        load=load_cifar10,
        task="classification",
        classes=10,
        input_shape=(3, 32, 32),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        recipe=_CIFAR_RECIPE,
    ),
    "cifar100": DataSet(
        summary="photographs of 100 kinds of objects, 32×32",
        load=load_cifar100,
        task="classification",
        classes=100,
        input_shape=(3, 32, 32),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        recipe=_CIFAR_RECIPE,
    ),
    "camvid": DataSet(
        summary="street scenes with 11 classes of pixels, 480×360",
        load=load_camvid,
        task="segmentation",
        classes=11,
        input_shape=(3, 360, 480),
        mean=(104.4, 107.9, 109.7),
        std=(78.4, 79.4, 78.4),
        recipe=Recipe(
            epochs=60,
            tune_epochs=8,
            batch_size=8,
            learning_rate=0.05,
            tune_learning_rate=0.01,
            weight_decay=1e-4,
            flip=True,
            precision="bf16",
        ),
    ),
    "folder": DataSet(
        summary="the user's folder of images per class, 224×224",
        load=load_image_folder,
        task="classification",
        classes=None,
        input_shape=(3, 224, 224),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        recipe=Recipe(
            epochs=60,
            tune_epochs=5,
            batch_size=64,
            learning_rate=0.05,
            tune_learning_rate=0.01,
            weight_decay=4e-5,
            label_smoothing=0.1,
            shift=16,
            flip=True,
            precision="bf16",
        ),
    ),
}


def dataset_names() -> list[str]:
    """The names that `custom_workload` takes."""
    return list(DATASETS)
