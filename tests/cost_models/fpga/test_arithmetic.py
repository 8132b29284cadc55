"""The table of arithmetic is whole and sensible, Yosys says the same again, and what was measured multiplies well."""

from __future__ import annotations

import random
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import shrinkboard as sb
from cost_models.fpga import arithmetic
from workloads import InputError

INTEGERS = np.arange(1, 17)
MINIFLOATS = np.arange(3, 17)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(Path(sb.__file__).parent / "scripts"))
    import fpga_parts
    import measure_fpga_slopes

    return fpga_parts, measure_fpga_slopes


# The data


def tables() -> dict[str, np.ndarray]:
    """Every table as [weight bits, activation bits]."""
    return {
        "integers": arithmetic.multiplier_luts(INTEGERS[:, None], INTEGERS),
        "minifloat by integer": arithmetic.multiplier_luts(MINIFLOATS[:, None], INTEGERS, True),
        "minifloats": arithmetic.multiplier_luts(MINIFLOATS[:, None], MINIFLOATS, True, True),
    }


@pytest.mark.parametrize("name", tables())
def test_wider_operands_cost_more(name: str) -> None:
    """Mapping is heuristic: a product one bit wider may be a tenth cheaper, or four LUTs where that is more."""
    table = tables()[name]
    for axis in (0, 1):
        narrow, wide = (np.delete(table, place, axis) for place in (-1, 0))
        assert (wide >= np.minimum(narrow - 4, 0.9 * narrow)).all()
        # Four bits more cost more, but for an activation of 1 bit, which resets a register at no LUT's cost.
        narrow, wide = (np.delete(table, places, axis) for places in ((-1, -2, -3, -4), (0, 1, 2, 3)))
        free = (wide == 0) & (np.arange(wide.shape[1]) == 0)
        assert ((wide > narrow) | free).all()


def test_integer_products_are_nearly_symmetric() -> None:
    table = tables()["integers"][1:, 1:]
    assert np.abs(table - table.T).max() <= 0.1 * table.max()


def test_a_product_costs_at_most_its_bits_of_adders() -> None:
    """b_w·b_a partial products, each an AND that goes into an adder of one LUT a bit; a sign costs a row more."""
    weight, activation = INTEGERS[:, None], INTEGERS
    assert (tables()["integers"] <= (weight + 1) * (activation + 2) * 2).all()


def test_lanes_are_near_the_reference_slopes() -> None:
    """43, 67 and 135 LUTs at 2, 4 and 8 bits × 8, and 28 with a DSP: open-source synthesis of a zero-skip block."""
    bits = np.array([2, 4, 8])
    sums = bits + 8 + 7
    np.testing.assert_allclose(arithmetic.lane_luts(bits, 8, sums, False, True), [43, 67, 135], rtol=0.15)
    assert arithmetic.lane_luts(8, 8, 23, True, True) == pytest.approx(28, abs=4)
    assert pytest.approx(50, abs=15) == arithmetic.FIXED_LUTS


def test_lanes_are_those_of_the_measured_block() -> None:
    """The composed lane against the slope of the whole block, multipliers in LUTs and in DSPs."""
    rows = tomllib.loads((Path(arithmetic.__file__).parent / "arithmetic.toml").read_text())["block"]["rows"]
    assert len(rows) == 6
    for row in rows:
        bits = row["weight_bits"]
        luts = arithmetic.lane_luts(bits, 8, bits + 15, row["multiplier"] == "dsp", True)
        assert luts == pytest.approx(row["lane_luts"], rel=0.03)
        assert arithmetic.lane_ffs(bits, bits + 8, bits + 15) == row["lane_ffs"]


def test_minifloats_cost_more_than_integers() -> None:
    """They decode, multiply and shift; the accumulator grows with the range of the values."""
    by_integers = arithmetic.multiplier_luts(MINIFLOATS[:, None], INTEGERS, True)
    assert (by_integers[1:, 1:] > arithmetic.multiplier_luts(MINIFLOATS[1:, None], INTEGERS[1:])).all()
    assert (arithmetic.operand_luts(MINIFLOATS, True) > 0).all()
    assert arithmetic.operand_luts(8) == 0


