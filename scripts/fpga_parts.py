"""Parts of an accelerator in Verilog, small enough to be synthesised by the hundred; `measure_fpga_slopes.py` does.

Two operands are w (weight) and a (activation). Everything ends in registers, so that a part costs what it costs between
two registers of a pipeline.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

NONZEROS = 115
"""Of a filter, for the accumulator: 64 channels × 3×3, 80 % sparse."""
WIDEST_EXPONENT = 3
"""Of the splits between which a filter of minifloats chooses."""


@dataclass(frozen=True)
class Design:
    """One Verilog module: a clock, `in` of `inputs` bits, `out` of `outputs` bits."""

    inputs: int
    outputs: int
    body: str

    def verilog(self, name: str) -> str:
        ports = f"input clk, input [{self.inputs - 1}:0] in, output [{self.outputs - 1}:0] out"
        return f"module {name}({ports});\n{self.body}\nendmodule\n"


@dataclass(frozen=True)
class Lane:
    """A part that stands many times side by side: Verilog from its own inputs `x` to its own outputs `y`."""

    inputs: int
    outputs: int
    body: str

    def copies(self, count: int) -> Design:
        return Design(
            count * self.inputs,
            count * self.outputs,
            f"genvar i; generate for (i = 0; i < {count}; i = i + 1) begin : lane\n"
            f"wire [{self.inputs - 1}:0] x = in[i*{self.inputs} +: {self.inputs}];\n"
            f"wire [{self.outputs - 1}:0] y; assign out[i*{self.outputs} +: {self.outputs}] = y;\n"
            f"{self.body}\nend endgenerate",
        )


def integer_product(weight: int, activation: int) -> Lane:
    """Two's complement both; a weight of 1 bit is −1 (set) or +1, an activation of 1 bit is 0 or 1."""
    if weight == 1 and activation == 1:
        product = "w ? -$signed({1'b0, a}) : $signed({1'b0, a})"
    elif weight == 1:
        product = f"({{a[{activation - 1}], a}} ^ {{{activation + 1}{{w}}}}) + w"
    elif activation == 1:
        product = f"a ? $signed(w) : {weight}'sd0"
    else:
        product = "$signed(w) * $signed(a)"
    return Lane(
        weight + activation,
        weight + activation,
        f"wire [{weight - 1}:0] w = x[{weight - 1}:0]; wire [{activation - 1}:0] a = x[{weight} +: {activation}];\n"
        f"reg signed [{weight + activation - 1}:0] p; always @(posedge clk) p <= {product}; assign y = p;",
    )


def accumulator(bits: int) -> Lane:
    """A sum of `bits` to which products are added while `valid`, and which starts anew with `first`."""
    product = bits - (NONZEROS - 1).bit_length()
    return Lane(
        product + 2,
        bits,
        f"wire valid = x[0], first = x[1]; wire signed [{product - 1}:0] p = x[2 +: {product}];\n"
        f"reg signed [{bits - 1}:0] sum; wire signed [{bits - 1}:0] kept = first ? {bits}'sd0 : sum;\n"
        "always @(posedge clk) if (valid) sum <= p + kept; assign y = sum;",
    )


def splits(bits: int, widest: int = WIDEST_EXPONENT) -> range:
    """Exponent widths between which a filter of minifloats chooses."""
    return range(1, min(max(1, bits - 2), widest) + 1)


def value_bits(bits: int, exponents: Sequence[int]) -> int:
    """Two's complement width of all values of a minifloat, in units of its least one: sign, mantissa, largest shift."""
    return 1 + max(bits - exponent + 2**exponent - 2 for exponent in exponents)


def decode(name: str, bits: int, exponents: Sequence[int]) -> str:
    """Verilog from the code `NAME` and the choice of its split `NAME_split` to `NAME_mantissa` × 2^`NAME_shift`.

    An exponent field of 0 is subnormal: no hidden bit, and the shift of field 1, which is none.
    """
    mantissas, shifts = [], []
    for exponent in exponents:
        fraction = bits - 1 - exponent
        field = f"{name}[{bits - 2}:{fraction}]"
        hidden = f"|{field}"
        mantissas.append(f"{{{hidden}, {name}[{fraction - 1}:0]}}" if fraction else f"{{{hidden}}}")
        shifts.append(f"(({hidden}) ? {field} - {exponent}'d1 : {exponent}'d0)")

    def chosen(values: list[str]) -> str:
        text = values[-1]
        for place, value in reversed(list(enumerate(values[:-1]))):
            text = f"({name}_split == {place}) ? {value} : {text}"
        return text

    return (
        f"wire [{bits - 2}:0] {name}_size = {chosen(mantissas)};\n"
        f"wire signed [{bits - 1}:0] {name}_mantissa = "
        f"({{1'b0, {name}_size}} ^ {{{bits}{{{name}[{bits - 1}]}}}}) + {name}[{bits - 1}];\n"
        f"wire [{max(exponents) - 1}:0] {name}_shift = {chosen(shifts)};\n"
    )


