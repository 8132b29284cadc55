"""Grids of numbers: what a number format has become for the weights or the inputs of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class IntegerGrid:
    """The values (q − zero)·scale of whole numbers q: −(2^(b−1)−1)…2^(b−1)−1 where signed, else 0…2^b−1."""

    bits: int
    scale: np.ndarray
    """float64; one a filter, shape (filters,), or one for all, shape ()."""
    zero: int = 0
    signed: bool = True


@dataclass(frozen=True)
class MinifloatGrid:
    """Minifloats of `bits` in all, sign included, of E = `exponent` exponent bits, that end at `clip`.

    Of the b − 1 − E mantissa bits none is implied twice: subnormals, no infinity and no NaN. With E = 1 it is a
    symmetric integer grid.
    """

    bits: int
    exponent: np.ndarray
    """int64; one a filter, shape (filters,), or one for all, shape ()."""
    clip: np.ndarray
    """float64, the largest value; in the same shape."""


Grid = IntegerGrid | MinifloatGrid


@dataclass(frozen=True)
class LayerGrids:
    """Of one layer; None where the numbers stay as they are."""

    weight: Grid | None = None
    activation: Grid | None = None
    """Of the layer's inputs."""


Grids = Mapping[str, LayerGrids]
"""Layer name → grids; a layer that is absent stays as it is."""
