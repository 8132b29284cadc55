"""A folder of images per class, decoded when they are asked for: data sets that do not fit in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..contract import Splits
from ..errors import InputError
from .root import data_root
from .splits import stratified

_SHORT_SIDE = 256
_CROP = 224
_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))


class FolderSplit:
    """A part whose images are files: short side scaled to 256, the middle 224×224 cut out, RGB."""

    def __init__(self, files: list[Path], labels: np.ndarray) -> None:
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        images = np.stack([_decode(self.files[index]) for index in indices])
        return torch.from_numpy(images.transpose(0, 3, 1, 2)), torch.from_numpy(self.labels[indices])


def class_names(data_dir: Path | None) -> list[str]:
    """The classes: folders below the data folder, or below its `images`, that hold images; in alphabetical order."""
    root = _images_root(data_dir)
    names = sorted(
        folder.name for folder in root.iterdir() if folder.is_dir() and any(map(_is_image, folder.iterdir()))
    )
    if len(names) < 2:
        raise InputError(
            f"folder of images: {root} holds {len(names)} folders with images; it needs one per class, at least 2"
        )
    return names


def load_image_folder(data_dir: Path | None) -> Splits:
    """Training 80 %, validation 10 %, test 10 % of every class: uint8 (N, 3, 224, 224)."""
    root = _images_root(data_dir)
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names(data_dir)):
        found = _images(root / name)
        if len(found) < 10:
            raise InputError(f"folder of images: {root / name} holds {len(found)} images; each class needs at least 10")
        files += found
        labels += [label] * len(found)
    answers = np.asarray(labels, dtype=np.int64)
    train, validation, test = (
        FolderSplit([files[index] for index in part], answers[part]) for part in stratified(answers, (0.8, 0.1, 0.1))
    )
    return Splits(train, validation, test)


def _images_root(data_dir: Path | None) -> Path:
    root = data_root(data_dir, "folder of images")
    return root / "images" if (root / "images").is_dir() else root


def _images(folder: Path) -> list[Path]:
    return sorted(filter(_is_image, folder.iterdir()))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def _decode(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            colour = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"folder of images: {path} is damaged ({error}); replace or remove it") from error
    scale = _SHORT_SIDE / min(colour.size)
    width, height = (max(_SHORT_SIDE, round(side * scale)) for side in colour.size)
    left, top = (width - _CROP) // 2, (height - _CROP) // 2
    scaled = colour.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled.crop((left, top, left + _CROP, top + _CROP)))
