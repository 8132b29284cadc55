"""Pruning until the accuracy drops: factor, tune, then prune a step and tune, again and again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workloads import Dense, InputError, Progress, evaluate

from .base import Compressed, Strategy
from .conventional import prune_smallest
from .ops.saliency import scored_layers
from .ops.weights import filters_first


@dataclass(frozen=True)
class PruneStep:
    """The network after one tuning."""

    sparsity: float
    """Share of the weights of convolutions and linear layers that is masked, of those left after factoring."""
    weights: int
    """Weights of convolutions and linear layers that are not masked."""
    bytes: int
    """See `csr_bytes`."""
    validation: float
    """Accuracy, a fraction."""
    fine_tunes: int
    """Tunings so far."""


@dataclass(frozen=True)
class PruneResult:
    """What the loop came to."""

    last: Compressed | None
    """The network of the last step within the drop; None where the first tuning left none."""
    reached: PruneStep | None
    """That step."""
    history: tuple[PruneStep, ...]
    """All steps, the one that dropped too far included."""
    fine_tunes: int


def prune_to_drop(
    strategy: Strategy,
    dense: Dense,
    knobs: Mapping[str, Any],
    *,
    drop: float = 0.01,
    step: float = 0.2,
    tune_epochs: float = 1.0,
    max_fine_tunes: int = 20,
    progress: Progress | None = None,
) -> PruneResult:
    """Compresses, tunes for `tune_epochs`, then prunes a step and tunes until the validation accuracy falls too far.

    A step masks the share `step` of the weights that are left, the smallest of the whole network; each tuning has a
    learning-rate schedule of its own. The loop ends when the accuracy is more than `drop` (a fraction: 0.01 is a point)
    below the dense network's, or after `max_fine_tunes` tunings. A network that `compress` leaves as it was needs no
    repair: its first tuning comes after its first prune step. By method the loop stops by validation accuracy; test
    data is never read. `knobs` are those of `strategy`, whose own sparsity is left out. The size of a step and the
    restart of the schedule are [our reconstruction].
    """
    if not 0 < step < 1:
        raise InputError(f"the prune step is {step:g} of the weights left; it must lie between 0 and 1")
    compressed = strategy.compress(dense, strategy.plan(dense, {**knobs, "sparsity": 0.0}))
    least = dense.validation.primary - drop
    history: list[PruneStep] = []
    last: Compressed | None = None
    plan = compressed.plan
    changed = plan.dropped or plan.channels or any(layer.rank for layer in plan.layers.values())
    sparsity = 0.0 if changed else step
    for fine_tunes in range(1, max_fine_tunes + 1):
        if sparsity:
            prune_smallest(compressed, sparsity, {})
        strategy.tune(compressed, dense, tune_epochs, progress=progress)
        validation = evaluate(compressed.module, dense.splits.validation, dense.workload).primary
        history.append(_told(compressed, sparsity, validation, fine_tunes))
        if validation < least:
            break
        last = copy.deepcopy(compressed)
        sparsity = 1 - (1 - sparsity) * (1 - step)
    reached = [told for told in history if told.validation >= least]
    return PruneResult(last, reached[-1] if reached else None, tuple(history), len(history))


def csr_bytes(compressed: Compressed) -> int:
    """Bytes of the weights of convolutions and linear layers, every layer a matrix with one row for each filter.

    A layer is compressed sparse rows: 4 bytes for every weight that is not masked, 4 for its column, and 4 for each of
    rows + 1 row pointers; or, where that is smaller, dense with 4 bytes for every weight. Biases and batch norm are not
    counted.
    """
    total = 0
    for name, layer in scored_layers(compressed.module).items():
        weight = filters_first(layer)
        kept = int(compressed.masks[name].sum()) if name in compressed.masks else weight.numel()
        total += min(8 * kept + 4 * (len(weight) + 1), 4 * weight.numel())
    return total


def _told(compressed: Compressed, sparsity: float, validation: float, fine_tunes: int) -> PruneStep:
    weights = sum(filters_first(layer).numel() for layer in scored_layers(compressed.module).values())
    return PruneStep(sparsity, weights - round(sparsity * weights), csr_bytes(compressed), validation, fine_tunes)