def test_roles_of_a_minifloat_and_an_integer_can_be_swapped() -> None:
    weight_is_minifloat = arithmetic.multiplier_luts(MINIFLOATS[:, None], INTEGERS, True, False)
    activation_is_minifloat = arithmetic.multiplier_luts(INTEGERS[:, None], MINIFLOATS, False, True)
    np.testing.assert_array_equal(weight_is_minifloat, activation_is_minifloat.T)


def value(code: int, bits: int, exponent: int) -> int:
    """What a minifloat's code is in units of its least value."""
    fraction = bits - 1 - exponent
    field, mantissa = code >> fraction & (1 << exponent) - 1, code & (1 << fraction) - 1
    size = mantissa if field == 0 else (1 << fraction | mantissa) << (field - 1)
    return -size if code >> (bits - 1) else size


@pytest.mark.parametrize("bits", [3, 4, 5, 8, 10])
def test_operand_bits_hold_every_minifloat(bits: int) -> None:
    exponents = range(1, min(max(1, bits - 2), arithmetic.WIDEST_EXPONENT) + 1)
    largest = max(value(code, bits, exponent) for exponent in exponents for code in range(1 << (bits - 1)))
    assert arithmetic.operand_bits(bits, True) == 1 + largest.bit_length()
    assert arithmetic.operand_bits(bits) == bits


def test_masks_choose_element_by_element() -> None:
    mixed = arithmetic.multiplier_luts(
        [2, 8, 8, 8], [8, 8, 8, 1], [False, True, False, False], [False, False, True, False]
    )
    apart = [
        arithmetic.multiplier_luts(2, 8),
        arithmetic.multiplier_luts(8, 8, True),
        arithmetic.multiplier_luts(8, 8, False, True),
        arithmetic.multiplier_luts(8, 1),
    ]
    np.testing.assert_array_equal(mixed, apart)


@pytest.mark.parametrize(("bits", "minifloat"), [(0, False), (17, False), (2, True), (17, True)])
def test_unmeasured_widths_are_refused(bits: int, minifloat: bool) -> None:
    for refused in (arithmetic.operand_luts, arithmetic.operand_bits):
        with pytest.raises(InputError, match=rf"arithmetic of {bits} bits was not measured; integers have 1 to 16"):
            refused(np.array([8, bits]), minifloat)
    with pytest.raises(InputError, match=f"arithmetic of {bits} bits"):
        arithmetic.multiplier_luts(8, bits, False, minifloat)


def test_packing_costs_something_once_pixels_share_a_dsp() -> None:
    assert arithmetic.packing_luts(8, 8, 1) == 0
    two, four = arithmetic.packing_luts(4, 4, np.array([2, 4]))
    assert 0 < two < arithmetic.packing_luts(8, 8, 2) < four


# The measurement


