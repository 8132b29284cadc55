"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official python batches or the official binary files.

The python batches are pickles. They are read by an unpickler that knows numpy arrays and nothing else, so that a file
from an unknown place cannot run code.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from ..contract import Splits
from ..errors import InputError
from .root import VARIABLE, data_root
from .splits import ArraySplit, hold_out

_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """One official archive: how its folder is called, which files hold what, and how to tell that they are whole."""

    data_set: str
    classes: int
    folder: str
    archive: str
    archive_md5: str
    train: tuple[str, ...]
    test: str
    label_bytes: int
    """Of a record in the binary files, the last one being the label; 0: python batches."""
    md5: Mapping[str, str]
    """Of single files, where it is published."""


CIFAR10_PYTHON = Layout(
    "CIFAR-10",
    10,
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test_batch",
    0,
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
)
CIFAR10_BINARY = Layout(
    "CIFAR-10",
    10,
    "cifar-10-batches-bin",
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test_batch.bin",
    1,
    {},
)
CIFAR100_PYTHON = Layout(
    "CIFAR-100",
    100,
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    ("train",),
    "test",
    0,
    {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
)
CIFAR100_BINARY = Layout(
    "CIFAR-100",
    100,
    "cifar-100-binary",
    "cifar-100-binary.tar.gz",
    "03b5dce01913d631647c71ecec9e9cb8",
    ("train.bin",),
    "test.bin",
    2,
    {},
)


def load_cifar10(data_dir: Path | None) -> Splits:
    """Training 45,000, validation 5,000, test 10,000: uint8 (N, 3, 32, 32)."""
    return read_cifar(data_root(data_dir, "CIFAR-10"), (CIFAR10_PYTHON, CIFAR10_BINARY))


def load_cifar100(data_dir: Path | None) -> Splits:
    """Training 45,000, validation 5,000, test 10,000: uint8 (N, 3, 32, 32); the 100 fine labels."""
    return read_cifar(data_root(data_dir, "CIFAR-100"), (CIFAR100_PYTHON, CIFAR100_BINARY))


def read_cifar(root: Path, layouts: tuple[Layout, ...]) -> Splits:
    """The data set from the first layout that is there: in its official folder below `root`, or in `root` itself."""
    for layout in layouts:
        for folder in (root / layout.folder, root):
            if (folder / layout.train[0]).is_file() or (folder.name == layout.folder and folder.is_dir()):
                return _read_folder(folder, layout)
    raise InputError(_missing(root / layouts[0].folder, layouts[0]))


def _read_folder(folder: Path, layout: Layout) -> Splits:
    images, labels = zip(*(_read_file(folder / name, layout) for name in layout.train), strict=True)
    test = ArraySplit(*_read_file(folder / layout.test, layout))
    return hold_out(torch.cat(images), torch.cat(labels), test, 1 / 10)


def _read_file(path: Path, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(_missing(path, layout)) from None
    except OSError as error:
        raise InputError(f"{layout.data_set}: {path} cannot be read: {error.strerror}") from error
    expected, found = layout.md5.get(path.name), hashlib.md5(content, usedforsecurity=False).hexdigest()
    if expected not in (None, found):
        raise InputError(_damaged(path, layout, f"its md5 is {found}, the official file's is {expected}"))
    try:
        pixels, labels = _parse_binary(content, layout) if layout.label_bytes else _parse_pickle(content)
        if labels.min() < 0 or labels.max() >= layout.classes:
            raise ValueError(f"labels reach {labels.min()}…{labels.max()}, allowed are 0…{layout.classes - 1}")
    except ValueError as error:
        raise InputError(_damaged(path, layout, str(error))) from error
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.from_numpy(labels)


def _missing(path: Path, layout: Layout) -> str:
    return f"{layout.data_set}: {path} is missing; {_source(layout)} below --data-dir or {VARIABLE}"


def _damaged(path: Path, layout: Layout, why: str) -> str:
    return f"{layout.data_set}: {path} is damaged: {why}; {_source(layout)} again"


def _source(layout: Layout) -> str:
    return f"unpack the official {layout.archive} (md5 {layout.archive_md5}, {_HOME})"


def _parse_binary(content: bytes, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    record = layout.label_bytes + _PIXELS
    if not content or len(content) % record:
        raise ValueError(f"its {len(content)} bytes are no whole number of {record}-byte records")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return records[:, layout.label_bytes :].copy(), records[:, layout.label_bytes - 1].astype(np.int64)


def _parse_pickle(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"it cannot be unpickled ({type(error).__name__}: {error})".replace("\n", " ")) from error
    if not isinstance(batch, dict):
        raise ValueError("it holds no batch")
    pixels = batch.get(b"data", batch.get("data"))
    labels = next((batch[key] for key in (b"fine_labels", "fine_labels", b"labels", "labels") if key in batch), None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise ValueError(f"it holds no pictures of {_PIXELS} bytes")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise ValueError(f"it does not hold one label for each of its {len(pixels)} pictures")
    if not labels:
        raise ValueError("it holds no pictures")
    return np.array(pixels), np.asarray(labels, dtype=np.int64)


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and plain Python values, and refuses every other name that a pickle may ask for."""

    allowed: Mapping[tuple[str, str], Callable[..., Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self.allowed[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which is refused") from None
