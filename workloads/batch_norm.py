"""Fresh batch-norm statistics after a network's weights were changed."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .batches import normalise, on_device
from .contract import Split, Workload
from .evaluation import eval_mode


def reestimate_batch_norm(
    module: nn.Module, workload: Workload, split: Split, batches: int = 100, seed: int = 0
) -> None:
    """Replace running means and variances, in place, by their averages over training batches without augmentation.

    Batches have the recipe's size; at most one pass over `split` is made. Only batch norm runs in training mode; all
    modes and momenta are given back. A module without running statistics stays as it is.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return
    order = np.random.default_rng(seed).permutation(len(split))
    size = min(workload.recipe.batch_size, len(order))
    momenta = [norm.momentum for norm in norms]
    with eval_mode(module), on_device(module, workload) as device, torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        try:
            for start in range(0, min(batches, len(order) // size) * size, size):
                images, _ = split.batch(order[start : start + size])
                module(normalise(images.to(device), workload))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
