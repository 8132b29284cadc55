"""Cycles and resources of a block under many foldings at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .arithmetic import FIXED_FFS, FIXED_LUTS, lane_ffs, lane_luts, operand_bits, packing_luts
from .block import Block, with_dense_weights
from .device import RESOURCES
from .equations import (
    LUT_ROM_WORDS,
    accumulator_bits,
    bram18,
    ceil_div,
    conv_steps,
    index_bits,
    packing,
    product_dsps,
    ram_luts,
    rom_luts,
    steps,
    stream_cycles,
    uram,
)
from .folding import AnyFolding, ConvFolding, LayerFolding, Memory
from .pipeline import Stage

MEMORIES: tuple[Memory, ...] = ("bram", "uram", "dram")
LUT, FF, DSP, BRAM, URAM = range(len(RESOURCES))


@dataclass(frozen=True)
class Foldings:
    """Foldings of one block as arrays of shape (n,); what `LayerFolding` says of each field holds."""

    filters: np.ndarray
    nonzeros: np.ndarray
    pixels: np.ndarray
    sparse: np.ndarray
    """Whether zeros are skipped, bool."""
    dsp: np.ndarray
    """Whether DSPs multiply, bool."""
    weights: np.ndarray
    """Position in `MEMORIES`."""
    buffer: np.ndarray

    def __len__(self) -> int:
        return len(self.filters)

    def __getitem__(self, chosen: np.ndarray) -> Foldings:
        return Foldings(**{name: column[chosen] for name, column in vars(self).items()})

    def folding(self, i: int) -> LayerFolding:
        """The i-th as a folding of its own."""
        return LayerFolding(
            filters=int(self.filters[i]),
            nonzeros=int(self.nonzeros[i]),
            pixels=int(self.pixels[i]),
            block="sparse" if self.sparse[i] else "dense",
            multiplier="dsp" if self.dsp[i] else "lut",
            weights=MEMORIES[self.weights[i]],
            buffer=MEMORIES[self.buffer[i]],
        )


@dataclass(frozen=True)
class Costs:
    """What `n` foldings of one block cost."""

    cycles: np.ndarray
    """Of one image, shape (n,), int64."""
    work: np.ndarray
    """Cycles in which the lanes step, without waiting for the stream, shape (n,)."""
    steps: np.ndarray
    """Steps of a window, shape (n,)."""
    lanes: np.ndarray
    """Multipliers, shape (n,)."""
    resources: np.ndarray
    """Shape (n, 5) in the order of `RESOURCES`."""
    bytes: np.ndarray
    """To and from external memory for one image, shape (n,)."""
    stored_bits: np.ndarray
    """Of the weights as they are stored, indices and padding included, shape (n,)."""


def costs(block: Block, foldings: Foldings) -> Costs:
    """What the block costs under each of `foldings`."""
    return _compute(block, foldings) if block.computes else _stream(block, foldings)


def cost(block: Block, folding: AnyFolding) -> Costs:
    """What the block costs under one folding; arrays of length 1."""
    if isinstance(folding, ConvFolding):
        return _conv(block, folding)
    sparse = folding.block == "sparse" or (folding.block is None and not block.dense)
    one = Foldings(
        filters=np.array([folding.filters]),
        nonzeros=np.array([folding.nonzeros]),
        pixels=np.array([folding.pixels]),
        sparse=np.array([sparse]),
        dsp=np.array([folding.multiplier == "dsp"]),
        weights=np.array([MEMORIES.index(folding.weights)]),
        buffer=np.array([MEMORIES.index(folding.buffer)]),
    )
    found = costs(block, one)
    found.resources[:, DSP] += folding.dsps
    if folding.stream is None or not block.computes:
        return found
    layer = block.layer
    floor = stream_cycles(layer.in_height * layer.in_width, layer.in_channels, folding.stream)
    return Costs(**{**vars(found), "cycles": np.maximum(found.cycles, floor)})


def _compute(block: Block, f: Foldings) -> Costs:
    stepped = np.where(f.sparse, _steps(block, f), _steps(with_dense_weights(block), f))
    windows = block.window_rows * ceil_div(block.window_columns, f.pixels)
    # The stream is as wide as the block can use: a pixel in, a window's columns at once.
    layer = block.layer
    arrives = layer.in_height * ceil_div(layer.in_width, f.pixels)
    # Consecutive filters: so many groups are worked on at once.
    together = ceil_div(f.filters * layer.groups, layer.out_channels)
    return _lanes(block, f, together, stepped, windows, np.maximum(windows * stepped, arrives))


def _conv(block: Block, folding: ConvFolding) -> Costs:
    layer = block.layer
    stepped = conv_steps(
        layer.in_channels // layer.groups,
        layer.out_channels // layer.groups,
        layer.groups,
        layer.kernel[0] * layer.kernel[1],
        folding.coarse_in,
        folding.coarse_out,
        folding.coarse_group,
        folding.fine,
    )
    work = block.window_rows * block.window_columns * stepped
    arrives = stream_cycles(
        layer.in_height * layer.in_width, layer.in_channels, folding.coarse_in * folding.coarse_group
    )
    leaves = stream_cycles(
        layer.out_height * layer.out_width, layer.out_channels, folding.coarse_out * folding.coarse_group
    )
    one = Foldings(
        filters=np.array([folding.coarse_out * folding.coarse_group]),
        nonzeros=np.array([folding.coarse_in * folding.fine]),
        pixels=np.array([1]),
        sparse=np.array([False]),
        dsp=np.array([folding.multiplier == "dsp"]),
        weights=np.array([0]),
        buffer=np.array([0]),
    )
    windows = np.array([block.window_rows * block.window_columns])
    together = np.array([folding.coarse_group])
    slowest = np.atleast_1d(np.max([work, arrives, leaves]))
    return _lanes(block, one, together, np.atleast_1d(stepped), windows, slowest)


def _steps(block: Block, f: Foldings) -> np.ndarray:
    found = np.zeros(len(f), dtype=np.int64)
    for parallel in np.unique(f.filters):
        chosen = f.filters == parallel
        found[chosen] = steps(block.nonzeros, int(parallel), f.nonzeros[chosen])
    return found


def _lanes(
    block: Block, f: Foldings, together: np.ndarray, stepped: np.ndarray, windows: np.ndarray, cycles: np.ndarray
) -> Costs:
    """Costs of a block with weights; `together` says how many groups of channels it works on at once."""
    layer = block.layer
    lanes = f.filters * f.nonzeros * f.pixels
    weight, activation = block.weight.bits, block.activation.bits
    used = np.zeros((len(f), len(RESOURCES)))

    # Multipliers. In a zero-skipping block only pixels share a weight; in a dense one filters share activations too, if
    # they are of one group. The weights of one filter share nothing.
    partners = np.where(f.sparse, f.pixels, f.pixels * ceil_div(f.filters, together))
    alone = f.nonzeros * np.where(f.sparse, f.filters, together)
    floats = block.weight.kind == "minifloat", block.activation.kind == "minifloat"
    wide, other = operand_bits(weight, floats[0]), operand_bits(activation, floats[1])
    packed = np.minimum(packing(wide, other), partners)
    dsps = alone * ceil_div(partners, packed)
    used[:, DSP] = np.where(f.dsp, dsps * product_dsps(wide, other), 0)
    sums = accumulator_bits(wide, other, max(int(block.nonzeros.max(initial=1)), 1))
    skips = f.sparse & (not block.dense)
    used[:, LUT] = FIXED_LUTS + lanes * lane_luts(weight, activation, sums, f.dsp, skips, *floats)
    used[:, LUT] += np.where(f.dsp & (packed > 1), dsps * packing_luts(wide, other, np.where(packed > 2, 4, packed)), 0)
    used[:, FF] = FIXED_FFS + lanes * lane_ffs(weight, wide + other, sums)

    # Weights and indices of all lanes in one memory; padding of short filters is stored.
    bits = weight + np.where(skips, index_bits(block.filter_size), 0)
    width = f.filters * f.nonzeros * bits
    streamed = f.weights == MEMORIES.index("dram")
    _remember(used, np.where(streamed, 512, stepped), width, f.weights, written=streamed)
    moved = block.result_bytes + np.where(streamed, windows * stepped * width / 8, 0.0)

    # Rows of the input. Lanes that skip zeros read anywhere, so each has a port of its own.
    spatial = layer.kind == "conv" and layer.kernel != (1, 1)
    columns = ceil_div(layer.in_width, f.pixels) * layer.in_channels
    # Without padding rows can be left over, which must be let in beside those of the next image's first window.
    spare = max(layer.stride[0], layer.in_height - (layer.out_height - 1) * layer.stride[0])
    reach = (layer.kernel[0] - 1) * layer.dilation[0] + 1
    rows = reach + (layer.stride[0] if layer.transposed else spare) if spatial else 2
    if not spatial:
        columns = np.full(len(f), layer.in_channels)
    private = f.filters * f.nonzeros * f.pixels
    read = f.nonzeros * f.pixels * np.minimum(together, layer.groups)  # words a cycle of a dense block
    # Either a bank a row, whose two ports both read (the few writes into a row that is being read stop the lanes for a
    # cycle: `rtl/line_buffer.v`); or a simple memory a lane.
    shared = _memory(columns, activation, f.buffer) * (rows * ceil_div(f.filters * f.nonzeros, 2) * f.pixels)[:, None]
    simple = _memory(rows * columns, activation, f.buffer) * private[:, None]
    dense = _memory(ceil_div(rows * columns * f.pixels, read), read * activation, f.buffer)
    cheaper = np.where((_blocks(shared) < _blocks(simple))[:, None], shared, simple)
    used += np.where(f.sparse[:, None], cheaper, dense)
    return Costs(cycles, windows * stepped, stepped, lanes, used, moved, stepped * width)


def _stream(block: Block, f: Foldings) -> Costs:
    layer = block.layer
    arrives = stream_cycles(layer.in_height * layer.in_width, layer.in_channels, f.filters)
    leaves = stream_cycles(layer.out_height * layer.out_width, layer.out_channels, f.filters)
    # A concat takes its inputs side by side; an input only sends; padding is an address in the next line buffer.
    only = {"input": leaves, "concat": leaves, "pad": arrives}
    cycles = only.get(layer.kind, np.maximum(arrives, leaves))
    bits = block.activation.bits
    used = np.zeros((len(f), len(RESOURCES)))
    used[:, LUT] = FIXED_LUTS + f.filters * bits
    used[:, FF] = FIXED_FFS + f.filters * bits
    moved = np.full(len(f), block.result_bytes)
    outside = f.buffer == MEMORIES.index("dram")
    for waiting in block.waiting:
        depth = ceil_div(waiting.words, f.filters)
        _remember(used, np.where(outside, 512, depth), f.filters * bits, f.buffer, written=np.ones(len(f), dtype=bool))
        moved += np.where(outside, 2 * waiting.of * bits / 8, 0.0)
    if layer.kind == "pool" or (layer.kind == "upsample" and layer.out_height > layer.in_height):
        rows = layer.kernel[0] if layer.kind == "pool" and layer.kernel[0] < layer.in_height else 1
        width = layer.in_width if rows > 1 or layer.kind == "upsample" else 1
        depth = ceil_div(rows * width * layer.in_channels, f.filters)
        _remember(used, depth, f.filters * bits, f.buffer, written=np.ones(len(f), dtype=bool))
    if layer.kind == "input":
        moved += layer.out_channels * layer.out_height * layer.out_width * bits / 8
    none = np.zeros(len(f), dtype=np.int64)
    return Costs(cycles, cycles, none, none, used, moved, none)


def _memory(depth: np.ndarray, width: np.ndarray | int, kind: np.ndarray) -> np.ndarray:
    """Resources of one writable memory, shape (n, 5): LUTs where it is shallow, else block or ultra RAM."""
    used = np.zeros((len(kind), len(RESOURCES)))
    _remember(used, depth, np.broadcast_to(width, depth.shape), kind, written=np.ones(len(kind), dtype=bool))
    return used


def _remember(used: np.ndarray, depth: np.ndarray, width: np.ndarray, kind: np.ndarray, written: np.ndarray) -> None:
    """Adds a memory to `used`; one in external memory needs a BRAM buffer of the depth given."""
    shallow = depth <= LUT_ROM_WORDS
    ultra = ~shallow & (kind == MEMORIES.index("uram"))
    used[:, LUT] += np.where(shallow, np.where(written, ram_luts(depth, width), rom_luts(depth, width)), 0)
    used[:, URAM] += np.where(ultra, uram(depth, width), 0)
    used[:, BRAM] += np.where(~shallow & ~ultra, bram18(depth, width), 0)


def _blocks(used: np.ndarray) -> np.ndarray:
    """One number to compare two memories by: a BRAM18 is worth about 100 LUTs on usual devices, a URAM 16 BRAM18."""
    return used[:, BRAM] + 16 * used[:, URAM] + used[:, LUT] / 100


def folded(stage: Stage, block: Block, folding: AnyFolding) -> Stage:
    """The stage of a block (`block.stages`) with what its folding says of beats and windows."""
    channels = block.layer.out_channels
    if isinstance(folding, ConvFolding):
        return replace(stage, groups=ceil_div(channels, folding.coarse_out * folding.coarse_group))
    groups = ceil_div(channels, folding.filters)
    if not block.computes:
        return replace(stage, groups=groups)
    return replace(stage, pixels=folding.pixels, groups=groups, yields=True)
