"""Masks over weights: equal numbers of weights in every filter, or the best of the whole network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from workloads import InputError


def kept_per_filter(weights: int, sparsity: float, multiple: int = 4) -> int:
    """K = min(n, roundup((1 − s)·n, multiple)): stored weights of a filter that has `weights` of them."""
    # Rounded first, so that 1 − 0.9 = 0.09999… does not lift a filter of 40 weights from 4 to 8.
    wanted = round((1 - sparsity) * weights, 9)
    return int(min(weights, -(-wanted // multiple) * multiple))


def top_per_filter(weight: Tensor, kept: int) -> Tensor:
    """Boolean mask of `weight` (filters, …): the `kept` largest |w| of every filter; ties go to the lower index."""
    flat = weight.detach().abs().flatten(1)
    order = torch.argsort(flat, dim=1, descending=True, stable=True)[:, :kept]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True).view_as(weight)


def top_of_groups(weight: Tensor, kept: int = 2, group: int = 4) -> Tensor:
    """Boolean N:M mask of `weight` (filters, inputs, …): the `kept` largest |w| of every `group` consecutive inputs.

    Inputs are grouped at each place of the kernel, the order (filters, k, k, inputs) in which a convolution becomes a
    matrix product over channels-last maps: sparse tensor cores take 2 of 4 along that product's inner dimension
    (Mishra et al., arXiv:2104.08378, section 3). Ties go to the lower index.
    """
    blocks = weight.detach().movedim(1, -1)
    flat = blocks.reshape(-1, group)
    return top_per_filter(flat, kept).view(blocks.shape).movedim(-1, 1)


def top_global(scores: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
    """Boolean masks of exactly the `kept` highest of all scores together; ties go to the earlier layer and lower index.

    A threshold alone (`score > kth`) would prune or keep all of a tie. Raises `InputError` for scores that are NaN.
    """
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    if torch.isnan(flat).any():
        layer = next(name for name, score in scores.items() if torch.isnan(score).any())
        raise InputError(f"the scores of layer {layer!r} are not numbers: the network overflows when it is scored")
    chosen = torch.ones_like(flat, dtype=torch.bool)
    if kept < len(flat):
        lowest = np.partition(flat.numpy(), len(flat) - kept)[len(flat) - kept].item() if kept else torch.inf
        chosen = flat > lowest
        ties = (flat == lowest).nonzero().flatten()
        chosen[ties[: kept - int(chosen.sum())]] = True
    parts = chosen.split([score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def with_floor(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores (filters, …) with the best of every filter at infinity, so that none is pruned to its last weight."""
    raised = {}
    for name, score in scores.items():
        flat = score.flatten(1)
        # Of equal ones numpy takes the first, which torch does not promise.
        best = torch.from_numpy(np.argmax(flat.numpy(), axis=1))
        raised[name] = flat.scatter(1, best[:, None], torch.inf).view(score.shape)
    return raised


def prune_in_steps(
    score: Callable[[Mapping[str, Tensor], int], Mapping[str, Tensor]],
    masks: Mapping[str, Tensor],
    kept: int,
    iterations: int,
    floor: bool = False,
) -> dict[str, Tensor]:
    """The scores whose `kept` highest are the weights to keep, after `iterations` rounds of scoring and pruning.

    Round k of T leaves the density d^(k/T), d = kept ÷ all (Tanaka et al., NeurIPS 2020, algorithm 1); `score(masks,
    k)` scores what the rounds before have left. What they pruned has −∞ and never comes back. With `floor` every filter
    keeps one weight at least.
    """
    total = sum(mask.numel() for mask in masks.values())
    for k in range(1, iterations + 1):
        scores = {name: values.masked_fill(~masks[name], -torch.inf) for name, values in score(masks, k).items()}
        if floor:
            scores = with_floor(scores)
        if k < iterations:
            masks = top_global(scores, max(kept, round(total * (kept / total) ** (k / iterations))))
    return scores
