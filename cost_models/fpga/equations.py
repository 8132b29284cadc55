"""The equations of one processing block, as pure functions of NumPy arrays that broadcast against each other.

A block works on one layer: P filters × M weights of a filter × V output pixels at once. All its lanes step together, so
a group of P filters takes as many steps as its fullest filter needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PIPELINE_DEPTH = 4
"""Cycles from the issue of a step until its products are accumulated; paid once a layer, since windows follow on."""

BRAM18_SHAPES = ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36))
"""Words × bits of a BRAM18 (AMD UG573, UltraScale Architecture Memory Resources)."""
URAM_SHAPE = (4096, 72)
LUT_ROM_WORDS = 64
"""A memory of at most this many words stands in LUTs, one a bit: nobody spends block RAM on it."""
LUT_RAM_LUTS_A_BIT = 2
"""A writable memory in LUTs with a read port of its own (RAM64X1D) takes two a bit."""

Ints = Any  # an int or an integer array; NumPy's own stubs cannot say so without hiding the result's shape


def ceil_div(a: Ints, b: Ints) -> np.ndarray:
    """⌈a / b⌉ of integers, b > 0."""
    return -(-np.asarray(a, dtype=np.int64) // np.asarray(b, dtype=np.int64))


def steps(nonzeros: np.ndarray, filters: int, lanes: Ints) -> np.ndarray:
    """S(P, M): steps of a window = Σ over groups of P consecutive filters of ⌈largest number of nonzeros / M⌉.

    `nonzeros` has shape (..., F), in the order in which the filters are processed; `filters` is P, `lanes` M. The
    result has the shape of the leading axes broadcast against `lanes`. A group without nonzeros still takes a step, in
    which its outputs leave.
    """
    count = nonzeros.shape[-1]
    groups = -(-count // filters)
    padded = np.zeros((*nonzeros.shape[:-1], groups * filters), dtype=np.int64)
    padded[..., :count] = nonzeros
    fullest = np.maximum(padded.reshape(*nonzeros.shape[:-1], groups, filters).max(-1), 1)
    return ceil_div(fullest, np.asarray(lanes)[..., None]).sum(-1)


def conv_steps(
    inputs: Ints,
    filters: Ints,
    groups: Ints,
    taps: Ints,
    coarse_in: Ints,
    coarse_out: Ints,
    coarse_group: Ints,
    fine: Ints,
) -> np.ndarray:
    """Steps of a pixel of a dense convolution folded by channels, groups and taps.

    ⌈(C/g)/ci⌉·⌈(F/g)/co⌉·(g/cg)·⌈K²/fine⌉ (Venieris and Bouganis, fpgaConvNet, FCCM 2016); `inputs` is C/g, `filters`
    F/g.
    """
    return (
        ceil_div(inputs, coarse_in)
        * ceil_div(filters, coarse_out)
        * ceil_div(groups, coarse_group)
        * ceil_div(taps, fine)
    )


def stream_cycles(pixels: Ints, channels: Ints, words: Ints) -> np.ndarray:
    """Cycles in which a map of `pixels` × `channels` passes a stream of `words` words of one pixel a cycle."""
    return np.asarray(pixels, dtype=np.int64) * ceil_div(channels, words)


def index_bits(choices: Ints) -> np.ndarray:
    """⌈log2⌉: bits that tell which of the C/g·K² weights of a filter a stored one is."""
    return np.ceil(np.log2(np.maximum(np.asarray(choices, dtype=np.float64), 1))).astype(np.int64)


def bram18(depth: Ints, width: Ints) -> np.ndarray:
    """BRAM18 of a memory of `depth` words of `width` bits: the best of the primitive's shapes, repeated."""
    return np.min([ceil_div(depth, words) * ceil_div(width, bits) for words, bits in BRAM18_SHAPES], axis=0)


def uram(depth: Ints, width: Ints) -> np.ndarray:
    """URAM blocks of a memory of `depth` words of `width` bits."""
    return ceil_div(depth, URAM_SHAPE[0]) * ceil_div(width, URAM_SHAPE[1])


def rom_luts(depth: Ints, width: Ints) -> np.ndarray:
    """LUTs of a read-only memory in logic."""
    return ceil_div(depth, LUT_ROM_WORDS) * np.asarray(width, dtype=np.int64)


def ram_luts(depth: Ints, width: Ints) -> np.ndarray:
    """LUTs of a writable memory in logic with one read port beside the write port."""
    return LUT_RAM_LUTS_A_BIT * rom_luts(depth, width)


def packing(weight_bits: Ints, activation_bits: Ints) -> np.ndarray:
    """Products that one DSP can make of a shared operand: 4 up to 4 bits, 2 up to 8 bits, else 1."""
    widest = np.maximum(weight_bits, activation_bits)
    return np.where(widest <= 4, 4, np.where(widest <= 8, 2, 1))


def product_dsps(bits: Ints, other_bits: Ints) -> np.ndarray:
    """DSPs of one product of two's complement words of any width, made of 25 × 18 bit multipliers.

    All parts of a word but the topmost are unsigned, hence a bit narrower than the port (AMD UG479, 7 Series DSP48E1).
    """

    def parts(width: Ints, port: int) -> np.ndarray:
        return 1 + ceil_div(np.maximum(np.asarray(width) - port, 0), port - 1)

    return np.minimum(parts(bits, 25) * parts(other_bits, 18), parts(bits, 18) * parts(other_bits, 25))


def accumulator_bits(weight_bits: Ints, activation_bits: Ints, products: Ints) -> np.ndarray:
    """Bits of a sum of `products` products without overflow: b_w + b_a + ⌈log2 n⌉."""
    return np.asarray(weight_bits) + np.asarray(activation_bits) + index_bits(products)
