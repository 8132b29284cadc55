"""The named workloads: ours, those of plug-ins, and a user's own network by its import path."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from torch import Tensor, nn

from .contract import Recipe, Workload
from .custom import custom_workload
from .datasets import DATASETS
from .errors import InputError
from .models.mobilenetv2 import mobilenetv2, mobilenetv2_cifar
from .models.resnet_cifar import resnet_cifar
from .models.resnet_mlperf_tiny import ResNet8, from_keras
from .models.small_cnn import small_cnn
from .models.unet import UNet
from .models.vgg import VGG16

ENTRY_POINTS = "shrinkboard.workloads"


@dataclass(frozen=True)
class _Named:
    """A network on the data set that its name starts with; None takes what the data set says."""

    summary: str
    network: Callable[[int], nn.Module]
    """Of a number of classes."""
    recipe: Recipe | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    translate: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict


_CIFAR = DATASETS["cifar10"].recipe
_RESNET = replace(_CIFAR, epochs=200, weight_decay=1e-4)  # He et al. §4.2, in epochs of 45,000 pictures
_VGG = replace(_CIFAR, epochs=200, tune_epochs=20, learning_rate=0.05)  # 200 and 20 epochs: published for PCA + L1

_OURS = {
    "digits/cnn": _Named("a small CNN on scikit-learn's digits; trains in seconds", small_cnn),
    "fashion_mnist/cnn": _Named("the same small CNN on Fashion-MNIST", small_cnn),
    "cifar10/resnet8": _Named(
        "ResNet-8 of MLPerf Tiny: 78 k parameters, 12.5 MMAC",
        ResNet8,
        recipe=replace(_CIFAR, epochs=20, tune_epochs=1.0, tune_learning_rate=0.02),
        # No mean is taken away, so that zero padding means black as it does in the published network.
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        translate=from_keras,
    ),
    "cifar10/resnet20": _Named(
        "ResNet-20 of He et al.: 0.27 M parameters, 41 MMAC", partial(resnet_cifar, depth=20), _RESNET
    ),
    "cifar10/resnet56": _Named(
        "ResNet-56 of He et al.: 0.85 M parameters, 125 MMAC", partial(resnet_cifar, depth=56), _RESNET
    ),
    "cifar10/vgg16_bn": _Named("VGG-16 with batch norm, one linear head: 14.7 M parameters, 313 MMAC", VGG16, _VGG),
    "cifar10/vgg16_quarter": _Named(
        "VGG-16 at a quarter of its widths: 0.92 M parameters, 20 MMAC; trains in minutes",
        partial(VGG16, width=0.25),
        recipe=replace(_CIFAR, epochs=12, tune_epochs=1.0, tune_learning_rate=0.01),
    ),
    "cifar100/vgg16_bn": _Named("the same VGG-16 with 100 classes", VGG16, _VGG),
    "cifar10/mobilenetv2": _Named("MobileNetV2 for 32×32: 2.2 M parameters, 88 MMAC", mobilenetv2_cifar, _RESNET),
    "camvid/unet": _Named("U-Net of base width 16 on street scenes: 0.49 M parameters, 7.1 GMAC", UNet),
    "folder/mobilenetv2": _Named("MobileNetV2 on a folder of images per class: 224×224, 0.3 GMAC", mobilenetv2),
}


def workload_names() -> list[str]:
    """Every name that `workload` takes beside `DATASET/PACKAGE.MODULE:FACTORY`; ours first, then those of plug-ins."""
    return [*_OURS, *sorted(set(_plugins()) - set(_OURS))]


def workload_summaries() -> dict[str, str]:
    """Name → one line; loads no plug-in."""
    plugins = {name: f"plug-in {point.value}" for name, point in sorted(_plugins().items()) if name not in _OURS}
    return {name: named.summary for name, named in _OURS.items()} | plugins


def workload(name: str, *, data_dir: Path | str | None = None, checkpoint: Path | str | None = None) -> Workload:
    """The workload of that name, on the data below `data_dir` (None: `SHRINKBOARD_DATA`).

    `checkpoint` is a safetensors file whose weights serve as the dense network. A name such as
    `cifar10/package.module:factory` is a user's own network. Raises `InputError` for an unknown name and for a plug-in
    that fails to load.
    """
    data_dir = None if data_dir is None else Path(data_dir)
    checkpoint = None if checkpoint is None else Path(checkpoint)
    if name in _OURS:
        return _build(name, _OURS[name], data_dir, checkpoint)
    plugins = _plugins()
    if name in plugins:
        return _load_plugin(plugins[name], data_dir, checkpoint)
    dataset, slash, model = name.partition("/")
    if slash and ":" in model:
        return custom_workload(model, dataset, data_dir=data_dir, checkpoint=checkpoint)
    names = workload_names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"unknown workload {name!r}; {hint}allowed: {', '.join(names)}, or DATASET/PACKAGE.MODULE:FACTORY")


def _build(name: str, named: _Named, data_dir: Path | None, checkpoint: Path | None) -> Workload:
    dataset = DATASETS[name.partition("/")[0]]
    classes = dataset.count_classes(data_dir)
    return Workload(
        name=name,
        summary=named.summary,
        task=dataset.task,
        classes=classes,
        input_shape=dataset.input_shape,
        mean=named.mean or dataset.mean,
        std=named.std or dataset.std,
        build=partial(named.network, classes),
        load=dataset.load,
        recipe=named.recipe or dataset.recipe,
        data_dir=data_dir,
        checkpoint=checkpoint,
        translate=named.translate,
    )


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _load_plugin(point: EntryPoint, data_dir: Path | None, checkpoint: Path | None) -> Workload:
    try:
        made = point.load()()
    except Exception as error:  # a stranger's code: whatever it raises is told in one line
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"workload plug-in {point.name!r} ({point.value}) fails: {reason}") from error
    if not isinstance(made, Workload):
        raise InputError(
            f"workload plug-in {point.name!r} ({point.value}) gives a {type(made).__name__}; it must give a Workload"
        )
    return replace(made, data_dir=data_dir or made.data_dir, checkpoint=checkpoint or made.checkpoint)
