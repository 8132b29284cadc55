"""Handwritten digits (Alpaydin and Kaynak, UCI): the 1,797 pictures of 8×8 that scikit-learn carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..contract import Splits
from .splits import ArraySplit, stratified


def load_digits(data_dir: Path | None = None) -> Splits:
    """Training 60 %, validation 20 %, test 20 %: uint8 (N, 1, 8, 8) in 0…16. Nothing is read from `data_dir`."""
    import sklearn.datasets  # here, because it takes a second

    pictures, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(pictures.astype(np.uint8).reshape(-1, 1, 8, 8))
    whole = ArraySplit(images, torch.from_numpy(labels.astype(np.int64)))
    train, validation, test = (ArraySplit(*whole.batch(part)) for part in stratified(labels, (0.6, 0.2, 0.2)))
    return Splits(train, validation, test)
