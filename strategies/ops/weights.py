"""Weights of layers, filter by filter."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def filters_first(layer: nn.Module) -> Tensor:
    """The weight of a convolution or linear layer, shape (filters, …), detached; writing to it changes the layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.data.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight.data


def draw_kaiming_normal(module: nn.Module, seed: int) -> None:
    """Draws the weights of all convolutions and linear layers anew, in place; biases become zero.

    Kaiming-normal for ReLU, fan in (He et al. 2015, section 2.2): equal seeds and shapes, equal weights.
    """
    draw = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=draw)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
