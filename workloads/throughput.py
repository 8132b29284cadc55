"""How long a training epoch of several networks takes, measured side by side."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from .batches import normalise
from .contract import Split, Workload
from .training import bf16_is_fast, recipe_loss, recipe_optimizer, steps_in

Precision = Literal["fp32", "bf16"]


def epoch_seconds(
    modules: Mapping[str, nn.Module],
    workload: Workload,
    split: Split,
    precision: Precision,
    *,
    steps: int = 10,
    limit: float = 10.0,
) -> dict[str, float | None]:
    """Seconds that one epoch of training on `split` takes each network: name → seconds.

    Steps of the recipe (forward, cross-entropy, backward, SGD) run on the workload's device, on copies of the modules
    and one batch of the recipe's size; reading and augmenting pictures, the same for every network, is left out. The
    networks take turns, in an order drawn anew for every round, so that a slower moment of the machine meets all of
    them; the median over `steps` rounds counts. After `limit` seconds no further round begins; the first round, which
    warms up, counts only where it is the only one. None for all where the CPU only imitates bf16.

    The modules and the caller's random generators are left alone; torch's global generator is borrowed meanwhile.
    """
    device = torch.device(workload.device)
    if precision == "bf16" and not bf16_is_fast(device):
        return dict.fromkeys(modules, None)
    batch_size = min(workload.recipe.batch_size, len(split))
    raw, targets = split.batch(np.arange(batch_size))
    images, targets = normalise(raw.to(device), workload), targets.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        runs = {name: _Run(module, workload, precision) for name, module in modules.items()}
        random, names = np.random.default_rng(0), list(modules)
        seen: dict[str, list[float]] = {name: [] for name in modules}
        started = time.perf_counter()
        for _ in range(1 + steps):
            for place in random.permutation(len(names)):
                seen[names[place]].append(runs[names[place]].step(images, targets))
            if time.perf_counter() - started > limit:
                break
    per_epoch = steps_in(1, workload, split)
    return {name: float(np.median(taken[1:] or taken)) * per_epoch for name, taken in seen.items()}


class _Run:
    """A copy of one network in training."""

    def __init__(self, module: nn.Module, workload: Workload, precision: Precision) -> None:
        self.device = torch.device(workload.device)
        self.module = copy.deepcopy(module).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module.train()
        # The learning rate stays at zero: a step takes as long, and the network cannot diverge.
        self.optimizer = recipe_optimizer(self.module, workload)
        self.criterion = recipe_loss(workload)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    def step(self, images: Tensor, targets: Tensor) -> float:
        """Trains one step; its seconds."""
        self._wait()
        started = time.perf_counter()
        self.optimizer.zero_grad()
        with self.autocast:
            loss = self.criterion(self.module(images).float(), targets, images)
        loss.backward()
        self.optimizer.step()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
