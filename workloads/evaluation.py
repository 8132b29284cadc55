"""Accuracy of anything that maps a batch to logits: a module, or an exported network in its runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from .batches import normalise, on_device
from .contract import VOID, Accuracy, Split, Workload

Predict = Callable[[Tensor], Tensor | np.ndarray]

_PIXELS_AT_ONCE = 2**17  # of a batch: ResNets at 32×32 run 1.5 to 2.5 times as fast in 128 as in 500, by the caches


def evaluate(predict: Predict, split: Split, workload: Workload, batch_size: int = 500) -> Accuracy:
    """Top-1 and top-5 of a classification (top-5 None with at most 5 classes), mIoU of a segmentation, over `split`.

    `predict` gets normalised float batches (N, C, H, W) and gives logits, (N, classes) or (N, classes, H, W). A module
    is evaluated in eval mode and left in the modes it was in. mIoU is the mean over the classes that occur in the
    labels or in the predictions, from one confusion matrix over all pixels that are not void. `batch_size` is an upper
    bound: large pictures go in smaller batches.
    """
    _, height, width = workload.input_shape
    batch_size = max(1, min(batch_size, _PIXELS_AT_ONCE // (height * width)))
    if isinstance(predict, nn.Module):
        with eval_mode(predict), on_device(predict, workload) as device:
            return _evaluate(lambda images: predict(images.to(device)), split, workload, batch_size)
    return _evaluate(predict, split, workload, batch_size)


def _evaluate(predict: Predict, split: Split, workload: Workload, batch_size: int) -> Accuracy:
    first = within_five = 0
    confusion = torch.zeros(workload.classes, workload.classes, dtype=torch.int64)
    with torch.no_grad():
        for start in range(0, len(split), batch_size):
            images, targets = split.batch(np.arange(start, min(start + batch_size, len(split))))
            logits = torch.as_tensor(predict(normalise(images, workload))).cpu()
            if workload.task == "segmentation":
                confusion += _confusion(logits.argmax(1), targets, workload.classes)
                continue
            ranked = logits.topk(min(5, workload.classes), dim=1).indices == targets[:, None]
            first += int(ranked[:, 0].sum())
            within_five += int(ranked.sum())
    if workload.task == "segmentation":
        return Accuracy(miou=mean_iou(confusion))
    return Accuracy(first / len(split), within_five / len(split) if workload.classes > 5 else None)


def _confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    counted = targets != VOID
    pairs = targets[counted] * classes + predicted[counted]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def mean_iou(confusion: Tensor) -> float:
    """Mean intersection over union of the classes that occur; `confusion` counts pixels by (label, prediction)."""
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hits
    occurs = union > 0
    return float((hits[occurs] / union[occurs]).mean()) if occurs.any() else 0.0


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every submodule gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
