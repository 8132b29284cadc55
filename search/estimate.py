"""How long a search would take, by the training speed of a few batches on this machine."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

from workloads import Workload, dense_is_cached, initial, train

from .evaluation import Evaluator

_BATCHES = 4
_AROUND_TRAINING = 4.0
"""Seconds of a trial beside tuning (export, measuring, accuracy), found on digits/cnn and cifar10/resnet8."""


@dataclass(frozen=True)
class Estimate:
    """Seconds."""

    dense: float
    """Training the dense network; 0 where it is in the cache or comes from a checkpoint."""
    epoch: float
    """One epoch of training."""

    def trial(self, epochs: float) -> float:
        """A trial of so many epochs, all it does."""
        return epochs * self.epoch + _AROUND_TRAINING


def tuning_seconds(evaluator: Evaluator, epochs: float) -> float:
    """Of tuning the dense network for so many epochs: by what its own training took, or by a few batches."""
    dense = evaluator.dense
    epoch = dense.cost.seconds / dense.cost.epochs if dense.cost.epochs else _epoch(dense.workload, dense.seed)
    return epochs * epoch


def estimate_seconds(evaluator: Evaluator) -> Estimate:
    """Times a few training batches of a fresh network; an upper bound, for compressed networks train faster."""
    workload, seed = evaluator.subject.open(), evaluator.subject.seed
    epoch = _epoch(workload, seed)
    return Estimate(0.0 if dense_is_cached(workload, seed) else epoch * workload.recipe.epochs, epoch)


def _epoch(workload: Workload, seed: int) -> float:
    """Seconds of an epoch of the dense network, by a few batches."""
    splits, module = workload.load(workload.data_dir), initial(workload, seed)
    steps = max(1, len(splits.train) // workload.recipe.batch_size)
    train(copy.deepcopy(module), workload, splits.train, seed=0, epochs=1 / steps)
    started = time.perf_counter()
    train(module, workload, splits.train, seed=0, epochs=_BATCHES / steps)
    return (time.perf_counter() - started) / _BATCHES * steps
