"""From stored pictures to what a network sees: normalisation, augmentation of whole batches, calibration batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .contract import VOID, Recipe, Split, Workload


def normalise(images: Tensor, workload: Workload) -> Tensor:
    """(x − mean) / std of every channel: uint8 (N, C, H, W) to float32 of the same shape, channels last in memory."""
    mean = torch.tensor(workload.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(workload.std, device=images.device).view(1, -1, 1, 1)
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def calibration_batches(
    workload: Workload, split: Split, images: int = 128, batch_size: int = 32, seed: int = 0
) -> list[Tensor]:
    """Normalised batches of `images` distinct pictures (all, where the split has fewer), drawn without augmentation."""
    chosen = np.random.default_rng(seed).permutation(len(split))[:images]
    starts = range(0, len(chosen), batch_size)
    return [normalise(split.batch(chosen[start : start + batch_size])[0], workload) for start in starts]


def augment(images: Tensor, targets: Tensor, recipe: Recipe, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random crops and flips of the recipe, drawn for each picture: (N, C, H, W) and targets (N,) or (N, H, W).

    Runs where the pictures lie; the same draws give the same pictures on every device.

    Label maps move with their pictures. Pixels from outside are 0 in pictures and `VOID` in label maps.
    """
    if not (recipe.shift or recipe.flip):
        return images, targets
    count, _, height, width = images.shape
    top, left = random.integers(0, 2 * recipe.shift + 1, (2, count, 1))
    columns = np.broadcast_to(np.arange(width), (count, width))
    if recipe.flip:
        columns = np.where(random.random((count, 1)) < 0.5, columns[:, ::-1], columns)
    rows = torch.from_numpy(top + np.arange(height))[:, :, None].to(images.device)
    across = torch.from_numpy(left + columns)[:, None, :].to(images.device)
    which = torch.arange(count, device=images.device)[:, None, None]
    frame = [recipe.shift] * 4
    # Channels last, so that one gather moves whole pixels.
    pixels = functional.pad(images, frame).permute(0, 2, 3, 1)[which, rows, across].permute(0, 3, 1, 2)
    if targets.ndim == 3:
        targets = functional.pad(targets, frame, value=VOID)[which, rows, across]
    return pixels, targets


@contextmanager
def on_device(module: nn.Module, workload: Workload) -> Iterator[torch.device]:
    """The module lies on the workload's device for a while, and on the CPU afterwards."""
    device = torch.device(workload.device)
    module.to(device)
    try:
        yield device
    finally:
        module.to("cpu")
