"""Fashion-MNIST (Xiao et al., arXiv:1708.07747) from its four IDX files, packed with gzip or plain."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from ..contract import Splits
from ..errors import InputError
from .root import VARIABLE, data_root
from .splits import ArraySplit, hold_out

_HOME = "https://github.com/zalandoresearch/fashion-mnist"
_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
"""Of the official .gz files."""
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist installs them."""


def load_fashion_mnist(data_dir: Path | None) -> Splits:
    """Training 55,000, validation 5,000, test 10,000: uint8 (N, 1, 28, 28).

    The files lie in the data folder itself, in its `fashion-mnist`, or in its `FashionMNIST/raw`; failing these, those
    of Debian's package are taken.
    """
    folder = _folder(data_dir)
    arrays = {name: _read(folder, name) for name in _MD5}
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays.values())
    for name, pictures, answers in (("train", images, labels), ("t10k", test_images, test_labels)):
        if pictures.shape[1:] != (28, 28) or len(pictures) != len(answers) or answers.max() > 9:
            raise InputError(
                f"Fashion-MNIST: the {name} files in {folder} do not belong together: images {tuple(pictures.shape)}, "
                f"labels {tuple(answers.shape)} up to {int(answers.max())}; get all four from {_HOME}"
            )
    return hold_out(images[:, None], labels.long(), ArraySplit(test_images[:, None], test_labels.long()), 1 / 12)


def _folder(data_dir: Path | None) -> Path:
    first = next(iter(_MD5))
    try:
        root = data_root(data_dir, "Fashion-MNIST")
        folders = [root, root / "fashion-mnist", root / "FashionMNIST" / "raw", _DEBIAN]
    except InputError:
        if data_dir is not None or not _DEBIAN.is_dir():
            raise
        folders = [_DEBIAN]
    for folder in folders:
        if _path(folder, first) is not None:
            return folder
    raise InputError(_missing(first, root))


def _path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _missing(name: str, folder: Path) -> str:
    return (
        f"Fashion-MNIST: {name}.gz is missing in {folder}; put the official file (md5 {_MD5[name]}, {_HOME}) below "
        f"--data-dir or {VARIABLE}, or install Debian's package dataset-fashion-mnist"
    )


def _read(folder: Path, name: str) -> np.ndarray:
    path = _path(folder, name)
    if path is None:
        raise InputError(_missing(name, folder))
    try:
        content = path.read_bytes()
        return parse_idx(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(
            f"Fashion-MNIST: {path} is damaged ({error}); the official {name}.gz (md5 {_MD5[name]}) is at {_HOME}"
        ) from error


def parse_idx(content: bytes) -> np.ndarray:
    """The unsigned bytes of an IDX file as an array of the shape in its header; ValueError where it is none."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 3:
        raise ValueError("not an IDX file of unsigned bytes")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError("the header is cut short")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
    expected = int(np.prod(shape, dtype=object))
    if len(content) - start != expected or expected == 0:
        raise ValueError(f"{len(content) - start} bytes follow the header, which announces {expected}")
    return np.frombuffer(bytearray(content[start:]), dtype=np.uint8).reshape(shape)