def minifloat_product(bits: int, activation: int, exponents: Sequence[int]) -> Lane:
    """A minifloat weight × a two's complement activation (1 bit: 0 or 1), exact: mantissas' product, shifted left."""
    out = value_bits(bits, exponents) + activation
    factor = "$signed(a)" if activation > 1 else "$signed({1'b0, a})"
    return Lane(
        bits + 3 + activation,
        out,
        f"wire [{bits - 1}:0] w = x[{bits - 1}:0]; wire [2:0] w_split = x[{bits} +: 3];\n"
        f"wire [{activation - 1}:0] a = x[{bits + 3} +: {activation}];\n"
        + decode("w", bits, exponents)
        + f"wire signed [{out - 1}:0] product = w_mantissa * {factor};\n"
        f"reg signed [{out - 1}:0] p; always @(posedge clk) p <= product <<< w_shift; assign y = p;",
    )


def minifloat_pair_product(weight: int, activation: int) -> Lane:
    """Minifloats both, exact: product of the mantissas, shifted left by the sum of both shifts."""
    w_splits, a_splits = splits(weight), splits(activation)
    out = value_bits(weight, w_splits) + value_bits(activation, a_splits)
    return Lane(
        weight + activation + 6,
        out,
        f"wire [{weight - 1}:0] w = x[{weight - 1}:0]; wire [2:0] w_split = x[{weight} +: 3];\n"
        f"wire [{activation - 1}:0] a = x[{weight + 3} +: {activation}];\n"
        f"wire [2:0] a_split = x[{weight + 3 + activation} +: 3];\n"
        + decode("w", weight, w_splits)
        + decode("a", activation, a_splits)
        + f"wire signed [{out - 1}:0] product = w_mantissa * a_mantissa; wire [4:0] shift = w_shift + a_shift;\n"
        f"reg signed [{out - 1}:0] p; always @(posedge clk) p <= product <<< shift; assign y = p;",
    )


def minifloat_decoder(bits: int) -> Lane:
    """From a minifloat to the two's complement integer that a DSP can take."""
    out = value_bits(bits, splits(bits))
    return Lane(
        bits + 3,
        out,
        f"wire [{bits - 1}:0] w = x[{bits - 1}:0]; wire [2:0] w_split = x[{bits} +: 3];\n"
        + decode("w", bits, splits(bits))
        + f"wire signed [{out - 1}:0] wide = w_mantissa;\n"
        f"reg signed [{out - 1}:0] p; always @(posedge clk) p <= wide <<< w_shift; assign y = p;",
    )


def packed_pair(bits: int = 8) -> Lane:
    """Two pixels of `bits` × one weight in one DSP, exactly; the products, unpacked.

    Their fields are 2·bits apart. A negative lower product borrows one from the upper field, which is given back.
    """
    field = 2 * bits
    return Lane(
        3 * bits,
        2 * field,
        f"wire signed [{bits - 1}:0] w = x[0 +: {bits}], a0 = x[{bits} +: {bits}], a1 = x[{2 * bits} +: {bits}];\n"
        f"wire signed [{bits}:0] high = a1 - $signed({{1'b0, a0[{bits - 1}]}});\n"
        f"wire signed [{field + bits}:0] both = {{high, {{{bits}{{a0[{bits - 1}]}}}}, a0}};\n"
        f"reg signed [{field + 2 * bits}:0] p; always @(posedge clk) p <= w * both;\n"
        f"assign y = {{p[{field} +: {field}] + {{{field - 1}'d0, p[{field - 1}]}}, p[{field - 1}:0]}};",
    )


