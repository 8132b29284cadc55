"""Minifloats: sign, exponent and mantissa of b bits in all, split and clipped to fit the values that they hold.

A format of b bits has E exponent and M = b − 1 − E mantissa bits, no infinity and no NaN, subnormals, and a clip c > 0
that is its largest value; the bias, 2^E − log₂c + log₂(2 − 2^−M) − 1, follows from c and need not be whole (Kuzmin et
al., FP8 Quantization: The Power of the Exponent, NeurIPS 2022, section 3). With E = 1 it is the symmetric integer grid
of b bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

RATIOS = torch.linspace(0.1, 1.2, 111, dtype=torch.float64)
"""Clips that are tried, as fractions of the largest value: every hundredth from .1 to 1.2."""
_WIDEST_EXPONENT = 6
"""Of formats beyond 8 bits as well: three bits tell E, and 2^(2^7) would leave the range of fp32."""
_OCTAVES = torch.tensor([1, 2, 4, 8, 16], dtype=torch.float64)
"""Clips of whole bias that are tried, in units of the first above .1·max|x|: the last lies above 1.2·max|x|."""
_TABLE = 2**18
"""Prefix sums held at once: they stay in a core's cache, which is twice as fast as a whole layer at 8 bits."""


def exponents(bits: int) -> range:
    """The exponent widths E of a format of `bits`: 1…max(1, b − 2)."""
    return range(1, min(max(1, bits - 2), _WIDEST_EXPONENT) + 1)


def code_points(bits: int, exponent: int) -> Tensor:
    """The values ≥ 0 of the format with clip 1, ascending from 0 to 1: float64 (2^(b−1),)."""
    mantissa = bits - 1 - exponent
    subnormal = [float(k) for k in range(2**mantissa)]
    normal = [2.0**field * (2**mantissa + k) for field in range(2**exponent - 1) for k in range(2**mantissa)]
    units = torch.tensor(subnormal + normal, dtype=torch.float64)
    return units / units[-1]


def quantise(values: Tensor, bits: int, exponent: Tensor | int, clip: Tensor | float) -> Tensor:
    """Q(x) = s·round(clamp(x, −c, c)/s) with s = 2^(ℓ−M−bias), ℓ = max(⌊log₂|x| + bias⌋, 1): the nearest code point.

    `exponent` and `clip` are numbers or broadcast against `values`. Half-way between two code points the one of even
    mantissa is taken. Zero stays zero.
    """
    # In units of the least value > 0: the first normal number, below which codes are one unit apart, and the largest.
    normals = [2.0 ** (bits - 1 - width) for width in exponents(bits)]
    largests = [2.0 ** (2**width - 2) * (2.0 ** (bits - width) - 1) for width in exponents(bits)]
    place = torch.as_tensor(exponent, device=values.device) - 1
    normal, largest = (torch.tensor(table).to(values)[place] for table in (normals, largests))
    clip = torch.as_tensor(clip, dtype=values.dtype, device=values.device)
    unit = torch.where(clip > 0, clip / largest, torch.ones_like(clip))
    scaled = torch.minimum(torch.maximum(values, -clip), clip) / unit
    step = _power_of_two_below(torch.maximum(scaled.abs(), normal)) / normal
    return torch.round(scaled / step).mul_(step).mul_(unit)


def best_split(
    values: Tensor,
    bits: int,
    ratios: Tensor = RATIOS,
    *,
    largest: Tensor | None = None,
    integer_bias: bool = False,
) -> tuple[Tensor, Tensor]:
    """E and c of every channel that minimise Σ(x − Q(x))² over `exponents(bits)` × `ratios`, exactly.

    `values` (channels, …); gives E, int64 (channels,), and c, float64 (channels,). Of equal errors the smaller E is
    taken, then the smaller c. Clips are fractions of `largest` (channels,), by default max|x|. With `integer_bias` they
    are instead those that make the bias whole, so that a scale is a shift.
    """
    magnitudes = values.detach().flatten(1).abs().double()
    largest = magnitudes.amax(1) if largest is None else largest.to(magnitudes)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    least = torch.full_like(largest, torch.inf)
    best_exponent, best_clip = torch.ones_like(largest, dtype=torch.int64), largest.clone()
    for exponent in exponents(bits):
        unit = _whole_bias(largest, bits, exponent) if integer_bias else largest
        tried = (_OCTAVES if integer_bias else ratios).to(magnitudes)
        points = code_points(bits, exponent).to(magnitudes)
        errors = clipping_errors(magnitudes / unit[:, None], points, tried)
        error, place = (errors * unit.square()[:, None]).min(1)
        better = error < least
        least = torch.where(better, error, least)
        best_exponent[better] = exponent
        best_clip = torch.where(better, tried[place] * unit, best_clip)
    return best_exponent, best_clip