@pytest.mark.skipif(shutil.which("yosys") is None, reason="Yosys is not installed")
def test_yosys_measures_the_same_again(scripts: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    parts, measure = scripts
    yosys = measure.Yosys(tmp_path)
    if yosys.version not in (Path(arithmetic.__file__).parent / "arithmetic.toml").read_text():
        pytest.skip(f"the table was made by another version than {yosys.version}")
    pairs = [(2, 8), (4, 8)]
    slopes = yosys.slopes([parts.integer_product(*pair) for pair in pairs])
    assert [slope["luts"] for slope in slopes] == [arithmetic.multiplier_luts(*pair) for pair in pairs]


def test_a_bit_that_a_carry_chain_takes_from_a_register_costs_a_lut(scripts: tuple[ModuleType, ModuleType]) -> None:
    _, measure = scripts
    cells = {
        "lut": {"type": "LUT2", "connections": {"O": [4]}},
        "chain": {"type": "CARRY4", "connections": {"S": [4, 5, "0", "x"]}},
    }
    counted = measure.primitives(cells)
    assert counted["through"] == 1
    assert measure.resources(counted)["luts"] == 2


def simulate(design: Any, rows: list[int], folder: Path) -> list[int]:
    """The outputs of a design, a clock after each of its inputs."""
    inputs, outputs = design.inputs, design.outputs
    bench = f"""
    module bench;
      reg clk = 0; reg [{inputs - 1}:0] in; wire [{outputs - 1}:0] out; part under_test(clk, in, out);
      reg [{inputs - 1}:0] rows [0:{len(rows) - 1}]; integer i;
      initial begin
        $readmemh("{folder}/rows.hex", rows);
        for (i = 0; i < {len(rows)}; i = i + 1) begin in = rows[i]; #1 clk = 1; #1 clk = 0; $display("%h", out); end
      end
    endmodule"""
    (folder / "rows.hex").write_text("\n".join(f"{row:x}" for row in rows))
    (folder / "bench.v").write_text(design.verilog("part") + bench)
    subprocess.run(["iverilog", "-o", folder / "bench", folder / "bench.v"], check=True)
    told = subprocess.run(["vvp", folder / "bench"], capture_output=True, text=True, check=True)
    return [int(line, 16) for line in told.stdout.split()]


def signed(code: int, bits: int) -> int:
    code &= (1 << bits) - 1
    return code - (1 << bits) if code >> (bits - 1) else code


needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")


@needs_icarus
@pytest.mark.parametrize("weight,activation", [(1, 1), (1, 5), (5, 1), (3, 7), (8, 8)])
def test_measured_integer_products_are_right(
    weight: int, activation: int, scripts: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    draw = random.Random(weight)
    codes = [(draw.getrandbits(weight), draw.getrandbits(activation)) for _ in range(300)]
    design = scripts[0].integer_product(weight, activation).copies(1)
    found = simulate(design, [w | a << weight for w, a in codes], tmp_path)
    for (w, a), product in zip(codes, found, strict=True):
        w_value = (1, -1)[w] if weight == 1 else signed(w, weight)
        a_value = a if activation == 1 else signed(a, activation)
        assert signed(product, weight + activation) == w_value * a_value


@needs_icarus
@pytest.mark.parametrize("bits,activation", [(3, 8), (4, 1), (6, 5), (8, 8), (13, 4)])
def test_measured_minifloat_products_are_right(
    bits: int, activation: int, scripts: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    parts, _ = scripts
    draw = random.Random(bits)
    exponents = parts.splits(bits)
    rows = [(draw.getrandbits(bits), draw.randrange(len(exponents)), draw.getrandbits(activation)) for _ in range(300)]
    design = parts.minifloat_product(bits, activation, exponents).copies(1)
    found = simulate(design, [w | split << bits | a << bits + 3 for w, split, a in rows], tmp_path)
    for (w, split, a), product in zip(rows, found, strict=True):
        a_value = a if activation == 1 else signed(a, activation)
        assert signed(product, design.outputs) == value(w, bits, exponents[split]) * a_value


@needs_icarus
@pytest.mark.parametrize("weight,activation", [(4, 8), (8, 5)])
def test_measured_products_of_two_minifloats_are_right(
    weight: int, activation: int, scripts: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    parts, _ = scripts
    draw = random.Random(weight)
    splits = (parts.splits(weight), parts.splits(activation))
    rows = [
        (draw.getrandbits(weight), draw.choice(splits[0]), draw.getrandbits(activation), draw.choice(splits[1]))
        for _ in range(300)
    ]
    design = parts.minifloat_pair_product(weight, activation).copies(1)
    inputs = [w | (e - 1) << weight | a << weight + 3 | (f - 1) << weight + 3 + activation for w, e, a, f in rows]
    for (w, e, a, f), product in zip(rows, simulate(design, inputs, tmp_path), strict=True):
        assert signed(product, design.outputs) == value(w, weight, e) * value(a, activation, f)


@needs_icarus
@pytest.mark.parametrize("bits,pixels", [(8, 2), (4, 2), (4, 4)])
def test_packed_products_are_exact(
    bits: int, pixels: int, scripts: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    parts, _ = scripts
    lane = parts.packed_four() if pixels == 4 else parts.packed_pair(bits)
    corners = [0, 1, (1 << bits - 1) - 1, 1 << bits - 1, (1 << bits) - 1]
    draw = random.Random(0)
    rows = [[draw.choice(corners) for _ in range(pixels + 1)] for _ in range(2000)]
    rows += [[draw.getrandbits(bits) for _ in range(pixels + 1)] for _ in range(2000)]
    found = simulate(lane.copies(1), [sum(code << bits * i for i, code in enumerate(row)) for row in rows], tmp_path)
    for (weight, *activations), products in zip(rows, found, strict=True):
        for i, activation in enumerate(activations):
            assert signed(products >> 2 * bits * i, 2 * bits) == signed(weight, bits) * signed(activation, bits)
