"""A user's own network on one of the data sets."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from .contract import Workload
from .datasets import DATASETS
from .errors import InputError
from .network import trace


def custom_workload(
    model: str, dataset: str, *, data_dir: Path | str | None = None, checkpoint: Path | str | None = None
) -> Workload:
    """The network that `model` names, on the data set `dataset`; called `DATASET/PACKAGE.MODULE:FACTORY`.

    `model` is `package.module:factory`, found in the current folder or among the installed packages; the factory takes
    no arguments and gives a freshly initialised `nn.Module` for the data set's shape and classes, which torch.fx can
    trace. Raises `InputError` where one of these does not hold.
    """
    if dataset not in DATASETS:
        raise InputError(f"unknown data set {dataset!r} for {model}; allowed: {', '.join(DATASETS)}")
    data = DATASETS[dataset]
    data_dir = None if data_dir is None else Path(data_dir)
    classes = data.count_classes(data_dir)
    _check(
        model, dataset, data.input_shape, (1, classes, *(data.input_shape[1:] if data.task == "segmentation" else ()))
    )
    return Workload(
        name=f"{dataset}/{model}",
        summary=f"{model} on {data.summary}",
        task=data.task,
        classes=classes,
        input_shape=data.input_shape,
        mean=data.mean,
        std=data.std,
        build=partial(build_custom, model),
        load=data.load,
        recipe=data.recipe,
        data_dir=data_dir,
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )


def build_custom(model: str) -> nn.Module:
    """What the factory `package.module:factory` makes; `InputError` where there is none."""
    path, _, name = model.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), name)):
        raise InputError(f"model {model!r} is no PACKAGE.MODULE:FACTORY, such as mynets.tiny:build")
    with _current_folder_first():
        try:
            importlib.invalidate_caches()
            module = importlib.import_module(path)
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"model {model}: module {path} cannot be imported: {_line(error)}") from error
        factory = getattr(module, name, None)
        if not callable(factory):
            raise InputError(f"model {model}: module {path} has no function {name}")
        try:
            made = factory()
        except Exception as error:
            raise InputError(
                f"model {model}: {name}() fails: {_line(error)}; it is called without arguments"
            ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"model {model}: {name}() gives a {type(made).__name__}; it must give a torch.nn.Module")
    return made


def _check(model: str, dataset: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    example = torch.zeros(1, *shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build_custom(model).eval()
        try:
            trace(network, example)
        except InputError as error:
            raise InputError(f"model {model} on {dataset}: {error}") from error
        output = network(example)
    found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if found != expected:
        raise InputError(
            f"model {model} on {dataset}: an input of shape {tuple(example.shape)} gives {found}; expected {expected}"
        )


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """The user's folder on the import path, but only while their code is imported, lest it shadow packages of ours."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
