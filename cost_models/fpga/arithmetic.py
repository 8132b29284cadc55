"""LUTs and flip-flops of a block's arithmetic, as array functions over the slopes that Yosys measured.

`arithmetic.toml` says how every figure was measured. Widths are integers or integer arrays and broadcast against each
other; results are float64 arrays. A weight or an activation is a two's complement integer of 1 to 16 bits (a weight of
1 bit is −1 or +1, an activation of 1 bit is 0 or 1) or a minifloat of 3 to 16 bits.

A minifloat's split into exponent and mantissa is chosen filter by filter, so the lane decodes every split of up to
`WIDEST_EXPONENT` exponent bits: multiplication of the mantissas, shift to the left, exact sum in fixed point. Wider
exponents are not costed: each bit more doubles the shift.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

import numpy as np

from workloads import InputError

Ints = Any  # an int or an integer array, as in `equations`
Bools = Any

_DATA: Final = tomllib.loads((Path(__file__).parent / "arithmetic.toml").read_text(encoding="utf-8"))

FIXED_LUTS: Final[int] = _DATA["block"]["fixed_luts"]
"""Of a zero-skip block besides its lanes and memories: the sequencer."""
FIXED_FFS: Final[int] = _DATA["block"]["fixed_ffs"]
INDEX_LUTS: Final[int] = _DATA["block"]["index_luts"]
"""Of a lane that skips zeros: from the index of its weight to tap and channel."""
ACCUMULATOR_LUTS_A_BIT: Final[float] = _DATA["accumulator"]["luts_a_bit"]
WIDEST_EXPONENT: Final[int] = _DATA["minifloat"]["widest_exponent"]

_LEAST_INTEGER, _LEAST_MINIFLOAT, _WIDEST = 1, 3, 16
_INTEGERS: Final = np.array(_DATA["product"]["luts"])
_MINIFLOAT_BY_INTEGER: Final = np.array(_DATA["minifloat"]["luts"])
_MINIFLOATS: Final = np.array(_DATA["minifloat"]["luts_by_minifloat"])
_DECODERS: Final = np.array(_DATA["minifloat"]["decoder_luts"])
_PACKED: Final = {(row["bits"], row["pixels"]): row["luts"] for row in _DATA["packing"]["rows"]}


def lane_luts(
    weight_bits: Ints,
    activation_bits: Ints,
    accumulator_bits: Ints,
    dsp: Bools,
    sparse: Bools,
    weight_minifloat: Bools = False,
    activation_minifloat: Bools = False,
) -> np.ndarray:
    """LUTs of one lane: its product (in a DSP where `dsp`), its accumulator, and its index where it skips zeros."""
    in_dsp = operand_luts(weight_bits, weight_minifloat) + operand_luts(activation_bits, activation_minifloat)
    in_luts = multiplier_luts(weight_bits, activation_bits, weight_minifloat, activation_minifloat)
    return np.where(dsp, in_dsp, in_luts) + accumulator_luts(accumulator_bits) + np.where(sparse, INDEX_LUTS, 0)


def lane_ffs(weight_bits: Ints, product_bits: Ints, accumulator_bits: Ints) -> np.ndarray:
    """Flip-flops of a lane: the weight that waits for its activation, the product, the sum."""
    return np.asarray(weight_bits) + np.asarray(product_bits) + np.asarray(accumulator_bits, dtype=np.float64)


def multiplier_luts(
    weight_bits: Ints, activation_bits: Ints, weight_minifloat: Bools = False, activation_minifloat: Bools = False
) -> np.ndarray:
    """LUTs of one exact product without DSPs, decoding of minifloats included.

    Raises `InputError` for widths that the formats do not have.
    """
    weight, activation, mf_weight, mf_activation = np.broadcast_arrays(
        weight_bits, activation_bits, weight_minifloat, activation_minifloat
    )
    _check(weight, mf_weight)
    _check(activation, mf_activation)
    integers = _INTEGERS[weight - _LEAST_INTEGER, activation - _LEAST_INTEGER]
    # Where the operand is an integer these positions mean nothing; clipped, they are not taken.
    weight_row = np.maximum(weight - _LEAST_MINIFLOAT, 0)
    activation_row = np.maximum(activation - _LEAST_MINIFLOAT, 0)
    return np.select(
        [mf_weight & mf_activation, mf_weight, mf_activation],
        [
            _MINIFLOATS[weight_row, activation_row],
            _MINIFLOAT_BY_INTEGER[weight_row, activation - _LEAST_INTEGER],
            _MINIFLOAT_BY_INTEGER[activation_row, weight - _LEAST_INTEGER],
        ],
        integers,
    )


def operand_luts(bits: Ints, minifloat: Bools = False) -> np.ndarray:
    """LUTs that make an operand fit for a DSP: none for an integer, a decoder for a minifloat."""
    bits, minifloat = np.broadcast_arrays(bits, minifloat)
    _check(bits, minifloat)
    return np.where(minifloat, _DECODERS[np.maximum(bits - _LEAST_MINIFLOAT, 0)], 0.0)


def operand_bits(bits: Ints, minifloat: Bools = False) -> np.ndarray:
    """Two's complement width of an operand as an integer: of a minifloat, in units of its least value.

    A minifloat of b bits with E for its exponent reaches 2^(b − E + 2^E − 2) units; the widest split counts.
    """
    bits, minifloat = np.broadcast_arrays(bits, minifloat)
    _check(bits, minifloat)
    exponents = np.arange(1, WIDEST_EXPONENT + 1)
    sizes = bits[..., None] - exponents + 2**exponents - 2
    allowed = exponents <= np.maximum(bits[..., None] - 2, 1)
    return np.where(minifloat, 1 + np.where(allowed, sizes, 0).max(-1), bits)


def accumulator_luts(bits: Ints) -> np.ndarray:
    """LUTs of a sum of `bits` to which a product is added every cycle; also those of one adder of an adder tree."""
    return ACCUMULATOR_LUTS_A_BIT * np.asarray(bits, dtype=np.float64)


def packing_luts(weight_bits: Ints, activation_bits: Ints, pixels: Ints) -> np.ndarray:
    """LUTs around one DSP that multiplies `pixels` by one weight: they join the pixels and part the products.

    `pixels` is 1, 2 at up to 8 bits, or 3 to 4 at up to 4 bits; two filters that share an activation cost the same.
    """
    narrow = np.maximum(weight_bits, activation_bits) <= 4
    two = np.where(narrow, _PACKED[4, 2], _PACKED[8, 2])
    return np.select([np.less(pixels, 2), np.less(pixels, 3)], [0.0, two], _PACKED[4, 4])


def _check(bits: np.ndarray, minifloat: np.ndarray) -> None:
    least = np.where(minifloat, _LEAST_MINIFLOAT, _LEAST_INTEGER)
    wrong = (bits < least) | (bits > _WIDEST)
    if wrong.any():
        raise InputError(
            f"arithmetic of {bits[wrong].flat[0]} bits was not measured; integers have 1 to {_WIDEST} bits, "
            f"minifloats {_LEAST_MINIFLOAT} to {_WIDEST}"
        )
