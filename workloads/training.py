"""Training by a workload's recipe, in pieces that add up: what strategies call to train and to tune."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .batches import augment, normalise
from .contract import VOID, Split, TrainingCost, TrainingState, Workload

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]

_WARM_UP = 0.05  # of all steps, from near zero to the full learning rate


class TrainingDiverged(RuntimeError):
    """The loss is no longer a finite number."""


def train(
    module: nn.Module,
    workload: Workload,
    split: Split,
    *,
    seed: int,
    epochs: float,
    total_epochs: float | None = None,
    learning_rate: float | None = None,
    state: TrainingState | None = None,
    loss: Loss | None = None,
    during_pass: Callable[[nn.Module], AbstractContextManager[None]] | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
    progress: Progress | None = None,
) -> TrainingState:
    """Train `module` in place for `epochs` more epochs, which may be a fraction, and say where the run then stands.

    The learning rate (default: the recipe's) warms up and falls to zero as a cosine over `total_epochs`, by default the
    epochs done so far and `epochs`. A run in pieces, each given the last one's `state` and the same `seed`,
    `total_epochs` and `learning_rate`, equals the run in one bit for bit on one machine. An epoch leaves out the last
    incomplete batch. The caller's random generators are left alone; as torch's global one is borrowed, only
    one thread of a process may train at a time.

    `loss(outputs, targets, images)` replaces the recipe's cross-entropy: outputs float32 (N, classes[, H, W]), targets
    (N[, H, W]) with `VOID` for pixels that do not count, images the normalised batch. It runs within autocast.
    `during_pass(module)` is entered for every forward and backward pass and left before the optimiser's step: weights
    changed inside and given back on leaving take the gradient of the changed ones. `after_step(module)` runs after
    every step, to hold masks. `progress(steps done, steps of this call)` likewise.

    Training runs on the workload's device; the module comes back to the CPU, in eval mode with channels-last weights.
    Raises `TrainingDiverged` where the loss is not finite.
    """
    recipe = workload.recipe
    before = state or TrainingState(0.0, TrainingCost(0.0, 0.0, 0))
    batch_size = min(recipe.batch_size, len(split))
    per_epoch = steps_in(1, workload, split)
    first, last = steps_in(before.epochs_done, workload, split), steps_in(before.epochs_done + epochs, workload, split)
    total = steps_in(before.epochs_done + epochs if total_epochs is None else total_epochs, workload, split)
    if last > total:
        raise ValueError(f"{before.epochs_done} + {epochs} epochs exceed total_epochs, {total_epochs}")
    peak = recipe.learning_rate if learning_rate is None else learning_rate
    device = torch.device(workload.device)
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    module.train()
    optimizer = recipe_optimizer(module, workload)
    _give_momentum(optimizer, module, before.optimizer)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16" and bf16_is_fast(device))
    criterion = loss or recipe_loss(workload)
    order, order_epoch = np.zeros(0, dtype=np.int64), -1
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        for step in range(first, last):
            epoch, place = divmod(step, per_epoch)
            if epoch != order_epoch:
                order, order_epoch = np.random.default_rng((seed, 0, epoch)).permutation(len(split)), epoch
            random = np.random.default_rng((seed, 1, step))
            torch.manual_seed(int(random.integers(2**62)))  # for dropout and the like
            images, targets = split.batch(order[place * batch_size : (place + 1) * batch_size])
            images, targets = augment(images.to(device), targets.to(device), recipe, random)
            images = normalise(images, workload)
            rate = peak * _schedule(step, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            with during_pass(module) if during_pass else nullcontext():
                with autocast:
                    value = criterion(module(images).float(), targets, images)
                if not math.isfinite(value.item()):
                    raise TrainingDiverged(
                        f"the loss became {value.item()} in epoch {step / per_epoch:.2f} at learning rate {rate:.3g}"
                    )
                value.backward()
            optimizer.step()
            if after_step:
                after_step(module)
            if progress:
                progress(step + 1 - first, last - first)
    module.eval()
    seconds = time.perf_counter() - started
    done = TrainingCost(
        before.cost.epochs + epochs, before.cost.seconds + seconds, before.cost.images + (last - first) * batch_size
    )
    momenta = _momentum(optimizer, module)
    module.to("cpu")
    return TrainingState(before.epochs_done + epochs, done, momenta)


def steps_in(epochs: float, workload: Workload, split: Split) -> int:
    """Optimiser steps in so many epochs: the nearest whole number; an epoch leaves out the last incomplete batch."""
    per_epoch = len(split) // min(workload.recipe.batch_size, len(split))
    # The little more keeps sums such as 0.1 + 0.2 on the side of 0.3.
    return math.floor(epochs * per_epoch + 0.5 + 1e-6)


def _schedule(step: int, total: int) -> float:
    warm = int(total * _WARM_UP)
    if step < warm:
        return (step + 1) / (warm + 1)
    return (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2


def recipe_optimizer(module: nn.Module, workload: Workload) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on matrices and kernels only, not on biases and batch norm."""
    recipe = workload.recipe
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)


def _momentum(optimizer: torch.optim.SGD, module: nn.Module) -> dict[str, Any]:
    buffers = {
        name: optimizer.state[p].get("momentum_buffer") for name, p in module.named_parameters() if p in optimizer.state
    }
    return {name: buffer.cpu() for name, buffer in buffers.items() if buffer is not None}


def _give_momentum(optimizer: torch.optim.SGD, module: nn.Module, buffers: dict[str, Any]) -> None:
    for name, parameter in module.named_parameters():
        if name in buffers:
            if buffers[name].shape != parameter.shape:
                raise ValueError(
                    f"the state's momentum of {name!r} has shape {tuple(buffers[name].shape)}, "
                    f"the parameter {tuple(parameter.shape)}"
                )
            momentum = torch.empty_like(parameter, requires_grad=False).copy_(buffers[name])
            optimizer.state[parameter]["momentum_buffer"] = momentum


def recipe_loss(workload: Workload) -> Loss:
    """Cross-entropy with the recipe's label smoothing, pixels of a segmentation that are `VOID` left out."""
    ignored = VOID if workload.task == "segmentation" else -100  # -100: torch's own default, no label
    smoothing = workload.recipe.label_smoothing

    def loss(outputs: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, ignore_index=ignored, label_smoothing=smoothing)

    return loss


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bf16 rather than imitating it slowly, as CPUs without AVX-512 do."""
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
