"""Parts of a data set: drawn once and for all, equal in every class, and held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..contract import Splits

_SEED = 20240229  # Any constant will do; a run's seed must never move an image from one part to another.


class ArraySplit:
    """A part whose images lie in memory: uint8 (N, C, H, W), with targets of any integer type, (N,) or (N, H, W)."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(targets):
            raise ValueError(
                f"images {images.dtype} {tuple(images.shape)} and targets {tuple(targets.shape)} do not fit"
            )
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        return self.images[chosen], self.targets[chosen].long()


def stratified(labels: np.ndarray, fractions: Sequence[float]) -> list[np.ndarray]:
    """Disjoint parts of 0…N−1 that together are everything; each has its fraction of every class, to within one.

    `labels` has shape (N,), `fractions` sum to 1. The parts depend on the labels alone; their indices ascend.
    """
    # RandomState's stream is frozen by numpy's policy; a Generator's may change and would move images between parts.
    random = np.random.RandomState(_SEED)
    bounds = np.concatenate([[0.0], np.cumsum(fractions)])
    if not np.isclose(bounds[-1], 1.0) or min(fractions) < 0:
        raise ValueError(f"fractions must be at least 0 and sum to 1, not {list(fractions)}")
    members: list[list[np.ndarray]] = [[] for _ in fractions]
    for label in np.unique(labels):
        shuffled = random.permutation(np.flatnonzero(labels == label))
        cuts = np.rint(bounds * len(shuffled)).astype(int)
        for part, (start, end) in zip(members, pairwise(cuts), strict=True):
            part.append(shuffled[start:end])
    return [np.sort(np.concatenate(part)) for part in members]


def hold_out(images: Tensor, targets: Tensor, test: ArraySplit, fraction: float) -> Splits:
    """An official training part cut into training and validation, beside the official test part."""
    train, validation = stratified(targets.numpy(), (1 - fraction, fraction))
    whole = ArraySplit(images, targets)
    return Splits(ArraySplit(*whole.batch(train)), ArraySplit(*whole.batch(validation)), test)
