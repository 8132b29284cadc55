"""Masks over weights: equal numbers of weights in every filter."""

from __future__ import annotations

import torch
from torch import Tensor


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
