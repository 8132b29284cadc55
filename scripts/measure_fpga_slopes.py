"""What the arithmetic of an FPGA block costs in look-up tables (LUTs) and flip-flops (FFs), synthesised with Yosys.

    python scripts/measure_fpga_slopes.py --work DIR

Writes cost_models/fpga/arithmetic.toml and the page docs/results/fpga_slopes.md. A cost is a slope: what N more copies
add to N copies, divided by N, so that whatever is there once drops out. `--work` keeps what is synthesised; a second
run goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from fpga_parts import (
    NONZEROS,
    WIDEST_EXPONENT,
    Design,
    Lane,
    accumulator,
    adder,
    block,
    fifo,
    integer_product,
    lane_sum,
    maximum,
    memory,
    minifloat_decoder,
    minifloat_pair_product,
    minifloat_product,
    multiplexer,
    narrowing,
    packed_four,
    packed_pair,
    rom,
    splits,
    value_bits,
    widening,
)

ROOT = Path(__file__).resolve().parents[1]
RTL_FILES = ("zero_skip_block.v", "mac_array.v", "packed_multiplier.v", "sequencer.v")
RTL = tuple(ROOT / "cost_models/fpga/rtl" / name for name in RTL_FILES)
FABRIC = "-family xcup -nodsp -nowidelut"
"""No DSPs, and no 7- to 9-input functions built of four to eight LUT6: the mapper counts those as one LUT."""
WITH_DSP = "-family xcup -nowidelut"
LUTS = tuple(f"LUT{inputs}" for inputs in range(1, 7))
SHIFT_REGISTERS = {"SRL16E": 1, "SRLC32E": 1}
LUT_RAMS = {"RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4}
LUTS_OF = {**dict.fromkeys(LUTS, 1), "through": 1, **SHIFT_REGISTERS, **LUT_RAMS}
FLIP_FLOPS = ("FDRE", "FDSE", "FDCE", "FDPE")
WIDTHS = range(1, 17)
MINIFLOATS = range(3, 17)
SPEC_LANES = {2: 43, 4: 67, 8: 135}
BATCH = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of what is synthesised already")
    parser.add_argument("--out", type=Path, default=ROOT / "cost_models/fpga/arithmetic.toml")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/results/fpga_slopes", help="PAGE.md, .svg and .png")
    arguments = parser.parse_args()
    yosys = Yosys(arguments.work)
    found = {}
    for name, part in PARTS.items():
        print(f"{name}: {len(found) + 1} of {len(PARTS)}", file=sys.stderr, flush=True)
        found[name] = part(yosys)
    arguments.out.write_text(toml(yosys.version, found), encoding="utf-8")
    write_page(arguments.page, yosys.version, found)


class Yosys:
    """Synthesises designs, many in one run since a run takes seconds to start, and keeps what it counted."""

    def __init__(self, work: Path) -> None:
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        self.version = subprocess.run(["yosys", "-V"], capture_output=True, text=True, check=True).stdout.split(" (")[0]

    def counts(self, designs: Sequence[Design], flags: str, sources: Sequence[Path] = ()) -> list[dict[str, int]]:
        """The primitives that every design is made of: kind → number, and `through`, as `primitives` says.

        `sources` are Verilog files of modules that the designs use.
        """
        found: list[dict[str, int]] = []
        for start in range(0, len(designs), BATCH):
            found += self._batch(designs[start : start + BATCH], flags, sources)
        return found

    def slopes(self, lanes: Sequence[Lane], flags: str = FABRIC, copies: int = 2) -> list[dict[str, float]]:
        """What one more of every lane takes, as `resources` says."""
        designs = [lane.copies(count) for lane in lanes for count in (copies, 2 * copies)]
        counted = [resources(cells) for cells in self.counts(designs, flags)]
        return [difference(few, many, copies) for few, many in zip(counted[::2], counted[1::2], strict=True)]

    def _batch(self, designs: Sequence[Design], flags: str, sources: Sequence[Path]) -> list[dict[str, int]]:
        text = batch_verilog(designs)
        key = "\n".join([self.version, flags, text, *(source.read_text() for source in sources)])
        kept = self.work / (hashlib.sha256(key.encode()).hexdigest()[:20] + ".json")
        if not kept.exists():
            batch, netlist = self.work / "batch.v", self.work / "netlist.json"
            batch.write_text(text)
            # -flatten dissolves the parts of a design; the designs themselves stay, by their attribute.
            script = "".join(f"read_verilog -defer {source}; " for source in sources) + f"read_verilog {batch}; "
            script += "setattr -mod -set keep_hierarchy 1 d*; "
            script += f"synth_xilinx {flags} -noiopad -flatten -top top; write_json {netlist}"
            done = subprocess.run(["yosys", "-q", "-p", script], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"yosys failed: {done.stderr.strip().splitlines()[-1:]}")
            modules = json.loads(netlist.read_text())["modules"]
            kept.write_text(json.dumps([primitives(modules[f"d{i}"]["cells"]) for i in range(len(designs))]))
            print(f"{len(designs)} designs synthesised, {flags}", file=sys.stderr, flush=True)
        return json.loads(kept.read_text())


def batch_verilog(designs: Sequence[Design]) -> str:
    """All designs as modules d0, d1, …, and a module `top` that has one of each."""
    text, instances = "", ""
    inputs = outputs = 0
    for i, design in enumerate(designs):
        text += design.verilog(f"d{i}")
        instances += (
            f"d{i} u{i}(.clk(clk), .in(in[{inputs} +: {design.inputs}]), .out(out[{outputs} +: {design.outputs}]));\n"
        )
        inputs += design.inputs
        outputs += design.outputs
    return text + Design(inputs, outputs, instances).verilog("top")


def primitives(cells: Mapping[str, Any]) -> dict[str, int]:
    """Primitives of a netlist by kind; `through`: LUTs that only pass a bit into a carry chain.

    A slice reaches its carry chain through LUTs alone, so that such a bit takes one although the netlist has none.
    """
    found = Counter(cell["type"] for cell in cells.values())
    given = {bit for cell in cells.values() if cell["type"] in LUTS for bit in cell["connections"]["O"]}
    for cell in cells.values():
        if cell["type"] == "CARRY4":
            found["through"] += sum(isinstance(bit, int) and bit not in given for bit in cell["connections"]["S"])
    return dict(found)


def resources(cells: Mapping[str, int]) -> dict[str, float]:
    """LUTs (inverters are free: they go into what they feed), FFs, DSPs and block RAMs (a RAMB36 is two RAMB18)."""
    rams = {kind: 2 if kind.startswith("RAMB36") else 1 for kind in cells if kind.startswith("RAMB")}
    return {
        "luts": sum(number * cells.get(kind, 0) for kind, number in LUTS_OF.items()),
        "ffs": sum(cells.get(kind, 0) for kind in FLIP_FLOPS),
        "dsps": sum(number for kind, number in cells.items() if kind.startswith("DSP48")),
        "ramb18": sum(number * cells[kind] for kind, number in rams.items()),
    }


def difference(few: Mapping[str, float], many: Mapping[str, float], copies: int) -> dict[str, float]:
    return {kind: (many[kind] - few[kind]) / copies for kind in few}


# Measurements


def measure_product(yosys: Yosys) -> dict[str, Any]:
    pairs = [(weight, activation) for weight in WIDTHS for activation in WIDTHS]
    found = yosys.slopes([integer_product(*pair) for pair in pairs])
    return {
        "source": "slope from 2 to 4 products of two's complement integers, registered; row: weight bits 1 to 16, "
        "column: activation bits 1 to 16. A weight of 1 bit is -1 or +1; an activation of 1 bit is 0 or 1 and resets "
        "the register, without a LUT.",
        "luts": table(pairs, found),
    }


def measure_accumulator(yosys: Yosys) -> dict[str, Any]:
    widths = (12, 16, 24, 32, 48)
    found = yosys.slopes([accumulator(bits) for bits in widths])
    return {
        "source": "slope from 2 to 4 sums that start anew with a flag, LUTs a bit; the same at all widths tried",
        "widths": list(widths),
        "luts": [slope["luts"] for slope in found],
        "luts_a_bit": only(slope["luts"] / bits for slope, bits in zip(found, widths, strict=True)),
    }


def measure_minifloat(yosys: Yosys) -> dict[str, Any]:
    pairs = [(bits, activation) for bits in MINIFLOATS for activation in WIDTHS]
    by_integers = yosys.slopes([minifloat_product(b, a, splits(b)) for b, a in pairs], copies=1)
    both = [(weight, activation) for weight in MINIFLOATS for activation in MINIFLOATS]
    # The product is symmetric.
    half = [(weight, activation) for weight, activation in both if weight <= activation]
    halves = dict(zip(half, yosys.slopes([minifloat_pair_product(*pair) for pair in half], copies=1), strict=True))
    by_minifloats = [halves[min(pair), max(pair)] for pair in both]
    decoders = yosys.slopes([minifloat_decoder(bits) for bits in MINIFLOATS])
    return {
        "source": "slope from 1 to 2 exact products, registered: the code is decoded (subnormals, no Inf or NaN), "
        "the mantissas are multiplied and the product is shifted left. The split into exponent and mantissa is chosen "
        f"at run time, filter by filter, between exponents of 1 to min({WIDEST_EXPONENT}, bits - 2) bits. Rows: weight "
        "bits 3 to 16; columns of luts: activation bits 1 to 16 (two's complement; 1 bit: 0 or 1), of "
        "luts_by_minifloat: minifloat activations of 3 to 16 bits, their split chosen at run time as well (an upper "
        "bound: it is the same for a whole layer).",
        "widest_exponent": WIDEST_EXPONENT,
        "luts": table(pairs, by_integers),
        "luts_by_minifloat": table(both, by_minifloats),
        "decoder_source": "slope from 2 to 4 decoders from a minifloat of 3 to 16 bits to the integer for a DSP",
        "decoder_luts": [slope["luts"] for slope in decoders],
    }


def measure_minifloat_splits(yosys: Yosys) -> dict[str, Any]:
    cases = [(bits, exponent) for bits in range(3, 9) for exponent in splits(bits, 5)]
    fixed = yosys.slopes([minifloat_product(b, 8, (e,)) for b, e in cases])
    chosen = yosys.slopes([minifloat_product(b, 8, splits(b, e)) for b, e in cases])
    return {
        "source": "products of a minifloat and an integer of 8 bits. fixed: every weight has this exponent width; "
        "chosen: all widths up to this one, at run time. value_bits: two's complement width of the chosen ones.",
        "rows": [
            {
                "bits": bits,
                "exponent": exponent,
                "fixed_luts": one["luts"],
                "chosen_luts": any_["luts"],
                "value_bits": value_bits(bits, splits(bits, exponent)),
            }
            for (bits, exponent), one, any_ in zip(cases, fixed, chosen, strict=True)
        ],
    }


def measure_block(yosys: Yosys) -> dict[str, Any]:
    rows = []
    for flags, multiplier in ((FABRIC, "lut"), (WITH_DSP, "dsp")):
        designs = [block(filters, weight, yosys.work) for weight in SPEC_LANES for filters in (4, 8)]
        counted = [resources(cells) for cells in yosys.counts(designs, flags, RTL)]
        for weight, few, many in zip(SPEC_LANES, counted[::2], counted[1::2], strict=True):
            lane = difference(few, many, 4)
            rows.append(
                {
                    "multiplier": multiplier,
                    "weight_bits": weight,
                    **{f"lane_{kind}": lane[kind] for kind in ("luts", "ffs", "dsps")},
                    **{f"fixed_{kind}": few[kind] - 4 * lane[kind] for kind in ("luts", "ffs")},
                }
            )
    odd = [block(filters, 8, yosys.work, channels=60) for filters in (4, 8)]
    few, many = (resources(cells) for cells in yosys.counts(odd, WITH_DSP, RTL))
    with_dsp = {row["weight_bits"]: row["lane_luts"] for row in rows if row["multiplier"] == "dsp"}
    return {
        "source": "zero_skip_block of cost_models/fpga/rtl with 4 and 8 lanes (one nonzero a filter, 64 channels, 3x3, "
        f"activations of 8 unsigned bits, sums for {NONZEROS} nonzeros), weights in block RAM: slope a lane, and "
        "what is left for the sequencer (fixed: the median). index_luts: of a lane with DSP besides its accumulator, "
        "for the index of its weight; with 60 channels, no power of two, each tap needs a comparator.",
        "index_luts": round(median(luts - lane_sum(weight, 8) for weight, luts in with_dsp.items())),
        "index_luts_60_channels": round(difference(few, many, 4)["luts"] - lane_sum(8, 8)),
        "fixed_luts": round(median(row["fixed_luts"] for row in rows)),
        "fixed_ffs": round(median(row["fixed_ffs"] for row in rows)),
        "rows": rows,
    }


def measure_packing(yosys: Yosys) -> dict[str, Any]:
    pair, narrow_pair, four = yosys.slopes([packed_pair(8), packed_pair(4), packed_four()], WITH_DSP)
    return {
        "source": "slope from 2 to 4 DSPs that multiply several pixels by one weight, exactly: LUTs and FFs around one "
        "DSP to join the pixels and to part the products; the product register counts as FFs since the flow leaves it "
        "outside the DSP. Accumulators not counted.",
        "rows": [
            {"bits": bits, "pixels": pixels, **{kind: slope[kind] for kind in ("luts", "ffs", "dsps")}}
            for bits, pixels, slope in ((8, 2, pair), (4, 2, narrow_pair), (4, 4, four))
        ],
    }


def measure_small(yosys: Yosys) -> dict[str, Any]:
    widths = (4, 8, 16)
    sums, greatest = (yosys.slopes([lane(bits) for bits in widths]) for lane in (adder, maximum))
    ways = range(2, 13)
    picked = yosys.slopes([multiplexer(way) for way in ways])
    return {
        "source": "slopes from 2 to 4: sums (add layers), the greater of two (max pooling) at 4, 8 and 16 bits; one "
        "word of 8 bits out of 2 to 12 (bank of the line buffer)",
        "adder_luts": [slope["luts"] for slope in sums],
        "maximum_luts": [slope["luts"] for slope in greatest],
        "multiplexer_luts_a_bit": [slope["luts"] / 8 for slope in picked],
    }


def measure_streams(yosys: Yosys) -> dict[str, Any]:
    rows = []
    for name, make, sizes, (few_bits, many_bits) in (
        ("fifo", lambda words, bits: fifo(words, bits), (16, 32, 64, 128), (24, 48)),
        ("narrowing", lambda words, bits: narrowing(words, bits // words), (4, 8), (32, 64)),
        ("widening", lambda words, bits: widening(words, bits // words), (4, 8), (32, 64)),
    ):
        cells = yosys.counts([make(words, bits) for words in sizes for bits in (few_bits, many_bits)], FABRIC)
        counted = [resources(c) for c in cells]
        for words, few, many in zip(sizes, counted[::2], counted[1::2], strict=True):
            a_bit = difference(few, many, many_bits - few_bits)
            rows.append(
                {
                    "part": name,
                    "words": words,
                    "luts_a_bit": a_bit["luts"],
                    "ffs_a_bit": a_bit["ffs"],
                    "fixed_luts": few["luts"] - few_bits * a_bit["luts"],
                    "fixed_ffs": few["ffs"] - few_bits * a_bit["ffs"],
                }
            )
    return {
        "source": "slope over the width. fifo: words deep, from 24 to 48 bits, in the LUTs' memory. narrowing and "
        "widening: from or to this many words, a bit of all words together, from 32 to 64 bits.",
        "rows": rows,
    }


def measure_rom(yosys: Yosys) -> dict[str, Any]:
    depths = (16, 32, 64, 128, 256, 512)
    designs = [rom(words, bits) for words in depths for bits in (16, 32)]
    found: dict[str, list[float]] = {}
    for name, flags in (("luts_a_bit", "-family xcup -nobram"), ("luts_a_bit_without_muxf", FABRIC + " -nobram")):
        counted = [resources(cells)["luts"] for cells in yosys.counts(designs, flags)]
        found[name] = [(many - few) / 16 for few, many in zip(counted[::2], counted[1::2], strict=True)]
    return {
        "source": "random constants, slope from 16 to 32 bits; with and without the slices' MUXF7 to MUXF9, which join "
        "LUTs without taking one",
        "words": list(depths),
        **found,
    }


def measure_memory(yosys: Yosys) -> dict[str, Any]:
    sizes = [(512, 36), (512, 72), (1024, 18), (1024, 36), (2048, 9), (288, 1024), (576, 8), (640, 16), (1024, 12)]
    sizes += [(4096, 4), (4096, 8), (3000, 16), (8192, 2), (16384, 1)]
    counted = yosys.counts([memory(*size) for size in sizes], FABRIC)
    return {
        "source": "block RAM that the flow chooses for one port to write and one to read, in RAMB18 (a RAMB36 is two), "
        "and LUTs around it; rule: the fewest RAMB18 of one shape",
        "rows": [
            {
                "words": words,
                "bits": bits,
                "ramb18": resources(cells)["ramb18"],
                "rule": ramb18(words, bits),
                "luts": resources(cells)["luts"],
            }
            for (words, bits), cells in zip(sizes, counted, strict=True)
        ],
    }


def measure_flows(yosys: Yosys) -> dict[str, Any]:
    """The same products through other options of the flow: how far the choice of a flow moves the slopes."""
    lanes = [integer_product(weight, 8) for weight in SPEC_LANES]
    flows = (FABRIC, "-family xcup -nodsp", "-family xcup -nodsp -abc9", "-family xc7 -nodsp -nowidelut")
    return {
        "source": "LUTs of a product at weights of 2, 4 and 8 bits x activations of 8, by options of synth_xilinx",
        "rows": [{"flags": flags, "luts": [slope["luts"] for slope in yosys.slopes(lanes, flags)]} for flags in flows],
    }


PARTS = {
    "flows": measure_flows,
    "accumulator": measure_accumulator,
    "block": measure_block,
    "packing": measure_packing,
    "small": measure_small,
    "streams": measure_streams,
    "rom": measure_rom,
    "memory": measure_memory,
    "minifloat_splits": measure_minifloat_splits,
    "product": measure_product,
    "minifloat": measure_minifloat,
}


def table(pairs: Sequence[tuple[int, int]], found: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """LUTs of all pairs, a row for every first member."""
    rows: dict[int, list[float]] = {}
    for (first, _), slope in zip(pairs, found, strict=True):
        rows.setdefault(first, []).append(slope["luts"])
    return list(rows.values())


def only(values: Any) -> float:
    """The one value that all of them are."""
    (value,) = set(values)
    return value


def ramb18(words: int, bits: int) -> int:
    """RAMB18 by the primitive's aspect ratios."""
    shapes = ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36))
    return min(-(-words // depth) * -(-bits // width) for depth, width in shapes)


# Data file and page


def toml(version: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "# What the arithmetic of a block costs. Written by scripts/measure_fpga_slopes.py: change that, not this.",
        "# Open-source synthesis, not placed and not routed: use the figures as slopes; vendors' tools differ.",
        "schema = 1",
        f'tool = "{version}"',
        f'flow = "synth_xilinx {FABRIC} -noiopad"',
    ]
    for name, part in found.items():
        rows = part.get("rows", [])
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml_value(value)}" for key, value in part.items() if key != "rows"]
        if rows:
            lines += ["rows = [", *(f"    {_toml_value(row)}," for row in rows), "]"]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + "".join(f"    {_toml_value(row)},\n" for row in value) + "]"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return f"{value:g}"


def write_page(page: Path, version: str, found: Mapping[str, Any]) -> None:
    page.with_suffix(".md").write_text(page_text(page.name, version, found), encoding="utf-8")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "shrinkboard"
    plt.figure(figsize=(8, 5), layout="constrained")
    integers = [lane_at_8_bits(found, bits) for bits in WIDTHS]
    minifloats = [lane_at_8_bits(found, bits, minifloat=True) for bits in MINIFLOATS]
    plt.plot(WIDTHS, integers, "o-", label="integer")
    plt.plot(MINIFLOATS, minifloats, "s-", label=f"minifloat, exponents of up to {WIDEST_EXPONENT} bits")
    plt.plot(WIDTHS, [lane_sum(bits, 8) for bits in WIDTHS], ":", label="of these, accumulator of the integers")
    rtl = {row["weight_bits"]: row["lane_luts"] for row in found["block"]["rows"] if row["multiplier"] == "lut"}
    plt.plot(rtl.keys(), rtl.values(), "r+", markersize=12, label="whole block in Verilog, slope")
    plt.plot(SPEC_LANES.keys(), SPEC_LANES.values(), "kx", label="earlier slopes")
    plt.xlabel("weight bits")
    plt.ylabel("LUTs of a lane without DSP, activations of 8 bits")
    plt.grid(alpha=0.3)
    plt.legend()
    plt.savefig(page.with_suffix(".svg"), metadata={"Date": None})
    plt.savefig(page.with_suffix(".png"), dpi=120)
    plt.close()


def page_text(name: str, version: str, found: Mapping[str, Any]) -> str:
    block_rows = {(row["multiplier"], row["weight_bits"]): row for row in found["block"]["rows"]}
    index, with_comparators = found["block"]["index_luts"], found["block"]["index_luts_60_channels"]
    lanes = [
        [f"W{bits} × A8, no DSP", spec, block_rows["lut", bits]["lane_luts"], lane_at_8_bits(found, bits) + index]
        for bits, spec in SPEC_LANES.items()
    ]
    lanes += [["W8 × A8, DSP", 28, block_rows["dsp", 8]["lane_luts"], lane_sum(8, 8) + index]]
    lanes += [["fixed, a block", 50, found["block"]["fixed_luts"], found["block"]["fixed_luts"]]]
    widths = (1, 2, 4, 8, 16)
    corner = [[f"W{w}", *(found["product"]["luts"][w - 1][a - 1] for a in widths)] for w in widths]
    minifloats = [
        [
            f"{bits} bits",
            lane_at_8_bits(found, bits),
            lane_at_8_bits(found, bits, minifloat=True),
            lane_at_8_bits(found, bits, minifloat=True) / lane_at_8_bits(found, bits),
            found["minifloat"]["decoder_luts"][bits - MINIFLOATS[0]],
            value_bits(bits, splits(bits)),
        ]
        for bits in (3, 4, 5, 6, 8, 12, 16)
    ]
    split_rows = [
        [row["bits"], row["exponent"], row["fixed_luts"], row["chosen_luts"], row["value_bits"]]
        for row in found["minifloat_splits"]["rows"]
        if row["bits"] in (4, 6, 8)
    ]
    packing = [[f"{row['pixels']} of {row['bits']} bits", row["luts"], row["dsps"]] for row in found["packing"]["rows"]]
    flows = [[f"`{row['flags']}`", *row["luts"]] for row in found["flows"]["rows"]]
    small = found["small"]
    parts = [
        ["sum of two, 8 bits", small["adder_luts"][1]],
        ["greater of two, 8 bits", small["maximum_luts"][1]],
        *([f"one word of {ways}, a bit", small["multiplexer_luts_a_bit"][ways - 2]] for ways in (2, 4, 5, 8, 12)),
        *(
            [f"{row['part']}, {row['words']} words, a bit (fixed: {row['fixed_luts']:.4g})", row["luts_a_bit"]]
            for row in found["streams"]["rows"]
        ),
        *(
            [f"constants, {words} words, a bit", luts]
            for words, luts in zip(found["rom"]["words"], found["rom"]["luts_a_bit"], strict=True)
        ),
    ]
    furthest = max(abs(block_rows["lut", bits]["lane_luts"] / spec - 1) for bits, spec in SPEC_LANES.items())
    memories = [[f"{row['words']} × {row['bits']}", row["ramb18"], row["rule"]] for row in found["memory"]["rows"]]
    return f"""# What the arithmetic of an FPGA block costs

Made by `python scripts/measure_fpga_slopes.py --work DIR` with {version}. All figures stand in
`cost_models/fpga/arithmetic.toml`, each with what was measured; they are LUTs unless said otherwise. This is
open-source synthesis, neither placed nor routed: use the figures as slopes. Vendors' tools differ.

![LUTs of a lane against the bits of its weight]({name}.svg)

## A lane

What one more lane adds: the earlier slopes of the reference, the slope of the whole zero-skip block in Verilog between
4 and 8 lanes, and what the model composes: product + accumulator + {index} for the index.

{grid(["lane", "earlier", "block", "model"], lanes)}

- The accumulator takes one LUT a bit: b_w + b_a + ⌈log₂ n⌉ bits, here for n = {NONZEROS} nonzeros. With DSPs it is
  nearly all that is left in LUTs. Vendors' tools put it into the DSP; Yosys does so for the older DSP48E1 alone.
- The earlier slopes came without their Verilog or the flow's options; the block's differ from them by at most
  {100 * furthest:.0f} % without DSPs. It multiplies by unsigned activations, the table below by signed ones.
- The index costs {index} LUTs where the number of channels is a power of two, and {with_comparators} with 60 channels,
  since every tap needs a comparator. The port of the line buffer is not part of the lane; to pick one word out of K + s
  rows is listed below.

## Products of integers, without accumulator

{grid(["weight", "A1", "A2", "A4", "A8", "A16"], corner)}

A weight of 1 bit is −1 or +1, an activation of 1 bit is 0 or 1: it resets the product's register, which takes no LUT
but a reset of its own. The options of the flow move these figures more than anything else, at weights of 2, 4 and 8
bits × activations of 8:

{grid(["options of `synth_xilinx`", "W2", "W4", "W8"], flows)}

By default functions of 7 to 9 inputs are built of several LUT6 and the slices' own multiplexers, and the mapper takes
one for the price of one LUT. All figures here are without (`-nowidelut`), but for constants.

## Minifloats

Lanes at activations of 8 bits, as integers and as minifloats of the same bits; the decoder that a lane with DSP
needs; and the width of such a weight as an integer, which the accumulator grows by.

{grid(["weight", "integer lane", "minifloat lane", "ratio", "decoder", "integer bits"], minifloats)}

Every filter chooses its split, so that a lane decodes them all: the mantissas are multiplied, the product is shifted
by the exponent, the sum is exact. What it costs is decided by the widest exponent that may be chosen. One lane's
product with one split for all weights (fixed), and with all splits up to this one (chosen):

{grid(["bits", "exponent bits", "fixed", "chosen", "integer bits of chosen"], split_rows)}

The model takes exponents of up to {WIDEST_EXPONENT} bits: more than 99 % of the channels of trained networks choose 1
or 2 ([minifloats beside integers](minifloat_vs_int.md)), and every bit more doubles the shift.

## Several pixels in one DSP

LUTs that join the pixels and part their products, accumulators apart. Both are exact: the carry of a lower product
into the next is taken back.

{grid(["pixels", "LUTs a DSP", "DSPs"], packing)}

Four pixels of 4 bits need 26 bits of the DSP's wide port: a DSP48E2 has 27, the DSP48E1 of the 7 series 25.

## Streams and memories

{grid(["part", "LUTs"], parts)}

Block RAM that the flow chooses, in RAMB18, beside the rule of the fewest of one shape:

{grid(["words × bits", "Yosys", "rule"], memories)}
"""


def grid(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *[[_cell(value) for value in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def lane_at_8_bits(found: Mapping[str, Any], bits: int, minifloat: bool = False) -> float:
    """LUTs of product and accumulator, activations of 8 bits."""
    if minifloat:
        return found["minifloat"]["luts"][bits - MINIFLOATS[0]][7] + lane_sum(value_bits(bits, splits(bits)), 8)
    return found["product"]["luts"][bits - 1][7] + lane_sum(bits, 8)


if __name__ == "__main__":
    main()