def packed_four() -> Lane:
    """Four pixels of 4 bits × one weight of 4 bits in one DSP, exactly; the products, unpacked.

    Fields are 7 bits apart, so that all fit into 26 bits (a DSP48E2 takes 27, a DSP48E1 only 25), and a product of 8
    bits reaches into the next field by its sign; the lowest bit of the next product, w₀ ∧ a₀, tells them apart.
    """
    text = "wire signed [3:0] w = x[3:0]; wire [3:0] a0 = x[7:4], a1 = x[11:8], a2 = x[15:12], a3 = x[19:16];\n"
    text += "wire [4:0] v0 = {a0[3], a0};\n"
    for i in (1, 2, 3):
        text += f"wire [4:0] v{i} = {{a{i}[3], a{i}}} - {{4'd0, v{i - 1}[4]}};\n"
    fields = ", ".join(f"{{2{{v{i}[4]}}}}, v{i}" for i in (2, 1, 0))
    text += (
        f"wire signed [25:0] all = {{v3, {fields}}};\n"
        "reg signed [29:0] p; reg [3:1] odd;\n"
        "always @(posedge clk) begin p <= w * all; odd <= {w[0] & a3[0], w[0] & a2[0], w[0] & a1[0]}; end\n"
        "wire [7:0] u0 = {1'b0, p[6:0]}, p0 = {p[7] ^ odd[1], p[6:0]};\n"
    )
    for i in (1, 2):
        # The carry out of a field and the sign of its product are never both set.
        text += (
            f"wire [7:0] u{i} = p[{7 * i} +: 7] + {{7'd0, u{i - 1}[7] | p{i - 1}[7]}};\n"
            f"wire [7:0] p{i} = {{p[{7 * i + 7}] ^ u{i}[7] ^ odd[{i + 1}], u{i}[6:0]}};\n"
        )
    text += "wire [7:0] p3 = p[28:21] + {7'd0, u2[7] | p2[7]};\nassign y = {p3, p2, p1, p0};"
    return Lane(20, 32, text)


