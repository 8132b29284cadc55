"""Integer grids: symmetric per channel for weights, asymmetric per tensor for activations."""

from __future__ import annotations

import torch
from scipy.special import lambertw
from torch import Tensor


def quantise_weight(weight: Tensor, bits: int, clip: Tensor | None = None) -> Tensor:
    """`weight` (filters, …) on the symmetric integer grid −(2^(b−1)−1)…2^(b−1)−1 of each filter; zero stays zero.

    The grid ends at `clip` (filters,), by default the largest |w| of the filter.
    """
    top, scale = 2 ** (bits - 1) - 1, weight_scale(weight, bits, clip)[:, None]
    flat = weight.detach().flatten(1)
    return (torch.clamp(torch.round(flat / scale), -top, top) * scale).view_as(weight)


def weight_scale(weight: Tensor, bits: int, clip: Tensor | None = None) -> Tensor:
    """The step of every filter's grid, (filters,): its end ÷ (2^(b−1)−1); 1 where all is zero."""
    ends = weight.detach().flatten(1).abs().amax(1) if clip is None else clip
    scale = ends / max(2 ** (bits - 1) - 1, 1)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def laplace_clip(weight: Tensor, bits: int) -> Tensor:
    """ACIQ's clip of each filter, (filters,): a* = tβ with e^−t = t/(3·4^b), for weights taken as Laplace about zero.

    Banner et al., Post Training 4-bit Quantization of Convolutional Networks, NeurIPS 2019, section 3; t is 2.83, 3.89
    and 5.03 at 2, 3 and 4 bits; β = mean |w|. Where a* lies beyond the largest |w| and would only waste codes, the clip
    is the largest |w|.
    """
    magnitudes = weight.detach().flatten(1).abs()
    return torch.minimum(laplace_ratio(bits) * magnitudes.mean(1), magnitudes.amax(1))


def laplace_ratio(bits: int) -> float:
    """ACIQ's a*/β at so many bits: the t with t·e^t = 3·4^b."""
    return float(lambertw(3 * 4**bits).real)


def quantise_activation(values: Tensor, low: float, high: float, bits: int) -> Tensor:
    """`values` on the asymmetric grid of 2^b steps over [low, high], which is widened to hold zero exactly."""
    scale, zero = activation_scale(low, high, bits)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 2**bits - 1)


def activation_scale(low: float, high: float, bits: int) -> tuple[float, int]:
    """Step and zero point of that grid."""
    low, high = min(low, 0.0), max(high, 0.0)
    steps = 2**bits - 1
    scale = (high - low) / steps or 1.0
    return scale, int(min(max(round(-low / scale), 0), steps))
