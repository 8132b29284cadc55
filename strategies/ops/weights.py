"""Weights of layers, filter by filter."""

from __future__ import annotations

from torch import Tensor, nn


def filters_first(layer: nn.Module) -> Tensor:
    """The weight of a convolution or linear layer, shape (filters, …), detached; writing to it changes the layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.data.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight.data
