"""Writes the Verilog of a chain of convolution blocks, each behind its line buffer, and the files of its memories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from workloads import InputError

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.v")))
"""The hand-written modules that a chain is made of."""

FIFO_BEATS = 2


@dataclass(frozen=True)
class RtlBlock:
    """One convolution and its folding: P filters × M weights of a filter × V pixels of a row at once.

    Weights are signed integers, zeros pruned (skipped by a sparse block, multiplied by a dense one); activations are
    unsigned, as a ReLU gives them. `order` is that in which filters are processed; outputs keep their own numbers.
    """

    weights: np.ndarray
    """Shape (F, C, K, K)."""
    height: int
    """Of the input, as is `width`."""
    width: int
    stride: int = 1
    padding: int = 0
    filters: int = 1
    """P."""
    nonzeros: int = 1
    """M; a dense block's divides C."""
    pixels: int = 1
    """V: 1, 2 or 4."""
    weight_bits: int = 8
    activation_bits: int = 8
    kind: Literal["sparse", "dense"] = "sparse"
    order: Sequence[int] | None = None
    """A permutation of the filters; None: as they stand."""
    shift: int = 0
    """Right shift of the sums to the activations of the next block; the last block of a chain gives its sums."""
    buffer_rows: int | None = None
    """Rows of the line buffer; None: K + max(s, H − (Ho − 1)·s), which hides the change of images too."""

    def __post_init__(self) -> None:
        count, channels, kernel, across = self.weights.shape
        limit = 1 << (self.weight_bits - 1)
        lanes = self.filters * self.nonzeros
        problem = None
        if kernel != across or not 1 <= self.stride <= 4 or not 0 <= self.padding < kernel:
            problem = (
                f"a {kernel}×{across} kernel, stride {self.stride}, padding {self.padding}: kernels are square, "
                "strides 1 to 4, padding less than the kernel"
            )
        elif min(self.out_height, self.out_width) < 1:
            problem = f"a {self.height}×{self.width} map is smaller than its {kernel}×{kernel} kernel"
        elif not 1 <= self.filters <= count or not 1 <= self.nonzeros <= channels * kernel**2 or lanes > 256:
            problem = (
                f"P = {self.filters}, M = {self.nonzeros}: P is 1 to {count} filters, M 1 to "
                f"{channels * kernel**2} weights, P·M at most 256"
            )
        elif self.pixels not in (1, 2, 4):
            problem = f"V = {self.pixels}; allowed: 1, 2, 4"
        elif self.kind == "dense" and channels % self.nonzeros:
            problem = f"a dense block takes M channels of one pixel: M = {self.nonzeros} does not divide {channels}"
        elif not (1 <= self.weight_bits <= 16 and 1 <= self.activation_bits <= 16):
            problem = f"{self.weight_bits} × {self.activation_bits} bits; allowed: 1 to 16"
        elif self.weights.min() < -limit or self.weights.max() >= limit:
            problem = f"weights in {self.weights.min()}…{self.weights.max()} do not fit in {self.weight_bits} bits"
        elif sorted(self._order) != list(range(count)):
            problem = f"the order is no permutation of its {count} filters"
        elif self.rows <= kernel:
            problem = f"a buffer of {self.rows} rows; it needs more than the kernel's {kernel}"
        if problem:
            raise InputError(f"block of {count} filters of {channels} channels: {problem}")

    @property
    def channels(self) -> int:
        return int(self.weights.shape[1])

    @property
    def kernel(self) -> int:
        return int(self.weights.shape[2])

    @property
    def out_channels(self) -> int:
        return int(self.weights.shape[0])

    @property
    def out_height(self) -> int:
        return (self.height + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (self.width + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def rows(self) -> int:
        """Rows of the line buffer.

        K are in use and s are written. While the last row of windows is at work, the rest of this image and what the
        first windows of the next one need must come in, or the block would wait at every change of images.
        """
        return self.buffer_rows or self.kernel + max(self.stride, self.height - (self.out_height - 1) * self.stride)

    @property
    def groups(self) -> int:
        return -(-self.out_channels // self.filters)

    @property
    def beats(self) -> int:
        """Beats of P channels × V pixels in which an image leaves."""
        return self.out_height * -(-self.out_width // self.pixels) * self.groups

    @property
    def packed(self) -> bool:
        return self.pixels % 2 == 0 and max(self.weight_bits, self.activation_bits) <= 8

    @property
    def sum_bits(self) -> int:
        """b_w + b_a + ⌈log2 of the most products of a sum⌉."""
        most = self.weights[0].size if self.kind == "dense" else int(self.counts.max())
        return self.weight_bits + self.activation_bits + _bits(most)

    @cached_property
    def counts(self) -> np.ndarray:
        """Weights of every filter that are multiplied, in the order of processing, shape (F,)."""
        if self.kind == "dense":
            return np.full(self.out_channels, self.weights[0].size)
        return np.count_nonzero(self.ordered.reshape(self.out_channels, -1), axis=1)

    @cached_property
    def ordered(self) -> np.ndarray:
        """The weights in the order of processing."""
        return self.weights[self._order]

    @property
    def _order(self) -> list[int]:
        return list(range(self.out_channels)) if self.order is None else list(self.order)

    def position(self) -> np.ndarray:
        """Filter → its place in the order of processing, shape (F,)."""
        return np.argsort(self._order)

    def lengths(self) -> list[int]:
        """Steps of every group of P filters, at least one: its outputs leave with its last step."""
        full = [self.counts[g : g + self.filters].max() for g in range(0, self.out_channels, self.filters)]
        return [max(1, -(-int(count) // self.nonzeros)) for count in full]


@dataclass(frozen=True)
class RtlChain:
    """Blocks that feed one another, and the words of one pixel that the source gives a cycle."""

    blocks: tuple[RtlBlock, ...]
    words: int = 1
    name: str = field(default="chain", init=False)

    def __post_init__(self) -> None:
        for i, (before, after) in enumerate(pairwise(self.blocks), 1):
            made = (before.out_channels, before.out_height, before.out_width)
            taken = (after.channels, after.height, after.width)
            if made != taken:
                raise InputError(f"block {i} takes (C, H, W) = {taken}, the block before it makes {made}")
            if before.pixels > 2 * after.pixels:
                raise InputError(
                    f"block {i - 1} makes V = {before.pixels} pixels at once, block {i} has V = {after.pixels} column "
                    f"banks of two ports: make V of block {i} at least {before.pixels // 2}"
                )
        if not 1 <= self.words <= self.blocks[0].channels:
            raise InputError(f"the source gives {self.words} words at once; allowed: 1 to {self.blocks[0].channels}")

    @property
    def source_beats(self) -> int:
        """Beats of an image at the source, and its cycles where nothing holds it up."""
        first = self.blocks[0]
        return first.height * first.width * -(-first.channels // self.words)


def write_chain(chain: RtlChain, folder: Path) -> Path:
    """Writes the chain's top module and its memory files into `folder`; returns the module's path.

    The memory files are named relative to `folder`: simulation and synthesis must run there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts, words, pixels, stored_as = [], chain.words, 1, np.arange(chain.blocks[0].channels)
    for i, block in enumerate(chain.blocks):
        _write_memories(block, stored_as, folder, i)
        last = i == len(chain.blocks) - 1
        bits = block.sum_bits if last else chain.blocks[i + 1].activation_bits
        parts.append(_instances(block, i, words, pixels, None if last else bits))
        words, pixels, stored_as = block.filters, block.pixels, block.position()
    first, final = chain.blocks[0], chain.blocks[-1]
    in_bits, out_bits = chain.words * first.activation_bits, final.filters * final.pixels * final.sum_bits
    count = len(chain.blocks)
    text = f"""module {chain.name} (
    input  wire clk,
    input  wire rst,
    input  wire go,
    input  wire in_valid,
    output wire in_ready,
    input  wire [{in_bits - 1}:0] in_data,
    output wire out_valid,
    input  wire out_ready,
    output wire [{out_bits - 1}:0] out_data,
    output wire [{count - 1}:0] issue,
    output wire [{count - 1}:0] leave
);
    wire valid_0 = in_valid, ready_0;
    wire [{in_bits - 1}:0] beat_0 = in_data;
    assign in_ready = ready_0;
{"".join(parts)}
    assign out_valid = valid_{count};
    assign ready_{count} = out_ready;
    assign out_data = beat_{count};
endmodule
"""
    path = folder / f"{chain.name}.v"
    path.write_text(text)
    return path


def _instances(block: RtlBlock, i: int, words: int, pixels: int, out_bits: int | None) -> str:
    """Line buffer, block, requantiser (none where `out_bits` is None) and FIFO of block i, fed `words` × `pixels`."""
    dense = block.kind == "dense"
    lanes = block.filters * block.nonzeros
    ports, read = (1, block.nonzeros) if dense else (lanes, 1)
    taps = block.kernel**2
    tap_bits, channel_bits = max(1, _bits(taps)), max(1, _bits(block.channels))
    outputs, sums = block.filters * block.pixels, block.sum_bits
    beat = outputs * (out_bits or sums)
    lengths = block.lengths()
    index = "" if dense else f", .BI({_index_bits(block)})"
    requantised = (
        f"    assign fifo_in_{i} = sums_{i};"
        if out_bits is None
        else f"    requantise #(.WORDS({outputs}), .ACC({sums}), .BO({out_bits}), .SHIFT({block.shift}))\n"
        f"    requantise_{i} (.sums(sums_{i}), .activations(fifo_in_{i}));"
    )
    return f"""
    wire window_ready_{i}, window_done_{i}, enable_{i}, hold_{i}, read_valid_{i}, sums_valid_{i}, sums_ready_{i};
    wire [{ports * tap_bits - 1}:0] tap_{i};
    wire [{ports * channel_bits - 1}:0] channel_{i};
    wire [{ports * block.pixels * read * block.activation_bits - 1}:0] activations_{i};
    wire [{outputs * sums - 1}:0] sums_{i};
    wire [{beat - 1}:0] fifo_in_{i}, beat_{i + 1};
    wire valid_{i + 1}, ready_{i + 1};
    line_buffer #(
        .C({block.channels}), .H({block.height}), .W({block.width}), .K({block.kernel}), .S({block.stride}),
        .PAD({block.padding}), .HO({block.out_height}), .WO({block.out_width}), .V({block.pixels}), .PP({words}),
        .VP({pixels}), .BA({block.activation_bits}), .PORTS({ports}), .READ({read}),
        .WORD({math.lcm(words, read)}), .ROWS({block.rows}), .TB({tap_bits}), .CB({channel_bits})
    ) buffer_{i} (
        .clk(clk), .rst(rst), .go(go), .wr_valid(valid_{i}), .wr_ready(ready_{i}), .wr_data(beat_{i}),
        .window_ready(window_ready_{i}), .window_done(window_done_{i}), .enable(enable_{i}), .hold(hold_{i}),
        .read_valid(read_valid_{i}), .read_tap(tap_{i}), .read_channel(channel_{i}), .activations(activations_{i})
    );
    {"dense" if dense else "zero_skip"}_block #(
        .C({block.channels}), .TAPS({taps}), .P({block.filters}), .M({block.nonzeros}), .V({block.pixels}),
        .BW({block.weight_bits}), .BA({block.activation_bits}), .ACC({sums}), .PACKED({int(block.packed)}),
        .GROUPS({block.groups}), .STEPS({sum(lengths)}), .LONGEST({max(lengths)}), .TB({tap_bits}),
        .CB({channel_bits}), .WEIGHTS("{_weights_file(i)}"), .LENGTHS("{_lengths_file(i)}"){index}
    ) block_{i} (
        .clk(clk), .rst(rst), .window_ready(window_ready_{i}), .hold(hold_{i}), .enable(enable_{i}),
        .issue(issue[{i}]), .window_done(window_done_{i}), .read_valid(read_valid_{i}), .read_tap(tap_{i}),
        .read_channel(channel_{i}), .activations(activations_{i}), .out_valid(sums_valid_{i}),
        .out_ready(sums_ready_{i}), .sums(sums_{i})
    );
    assign leave[{i}] = sums_valid_{i} && sums_ready_{i};
{requantised}
    stream_fifo #(.WIDTH({beat}), .DEPTH({FIFO_BEATS})) fifo_{i} (
        .clk(clk), .rst(rst), .in_valid(sums_valid_{i}), .in_ready(sums_ready_{i}), .in_data(fifo_in_{i}),
        .out_valid(valid_{i + 1}), .out_ready(ready_{i + 1}), .out_data(beat_{i + 1})
    );
"""


def _write_memories(block: RtlBlock, stored_as: np.ndarray, folder: Path, i: int) -> None:
    """`stored_as`: input channel → the place that it was given by the order of the block before."""
    kernels = np.empty_like(block.ordered)
    kernels[:, stored_as] = block.ordered
    # The place of a weight within its filter is tap · C + channel.
    flat = kernels.transpose(0, 2, 3, 1).reshape(block.out_channels, -1)
    lengths = block.lengths()
    words = []
    for group, steps in enumerate(lengths):
        lanes = np.zeros((steps, block.filters, block.nonzeros, 2), dtype=np.int64)
        for p, weights in enumerate(flat[group * block.filters : (group + 1) * block.filters]):
            places = np.arange(len(weights)) if block.kind == "dense" else np.flatnonzero(weights)
            slots = lanes[:, p].reshape(-1, 2)
            slots[: len(places), 0], slots[: len(places), 1] = places, weights[places]
            lanes[:, p] = slots.reshape(steps, block.nonzeros, 2)
        words += [_word(block, step.reshape(-1, 2)) for step in lanes]
    (folder / _weights_file(i)).write_text("\n".join(words) + "\n")
    (folder / _lengths_file(i)).write_text("\n".join(f"{length:x}" for length in lengths) + "\n")


def _word(block: RtlBlock, slots: np.ndarray) -> str:
    """One step of the weight memory in hexadecimal; `slots` holds (place, weight) of every lane."""
    index_bits = 0 if block.kind == "dense" else _index_bits(block)
    word = 0
    for place, weight in slots[::-1].tolist():
        if index_bits:
            word = word << index_bits | place
        word = word << block.weight_bits | weight & ((1 << block.weight_bits) - 1)
    return f"{word:x}"


def _index_bits(block: RtlBlock) -> int:
    return max(1, _bits(block.weights[0].size))


def _bits(choices: int) -> int:
    return max(0, choices - 1).bit_length()


def _weights_file(i: int) -> str:
    return f"weights_{i}.hex"


def _lengths_file(i: int) -> str:
    return f"lengths_{i}.hex"