def clipping_errors(magnitudes: Tensor, points: Tensor, clips: Tensor) -> Tensor:
    """Σ(x − Q(x))² for every channel and clip, (channels, clips), without quantising a value.

    `magnitudes` (channels, n) ≥ 0, code `points` ascending from 0 to 1, Q(x) the nearest of clip·points. With midpoints
    m_j between code points, Σ(x − Q(x))² = Σx² − 2·Σ_j (p_j − p_{j−1})·Σ_{x > m_j}(x − m_j). All channels have the same
    midpoints: each value is looked up among the midpoints of all clips at once, and prefix sums of how many values lie
    below a midpoint, and of these values, give the inner sums. A value at a midpoint adds nothing to them, so it does
    not matter where it would be rounded to.
    """
    midpoints, order = (clips[:, None] * ((points[1:] + points[:-1]) / 2)).flatten().sort()
    of_clip = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    errors = []
    for part in magnitudes.split(max(1, _TABLE // len(midpoints))):
        place = torch.searchsorted(midpoints, part)
        none = torch.zeros(len(part), len(midpoints) + 1, dtype=part.dtype, device=part.device)
        count = none.scatter_add(1, place, torch.ones_like(part)).cumsum(1)
        total = none.scatter_add(1, place, part).cumsum(1)
        excess = (total[:, -1:] - total[:, :-1]) - midpoints * (count[:, -1:] - count[:, :-1])
        excess = excess.index_select(1, of_clip).view(len(part), len(clips), -1)
        errors.append(part.square().sum(1, keepdim=True) - 2 * (excess @ points.diff()) * clips)
    return torch.cat(errors)


def quantise_weight(weight: Tensor, bits: int, ratios: Tensor = RATIOS, *, integer_bias: bool = False) -> Tensor:
    """`weight` (filters, …) in the minifloat of `bits` that fits each filter best; zero stays zero."""
    exponent, clip = best_split(weight, bits, ratios, integer_bias=integer_bias)
    flat = weight.detach().flatten(1)
    return quantise(flat.double(), bits, exponent[:, None], clip[:, None]).to(weight.dtype).view_as(weight)


FP8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def quantise_fp8(weight: Tensor, form: torch.dtype) -> Tensor:
    """`weight` (filters, …) in one of `FP8`, for comparison: the largest |w| of each filter becomes the largest code.

    E4M3 ends at 448, E5M2 at 57344 (Micikevicius et al., FP8 Formats for Deep Learning, 2022, table 1); scales are
    fp32.
    """
    flat = weight.detach().flatten(1)
    scale = flat.abs().amax(1, keepdim=True) / torch.finfo(form).max
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    # A quotient may exceed the largest code by a rounding, which E5M2 would take for infinity.
    scaled = (flat / scale).clamp(-torch.finfo(form).max, torch.finfo(form).max)
    return (scaled.to(form).to(weight.dtype) * scale).view_as(weight)


def _whole_bias(largest: Tensor, bits: int, exponent: int) -> Tensor:
    """The least clip (channels,) above .1·`largest` whose bias is whole: (2 − 2^−M)·2^k."""
    top = 2 - 2.0 ** -(bits - 1 - exponent)
    return top * 2 * _power_of_two_below(0.1 * largest / top)


def _power_of_two_below(values: Tensor) -> Tensor:
    """2^⌊log₂x⌋ of normal positive numbers: their exponent bits alone. Exact; a logarithm errs at powers of two."""
    if values.dtype == torch.float64:
        return (values.view(torch.int64) & 0x7FF0000000000000).view(torch.float64)
    return (values.view(torch.int32) & 0x7F800000).view(torch.float32)