def block(filters: int, weight: int, work: Path, channels: int = 64) -> Design:
    """The zero-skip block of the repository: `filters` lanes of one nonzero, activations of 8 bits from outside.

    Its memory of weights holds random words, since synthesis would make less of constant ones.
    """
    steps, groups, index = 464, 16, 10
    draw = random.Random(0)
    weights, lengths = work / f"weights{filters}x{weight}.hex", work / "lengths.hex"
    weights.write_text("\n".join(f"{draw.getrandbits(filters * (weight + index)):x}" for _ in range(steps)))
    lengths.write_text("\n".join(f"{steps // groups:x}" for _ in range(groups)))
    sums = lane_sum(weight, 8)
    parameters = {
        **{"C": channels, "TAPS": 9, "P": filters, "BW": weight, "BA": 8, "BI": index, "ACC": sums, "TB": 4, "CB": 6},
        **{"GROUPS": groups, "STEPS": steps, "LONGEST": steps // groups},
        **{"WEIGHTS": f'"{weights}"', "LENGTHS": f'"{lengths}"'},
    }
    given = ", ".join(f".{name}({value})" for name, value in parameters.items())
    outputs = {"enable": 1, "issue": 1, "window_done": 1, "read_valid": 1, "out_valid": 1}
    outputs |= {"read_tap": 4 * filters, "read_channel": 6 * filters, "sums": sums * filters}
    inputs = {"rst": 1, "window_ready": 1, "hold": 1, "out_ready": 1, "activations": 8 * filters}
    ports = [".clk(clk)"]
    for side, widths in (("in", inputs), ("out", outputs)):
        places = accumulate(widths.values(), initial=0)
        ports += [
            f".{name}({side}[{at} +: {width}])" for (name, width), at in zip(widths.items(), places, strict=False)
        ]
    body = f"zero_skip_block #({given}) block({', '.join(ports)});"
    return Design(sum(inputs.values()), sum(outputs.values()), body)


def adder(bits: int) -> Lane:
    return Lane(
        2 * bits,
        bits + 1,
        f"wire signed [{bits - 1}:0] a = x[0 +: {bits}], b = x[{bits} +: {bits}];\n"
        f"reg signed [{bits}:0] s; always @(posedge clk) s <= a + b; assign y = s;",
    )


def maximum(bits: int) -> Lane:
    return Lane(
        2 * bits,
        bits,
        f"wire signed [{bits - 1}:0] a = x[0 +: {bits}], b = x[{bits} +: {bits}];\n"
        f"reg signed [{bits - 1}:0] m; always @(posedge clk) m <= a < b ? b : a; assign y = m;",
    )


def multiplexer(ways: int, bits: int = 8) -> Lane:
    """One of `ways` words, as a lane picks one of the line buffer's rows."""
    select = (ways - 1).bit_length()
    return Lane(
        ways * bits + select,
        bits,
        f"wire [{select - 1}:0] pick = x[{ways * bits} +: {select}];\n"
        f"reg [{bits - 1}:0] r; always @(posedge clk) r <= x[pick*{bits} +: {bits}]; assign y = r;",
    )


def fifo(words: int, bits: int) -> Design:
    """A queue in the LUTs' memory, read in the cycle in which its output is asked for."""
    place = (words - 1).bit_length()
    return Design(
        bits + 3,
        bits + 2,
        f"wire reset = in[0], put = in[1], take = in[2]; reg [{bits - 1}:0] memory [0:{words - 1}];\n"
        f"reg [{place}:0] head, tail; wire empty = head == tail, full = head == (tail ^ {place + 1}'d{words});\n"
        "always @(posedge clk) begin\n"
        f"  if (put & ~full) memory[head[{place - 1}:0]] <= in[3 +: {bits}];\n"
        "  if (reset) begin head <= 0; tail <= 0; end else begin\n"
        "    if (put & ~full) head <= head + 1; if (take & ~empty) tail <= tail + 1; end\n"
        "end\n"
        f"assign out = {{memory[tail[{place - 1}:0]], empty, full}};",
    )


def narrowing(words: int, bits: int = 8) -> Design:
    """A converter that takes `words` at once and gives one a cycle."""
    total, place = words * bits, (words - 1).bit_length()
    return Design(
        total + 3,
        bits + 2,
        f"wire reset = in[0], put = in[1], take = in[2];\n"
        f"reg [{total - 1}:0] held; reg [{place - 1}:0] left; reg full;\n"
        f"wire over = take & (left == 0), ready = ~full | over;\n"
        "always @(posedge clk)\n"
        "  if (reset) begin full <= 0; left <= 0; end\n"
        f"  else if (ready) begin full <= put; left <= {words - 1}; end else if (take) left <= left - 1;\n"
        f"always @(posedge clk) if (ready) held <= in[3 +: {total}]; else if (take) held <= held >> {bits};\n"
        f"assign out = {{held[{bits - 1}:0], full, ready}};",
    )


def widening(words: int, bits: int = 8) -> Design:
    """A converter that takes one word a cycle and gives `words` at once."""
    total, place = words * bits, (words - 1).bit_length()
    return Design(
        bits + 3,
        total + 2,
        f"wire reset = in[0], put = in[1], take = in[2];\n"
        f"reg [{total - 1}:0] held; reg [{place - 1}:0] left; reg full;\n"
        "wire ready = ~full | take;\n"
        "always @(posedge clk)\n"
        f"  if (reset) begin full <= 0; left <= {words - 1}; end else if (ready) begin\n"
        f"    full <= put & (left == 0); if (put) left <= left == 0 ? {words - 1} : left - 1; end\n"
        f"always @(posedge clk) if (ready & put) held <= {{in[3 +: {bits}], held[{total - 1}:{bits}]}};\n"
        "assign out = {held, full, ready};",
    )


def rom(words: int, bits: int) -> Design:
    """Constant words drawn at random, read through a register."""
    draw = random.Random(0)
    place = max(1, (words - 1).bit_length())
    rows = "\n".join(f"{place}'d{i}: r <= {bits}'h{draw.getrandbits(bits):x};" for i in range(words))
    return Design(
        place, bits, f"reg [{bits - 1}:0] r; always @(posedge clk) case (in)\n{rows}\nendcase assign out = r;"
    )


def memory(words: int, bits: int) -> Design:
    """One port to write, one to read."""
    place = (words - 1).bit_length()
    return Design(
        2 * place + bits + 1,
        bits,
        f"reg [{bits - 1}:0] memory [0:{words - 1}]; reg [{bits - 1}:0] r;\n"
        f"wire [{place - 1}:0] write = in[1 +: {place}], read = in[{1 + place} +: {place}];\n"
        f"always @(posedge clk) if (in[0]) memory[write] <= in[{1 + 2 * place} +: {bits}];\n"
        "always @(posedge clk) r <= memory[read];\n"
        "assign out = r;",
    )


def lane_sum(weight_bits: int, activation_bits: int) -> int:
    """Bits, so LUTs, of the accumulator."""
    return weight_bits + activation_bits + (NONZEROS - 1).bit_length()
