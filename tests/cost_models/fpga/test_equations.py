"""The block's equations against loops that count, and against what FINN and fpgaConvNet say of one layer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.fpga import equations as eq

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=24)
SMALL = st.integers(1, 12)


def counted_steps(nonzeros: list[int], filters: int, lanes: int) -> int:
    """A step at a time: every filter of a group has `lanes` weights taken until the group has none left."""
    taken = 0
    for start in range(0, len(nonzeros), filters):
        left = list(nonzeros[start : start + filters])
        taken += 1
        while max(left) > lanes:
            left = [max(count - lanes, 0) for count in left]
            taken += 1
    return taken


@given(COUNTS, st.integers(1, 30), st.integers(1, 70))
def test_steps_are_those_of_a_loop_over_groups(nonzeros: list[int], filters: int, lanes: int) -> None:
    assert eq.steps(np.array(nonzeros), filters, lanes) == counted_steps(nonzeros, filters, lanes)


@given(COUNTS, st.integers(1, 30), st.lists(st.integers(1, 70), min_size=1, max_size=5))
def test_steps_broadcast_over_candidates_and_lanes(nonzeros: list[int], filters: int, lanes: list[int]) -> None:
    stacked = np.array([nonzeros, nonzeros[::-1]])
    found = eq.steps(stacked[:, None], filters, np.array(lanes)[None])
    assert found.tolist() == [
        [counted_steps(list(row), filters, one) for one in lanes] for row in (nonzeros, nonzeros[::-1])
    ]


@given(COUNTS, st.integers(1, 30), st.integers(1, 70))
def test_sorted_filters_never_take_longer(nonzeros: list[int], filters: int, lanes: int) -> None:
    natural, ordered = (eq.steps(np.array(one), filters, lanes) for one in (nonzeros, sorted(nonzeros, reverse=True)))
    assert ordered <= natural


@given(COUNTS, st.integers(1, 30))
def test_equal_filters_in_full_groups_never_take_longer(nonzeros: list[int], filters: int) -> None:
    full = np.sort(nonzeros * filters)
    equal = np.full(len(full), full.sum() // len(full))
    assert eq.steps(equal, filters, 1) <= eq.steps(full, filters, 1)


@given(SMALL, SMALL, st.integers(1, 6), st.integers(1, 9), SMALL, SMALL, st.integers(1, 6), st.integers(1, 9))
def test_conv_steps_are_those_of_nested_loops(
    inputs: int, filters: int, groups: int, taps: int, coarse_in: int, coarse_out: int, coarse_group: int, fine: int
) -> None:
    counted = 0
    for _ in range(0, groups, coarse_group):
        for _ in range(0, filters, coarse_out):
            for _ in range(0, inputs, coarse_in):
                for _ in range(0, taps, fine):
                    counted += 1
    assert eq.conv_steps(inputs, filters, groups, taps, coarse_in, coarse_out, coarse_group, fine) == counted


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_a_stream_takes_a_cycle_for_every_handful_of_words(pixels: int, channels: int, words: int) -> None:
    counted = sum(1 for _ in range(pixels) for _ in range(0, channels, words))
    assert eq.stream_cycles(pixels, channels, words) == counted


@given(st.integers(-1000, 1000), st.integers(1, 50))
def test_division_rounds_up(a: int, b: int) -> None:
    assert eq.ceil_div(a, b) == math.ceil(a / b)


@given(st.integers(1, 40_000), st.integers(1, 300))
def test_block_rams_are_the_fewest_of_any_one_shape(depth: int, width: int) -> None:
    fewest = math.inf
    for words, bits in ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36)):
        tiles = 0
        for _ in range(0, depth, words):
            for _ in range(0, width, bits):
                tiles += 1
        fewest = min(fewest, tiles)
    assert eq.bram18(depth, width) == fewest
    # Less than 18 Kib holds no more.
    assert fewest * 18 * 1024 >= depth * width


@given(st.integers(1, 40_000), st.integers(1, 300))
def test_ultra_rams_and_memories_in_logic_hold_what_they_must(depth: int, width: int) -> None:
    assert eq.uram(depth, width) == math.ceil(depth / 4096) * math.ceil(width / 72)
    assert eq.rom_luts(depth, width) * 64 >= depth * width
    assert eq.rom_luts(depth, width) == len(range(0, depth, 64)) * width
    assert eq.ram_luts(depth, width) == 2 * eq.rom_luts(depth, width)


@given(st.integers(1, 5000))
def test_index_bits_tell_all_choices_apart(choices: int) -> None:
    bits = int(eq.index_bits(choices))
    assert 2**bits >= choices
    assert bits == 0 or 2 ** (bits - 1) < choices


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 5000))
def test_accumulators_hold_every_sum_and_are_tight_in_bits_of_the_count(
    weight: int, activation: int, count: int
) -> None:
    bits = int(eq.accumulator_bits(weight, activation, count))
    assert -(2 ** (bits - 1)) <= -(2 ** (weight - 1)) * (2 ** (activation - 1)) * count
    assert 2 ** (weight - 1) * 2 ** (activation - 1) * count <= 2 ** (bits - 1) - 1
    assert bits == weight + activation + math.ceil(math.log2(count))


@given(st.integers(1, 16), st.integers(1, 16))
def test_packing_goes_by_the_wider_operand(weight: int, activation: int) -> None:
    widest = max(weight, activation)
    assert eq.packing(weight, activation) == (4 if widest <= 4 else 2 if widest <= 8 else 1)


def cut(width: int, port: int) -> int:
    """Parts of a two's complement word for a signed port: the top one signed, those below unsigned, a bit narrower."""
    parts = 1
    while width > port:
        width -= port - 1
        parts += 1
    return parts


@given(st.integers(1, 80), st.integers(1, 80))
def test_wide_products_take_a_dsp_for_every_pair_of_parts(a: int, b: int) -> None:
    assert eq.product_dsps(a, b) == min(cut(a, 25) * cut(b, 18), cut(a, 18) * cut(b, 25))
    assert eq.product_dsps(a, b) == eq.product_dsps(b, a)


@pytest.mark.parametrize(
    ("a", "b", "dsps"), [(8, 9, 1), (25, 18, 1), (18, 25, 1), (24, 24, 2), (26, 18, 2), (35, 25, 2)]
)
def test_a_dsp_multiplies_25_by_18_bits(a: int, b: int, dsps: int) -> None:
    assert eq.product_dsps(a, b) == dsps


def test_finn_and_fpgaconvnet_on_one_layer() -> None:
    """64→64, 3×3, 32×32 at 128 products a cycle: 294,912 cycles, and 29 BRAM18 for the weights of 8 bits."""
    steps = eq.steps(np.full(64, 576), 16, 8)
    assert 32 * 32 * steps == 294_912
    assert eq.bram18(steps, 128 * 8) == 29
    assert 32 * 32 * eq.conv_steps(64, 64, 1, 9, 8, 16, 1, 1) == 294_912
    assert [128 // int(eq.packing(bits, bits)) for bits in (8, 4)] == [64, 32]
